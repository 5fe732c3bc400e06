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
from pathlib import Path
from typing import Final

from ..errors import Ex4dError
from ..files import explain_os_error, prepare_folder
from ..progress import Reporter
from . import store
from .hub import PublishedFile, explained, fetch, not_published, offline_error, published
from .licence import Agree, require_acceptance
from .lock import ByteProgress, Lock, LockedFile, git_blob_id, read_lock, sha256, write_lock
from .registry import Model, model_named
from .verify import verify

PARTIAL_NAME: Final = ".partial"


def download(
    name: str,
    reporter: Reporter,
    *,
    accept_licence: bool = False,
    agree: Agree | None = None,
    offline: bool = False,
    endpoint: str | None = None,
) -> Path:
    """The folder or file of a model, fetched if it is not here: missing files are fetched, cut ones resumed.

    Args:
        name: of the registry.
        reporter: told of the megabytes; its `check` is called between pieces of at most 10 MiB.
        accept_licence: the user has read and accepted the licence, where it restricts use. Its text is shown
            nevertheless, and kept beside the model.
        agree: asks the user, who has been shown the text, where nobody has accepted it yet; None asks nobody.
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
        raise offline_error(model)
    reporter.log(f"{model.title}: licence {model.licence}, {model.licence_url}")
    if model.needs_acceptance:
        require_acceptance(model, folder, agree if not accept_licence else lambda _: True, endpoint, reporter)
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
    commit, files = published(model, model.selected, endpoint)
    names = {file.path for file in files}
    lacking = [pattern for pattern in model.files if model.kind != "folder" and pattern not in names]
    if lacking or not files:
        raise not_published(model, ", ".join(lacking or model.files))
    before = read_lock(folder)
    here = {file.path: entry for file in files if (entry := _kept(folder, file, before, reporter)) is not None}
    lock = Lock(model.name, model.repository, commit, files=here)
    missing = [file for file in files if file.path not in here]
    prepare_folder(folder, sum(file.size - min(_arrived(folder, file), file.size) for file in missing))

    write_lock(folder, lock)
    progress = ByteProgress(
        reporter, "download", sum(file.size for file in files), sum(entry.size for entry in here.values())
    )
    for file in missing:
        reporter.check()
        with explained(model):
            _fetch(model, commit, file, folder, endpoint, progress)
        entry = _checked(model, file, folder, reporter)
        lock = dataclasses.replace(lock, files={**lock.files, file.path: entry})
        write_lock(folder, lock)
    write_lock(folder, dataclasses.replace(lock, complete=True))


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
        fetch(model, commit, file, target, endpoint, arrived=arrived, counted=progress.add)


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
