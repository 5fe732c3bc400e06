# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of the Hugging Face hub, by huggingface_hub: which files a repository has, and a file's bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from .. import __version__
from ..errors import Ex4dError
from ..files import explain_os_error
from . import store
from .lock import inside
from .registry import Model

AGENT: Final = {"user-agent": f"ex4d/{__version__}"}  # instead of the library's, which lists what is installed
_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True)
class PublishedFile:
    """A file as the hub describes it. sha256 is None for a small one, which the hub knows by its git id."""

    path: str
    size: int
    sha256: str | None
    blob_id: str | None


def published(
    model: Model, choose: Callable[[Iterable[str]], list[str]], endpoint: str | None
) -> tuple[str, list[PublishedFile]]:
    """The commit of the model's repository, and those of its files that `choose` picks by their names.

    Raises:
        Ex4dError: `no_network` for an answer that is no hub's; else what `explained` makes of the library's errors.
    """
    from huggingface_hub import HfApi

    try:
        with explained(model):
            info = HfApi(endpoint=endpoint, headers=AGENT).model_info(
                model.repository, revision=model.revision, files_metadata=True, timeout=_TIMEOUT_S
            )
        siblings = {entry.rfilename: entry for entry in info.siblings or []}
        files = []
        for name in (inside(name) for name in choose(siblings)):
            entry = siblings[name]
            if entry.size is None:
                raise ValueError(f"no size of {name}")
            checksum = model.sha256.get(name) or (entry.lfs.sha256 if entry.lfs else None)
            files.append(PublishedFile(name, entry.size, checksum, None if entry.lfs else entry.blob_id))
    except (ValueError, KeyError, TypeError) as error:  # an answer that is no hub's: a login page, a broken mirror
        raise Ex4dError(
            "no_network",
            f"What should be the Hugging Face hub gave no list of {model.repository}'s files ({error}).",
            "Check the network, or HF_ENDPOINT if you set it.",
        ) from error
    return info.sha or model.revision, files


def fetch(
    model: Model,
    commit: str,
    file: PublishedFile,
    target: BinaryIO,
    endpoint: str | None,
    *,
    arrived: int = 0,
    counted: Callable[[int], object] = lambda count: None,
) -> None:
    """Writes a file's bytes to `target`, which holds the first `arrived` of them; what the library raises is raised.

    Args:
        model, commit, file: which.
        target: where to; its position is its end.
        endpoint: of the hub; HF_ENDPOINT or the public one if None.
        arrived: bytes that are asked for no more. A server that sends whole files nevertheless is believed.
        counted: told of the bytes kept and then of each piece that arrives, and may raise.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    class Counter:
        """What `http_get` takes for a progress bar; made once the answer tells how much of the file is kept."""

        def __init__(self, *, initial: int = 0, **_: Any) -> None:
            counted(initial)

        def __enter__(self) -> Counter:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: int) -> None:
            counted(count)

    http_get(
        hf_hub_url(model.repository, file.path, revision=commit, endpoint=endpoint),
        target,
        resume_size=arrived,
        headers=build_hf_headers(headers=AGENT),
        expected_size=file.size,
        displayed_filename=file.path,
        tqdm_class=Counter,
    )


# --- what can go wrong --------------------------------------------------------------------------------------------


@contextmanager
def explained(model: Model) -> Iterator[None]:
    """Turns what the hub's library raises into a sentence; `model` is what was asked for."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise offline_error(model) from error
    except errors.GatedRepoError as error:
        raise Ex4dError(
            "licence_not_accepted",
            f"The publisher of {model.title} asks you to accept its terms on the hub: {model.licence_url}.",
            "Accept them there, log in with `hf auth login` and download again.",
            action=f"licence:{model.name}",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise not_published(model, str(error).partition("\n")[0]) from error
    except errors.HfHubHTTPError as error:
        raise Ex4dError(
            "no_network",
            f"The Hugging Face hub refused {model.title} with status {error.response.status_code}.",
            "Try again later; what has arrived is kept.",
        ) from error
    except httpx2.TransportError as error:
        raise Ex4dError(
            "no_network",
            f"The Hugging Face hub could not be reached, or the connection broke ({type(error).__name__}).",
            "Check the network and run the download again: it goes on where it stopped.",
            action=f"models:{model.name}",
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise explain_os_error(error, store.download_folder(model.name)) from error
        raise Ex4dError(  # the library's own: another length than was announced
            "model_invalid", f"{model.title} did not arrive as it was announced.", "Run the download again."
        ) from error


def offline_error(model: Model) -> Ex4dError:
    """The error of a model that only the network could complete."""
    return Ex4dError(
        "no_network",
        f"{model.title} is not complete here and offline mode forbids to fetch it.",
        f"Leave offline mode, or register a copy with `ex4d models register {model.name} PATH`.",
        action=f"models:{model.name}",
    )


def not_published(model: Model, what: str) -> Ex4dError:
    """The error of a model whose repository, or `what` of it, is gone."""
    return Ex4dError(
        "model_missing",
        f"The hub has no {model.title} in {model.repository} any more ({what}).",
        f"Get it elsewhere and register it with `ex4d models register {model.name} PATH`.",
    )
