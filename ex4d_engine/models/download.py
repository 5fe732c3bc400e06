# SPDX-License-Identifier: GPL-3.0-or-later
"""Models fetched from the Hugging Face hub: resumed where they stopped, compared with the hub's own checksums.

huggingface_hub speaks to the hub. Its own downloads into a folder begin a file again after every interruption,
which is hours for the largest; so the part of a file that has arrived is kept here, and the rest is asked for.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .. import __version__
from ..errors import Ex4dError
from ..files import explain_os_error, prepare_folder
from ..progress import Reporter
from . import store
from .lock import ByteProgress, Lock, LockedFile, git_blob_id, inside, read_lock, sha256, write_lock
from .registry import Model, model_named
from .verify import verify

PARTIAL_NAME: Final = ".partial"
_TIMEOUT_S: Final = 20.0
_AGENT: Final = {"user-agent": f"ex4d/{__version__}"}  # instead of the library's, which lists what is installed


@dataclass(frozen=True)
class PublishedFile:
    """A file as the hub describes it. sha256 is None for a small one, which the hub knows by its git id."""

    path: str
    size: int
    sha256: str | None
    blob_id: str | None


def download(
    name: str,
    reporter: Reporter,
    *,
    accept_licence: bool = False,
    offline: bool = False,
    endpoint: str | None = None,
) -> Path:
    """The folder or file of a model, fetched if it is not here: missing files are fetched, cut ones resumed.

    Args:
        name: of the registry.
        reporter: told of the megabytes; its `check` is called between pieces of at most 10 MiB.
        accept_licence: the user has read and accepted the licence, where it restricts use.
        offline: fail instead of using the network, as with HF_HUB_OFFLINE=1.
        endpoint: of the hub; HF_ENDPOINT or the public one if None.

    Raises:
        Ex4dError: `unknown_model`; `licence_not_accepted`; `no_network`; `disk_full` or `read_only`; `model_missing`
            if the hub has no such files; `model_invalid` if one arrives damaged, which is then removed; `model_busy`;
            `cancelled`. What has arrived stays and is used by the next call.
    """
    model = model_named(name)
    folder = store.download_folder(name)
    if name in store.registrations() or _is_complete(folder):
        return store.find(name)
    if offline:
        raise _offline(model)
    reporter.log(f"{model.title}: licence {model.licence}, {model.licence_url}")
    if model.needs_acceptance and not accept_licence:
        raise Ex4dError(
            "licence_not_accepted",
            f"{model.title} may only be used under {model.licence}, which restricts its use: {model.licence_url}.",
            f"Read it and, if you agree, run `ex4d models download {name} --accept-licence`.",
            action=f"licence:{name}",
        )
    prepare_folder(folder / PARTIAL_NAME)
    with _alone(model, folder):
        _fetch_all(model, folder, endpoint, reporter)
    shutil.rmtree(folder / PARTIAL_NAME, ignore_errors=True)
    return store.find(name)


def repair(name: str, reporter: Reporter, *, offline: bool = False, endpoint: str | None = None) -> Path:
    """Checks every file of a downloaded model and fetches those that are damaged or missing, and only those.

    Raises:
        Ex4dError: as `download`; `model_invalid` if the damaged model is the user's own, which is left alone.
    """
    model = model_named(name)
    result = verify(name, reporter)
    if result.whole:
        return store.find(name)
    if name in store.registrations():
        raise Ex4dError(
            "model_invalid",
            f"{len((*result.damaged, *result.missing))} files of your own {model.title} in {result.path} are damaged.",
            f"Replace it, or run `ex4d models unregister {name}` and download the model.",
        )
    folder = store.download_folder(name)
    lock = read_lock(folder)
    if lock is not None:
        files = {file: entry for file, entry in lock.files.items() if file in result.intact}
        write_lock(folder, dataclasses.replace(lock, complete=False, files=files))
    for file in result.damaged:
        _remove(folder / file)
    # the licence was accepted when the model came here
    return download(name, reporter, accept_licence=True, offline=offline, endpoint=endpoint)


def _is_complete(folder: Path) -> bool:
    lock = read_lock(folder)
    return lock is not None and lock.complete and not store.unlike_lock(folder, lock)


def _fetch_all(model: Model, folder: Path, endpoint: str | None, reporter: Reporter) -> None:
    with _explained(model):
        commit, published = _published(model, endpoint)
    before = read_lock(folder)
    here = {file.path: entry for file in published if (entry := _kept(folder, file, before, reporter)) is not None}
    lock = Lock(model.name, model.repository, commit, files=here)
    missing = [file for file in published if file.path not in here]
    prepare_folder(folder, sum(file.size - min(_arrived(folder, file), file.size) for file in missing))

    write_lock(folder, lock)
    progress = ByteProgress(
        reporter, "download", sum(file.size for file in published), sum(entry.size for entry in here.values())
    )
    for file in missing:
        reporter.check()
        with _explained(model):
            _fetch(model, commit, file, folder, endpoint, progress)
        entry = _checked(model, file, folder, reporter)
        lock = dataclasses.replace(lock, files={**lock.files, file.path: entry})
        write_lock(folder, lock)
    write_lock(folder, dataclasses.replace(lock, complete=True))


def _published(model: Model, endpoint: str | None) -> tuple[str, list[PublishedFile]]:
    """The commit of the model's repository and its files, as the hub describes them."""
    from huggingface_hub import HfApi

    try:
        info = HfApi(endpoint=endpoint, headers=_AGENT).model_info(
            model.repository, revision=model.revision, files_metadata=True, timeout=_TIMEOUT_S
        )
        siblings = {entry.rfilename: entry for entry in info.siblings or []}
        names = [inside(name) for name in model.selected(siblings)]
        files = []
        for name in names:
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
    lacking = [pattern for pattern in model.files if model.kind != "folder" and pattern not in names]
    if lacking or not files:
        raise _not_published(model, ", ".join(lacking or model.files))
    return info.sha or model.revision, files


def _kept(folder: Path, file: PublishedFile, before: Lock | None, reporter: Reporter) -> LockedFile | None:
    """The entry of a file that is here already; one that no lock vouches for is read and compared."""
    path = folder / file.path
    if not path.is_file() or path.stat().st_size != file.size:
        return None
    entry = before.files.get(file.path) if before is not None else None
    if entry is not None and entry.size == file.size and file.sha256 == entry.sha256:
        return entry
    if not _is_published(path, file, checksum := sha256(path, lambda count: reporter.check())):
        return None
    return LockedFile(file.size, checksum)


def _is_published(path: Path, file: PublishedFile, checksum: str) -> bool:
    if file.sha256 is not None:
        return checksum == file.sha256
    return file.blob_id is None or git_blob_id(path) == file.blob_id


# --- one file -----------------------------------------------------------------------------------------------------


def _partial(folder: Path, file: PublishedFile) -> Path:
    """Where the part that has arrived is kept: named by content, so that another version does not continue it."""
    return folder / PARTIAL_NAME / f"{(file.sha256 or file.blob_id or 'file')[:16]}-{Path(file.path).name}"


def _arrived(folder: Path, file: PublishedFile) -> int:
    path = _partial(folder, file)
    return path.stat().st_size if path.is_file() else 0


def _fetch(
    model: Model, commit: str, file: PublishedFile, folder: Path, endpoint: str | None, progress: ByteProgress
) -> None:
    """Completes the partial file."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    class Counter:
        """What `http_get` takes for a progress bar; made once the answer tells how much of the file is kept."""

        def __init__(self, *, initial: int = 0, **_: Any) -> None:
            progress.add(initial)

        def __enter__(self) -> Counter:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: int) -> None:
            progress.add(count)

    path = _partial(folder, file)
    arrived = _arrived(folder, file)
    if arrived > file.size:
        path.unlink()
        arrived = 0
    if arrived == file.size:  # nothing is asked for, an empty file neither
        path.touch()
        progress.add(file.size)
        return
    with path.open("ab") as target:
        http_get(
            hf_hub_url(model.repository, file.path, revision=commit, endpoint=endpoint),
            target,
            resume_size=arrived,
            headers=build_hf_headers(headers=_AGENT),
            expected_size=file.size,
            displayed_filename=file.path,
            tqdm_class=Counter,
        )


def _checked(model: Model, file: PublishedFile, folder: Path, reporter: Reporter) -> LockedFile:
    """Moves a file that has arrived to its place, if it is what was published."""
    partial, target = _partial(folder, file), folder / file.path
    checksum = sha256(partial, lambda count: reporter.check())
    if partial.stat().st_size != file.size or not _is_published(partial, file, checksum):
        _remove(partial)
        raise Ex4dError(
            "model_invalid",
            f"{file.path} of {model.title} arrived damaged: its checksum is not the published one.",
            "Run the download again; only this file and those after it are fetched.",
            action=f"models:{model.name}",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(target)
    except OSError as error:
        raise explain_os_error(error, target) from error
    return LockedFile(file.size, checksum)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise explain_os_error(error, path) from error


# --- what can go wrong --------------------------------------------------------------------------------------------


@contextmanager
def _alone(model: Model, folder: Path) -> Iterator[None]:
    """Holds the right to write into a model's folder; the system takes it from a process that ends."""
    import filelock

    lock = filelock.FileLock(folder / PARTIAL_NAME / "lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise Ex4dError(
            "model_busy", f"Another program is downloading {model.title}.", "Wait until it has finished."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _explained(model: Model) -> Iterator[None]:
    """Turns what the hub's library raises into a sentence."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise _offline(model) from error
    except errors.GatedRepoError as error:
        raise Ex4dError(
            "licence_not_accepted",
            f"The publisher of {model.title} asks you to accept its terms on the hub: {model.licence_url}.",
            "Accept them there, log in with `hf auth login` and download again.",
            action=f"licence:{model.name}",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise _not_published(model, str(error).partition("\n")[0]) from error
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


def _offline(model: Model) -> Ex4dError:
    return Ex4dError(
        "no_network",
        f"{model.title} is not complete here and offline mode forbids to fetch it.",
        f"Leave offline mode, or register a copy with `ex4d models register {model.name} PATH`.",
        action=f"models:{model.name}",
    )


def _not_published(model: Model, what: str) -> Ex4dError:
    return Ex4dError(
        "model_missing",
        f"The hub has no {model.title} in {model.repository} any more ({what}).",
        f"Get it elsewhere and register it with `ex4d models register {model.name} PATH`.",
    )
