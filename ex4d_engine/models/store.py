# SPDX-License-Identifier: GPL-3.0-or-later
"""Which models are on this machine: those downloaded, and folders or files of the user's own that stand for one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .. import json_fields
from ..errors import Ex4dError
from ..files import explain_os_error, write_bytes
from ..places import cache_folder, models_folder
from ..progress import Reporter, Silent
from .lock import ByteProgress, Lock, read_lock, sha256
from .registry import MODELS, Model, model_named

REGISTERED_NAME: Final = "registered.json"
CHECKSUMS_NAME: Final = "checksums.json"
_SCHEMA: Final = 1
_MOST_NANOSECONDS: Final = 2**63


@dataclass(frozen=True)
class Installed:
    """A model that is here. registered: `path` is the user's own folder or file, not downloaded by us."""

    model: Model
    path: Path
    registered: bool


# --- finding ------------------------------------------------------------------------------------------------------


def download_folder(name: str) -> Path:
    """Where the model `name` is downloaded to."""
    return models_folder() / model_named(name).name


def find(name: str) -> Path:
    """The folder of a model, or its file where it is a single one.

    Sizes are compared with the lock; the contents are not read, see `verify.verify`.

    Raises:
        Ex4dError: `unknown_model`; `model_missing` if it is not here; `model_invalid` if files of it are gone or cut.
    """
    model = model_named(name)
    own = registrations().get(name)
    if own is not None:
        if not own.exists():
            raise Ex4dError(
                "model_missing",
                f"{model.title} is registered at {own}, where nothing is now.",
                f"Bring it back, or forget it with `ex4d models unregister {name}`.",
                action=f"models:{name}",
            )
        return own
    folder = download_folder(name)
    lock = read_lock(folder)
    if lock is None or not lock.complete:
        state = "not installed" if lock is None else "not downloaded completely"
        raise Ex4dError(
            "model_missing",
            f"{model.title} is {state}.",
            f"Get it with `ex4d models download {name}` (about {gigabytes(model.size_bytes)}).",
            action=f"models:{name}",
        )
    if flawed := unlike_lock(folder, lock):
        raise Ex4dError(
            "model_invalid",
            f"{model.title} in {folder} lacks or cuts short {len(flawed)} of its files, {flawed[0]} first.",
            f"Fetch them again with `ex4d models download {name}`.",
            action=f"models:{name}",
        )
    return folder / model.single_file if model.single_file else folder


def installed() -> list[Installed]:
    """The models that are here and complete, in the registry's order."""
    own = registrations()
    found = []
    for name, model in MODELS.items():
        try:
            found.append(Installed(model, find(name), name in own))
        except Ex4dError as error:
            if error.code not in {"model_missing", "model_invalid"}:
                raise
    return found


def unlike_lock(folder: Path, lock: Lock) -> list[str]:
    """The files of `lock` that are missing from `folder` or of another size."""
    return sorted(path for path, entry in lock.files.items() if _size(folder / path) != entry.size)


def gigabytes(count: int) -> str:
    """A size for people, in the decimal units that disks and downloads are sold in."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


# --- the user's own -----------------------------------------------------------------------------------------------


def register(name: str, path: Path) -> Path:
    """Uses the folder or file `path` as the model `name`, instead of a download; nothing is copied.

    Raises:
        Ex4dError: `unknown_model`; `model_missing` or `model_invalid` if `path` cannot be that model.
    """
    model = model_named(name)
    path = path.expanduser().absolute()
    if model.kind == "folder":
        from ..diffusion.loading import check_model_folder

        check_model_folder(path)
    elif model.kind == "depth":
        _check_depth_files(model, path)
    else:
        _check_weight_file(model, path)
    _write_registrations({**registrations(), name: path})
    return path


def unregister(name: str) -> bool:
    """Forgets the user's own folder or file of a model, which stays where it is. Returns whether there was one."""
    known = registrations()
    if known.pop(model_named(name).name, None) is None:
        return False
    _write_registrations(known)
    return True


def registrations() -> dict[str, Path]:
    """The user's own folders and files by model name; models this version does not know are left out.

    Raises:
        Ex4dError: `model_invalid` if the list of them is damaged.
    """
    path = models_folder() / REGISTERED_NAME
    try:
        entries = json_fields.mapping(_document(path).get("models", {}), "models")
        return {name: Path(json_fields.as_text(value, name)) for name, value in entries.items() if name in MODELS}
    except ValueError as error:
        raise Ex4dError(
            "model_invalid",
            f"The list of registered models {path} could not be read: {error}.",
            "Delete this file and register your models again.",
        ) from error


def _write_registrations(models: Mapping[str, Path]) -> None:
    folder = models_folder()
    _make(folder)
    document = {"schema": _SCHEMA, "models": {name: str(path) for name, path in models.items()}}
    write_bytes(folder / REGISTERED_NAME, json_fields.to_json(document, indent=1))


def _check_depth_files(model: Model, path: Path) -> None:
    """Raises unless `path` has the files of a depth model; that they hold its tensors is seen when it is loaded."""
    if model.single_file:
        _tensor_names(path)
        return
    missing = [file for file in model.files if not (path / file).is_file()]
    if missing:
        raise Ex4dError(
            "model_missing" if len(missing) == len(model.files) else "model_invalid",
            f"{path} is not {model.title}: it has no {', '.join(missing)}.",
            "Choose the folder that holds it, as it is published.",
        )


def _check_weight_file(model: Model, path: Path) -> None:
    """Raises unless `path` is a readable weight file that names what the model consists of."""
    names = _tensor_names(path)
    parts = ("lora_",) if model.kind == "lora" else ("lora_", "latent_encoder.", "latent_patch_embedding.")
    missing = [part for part in parts if not any(part in name for name in names)]
    if missing:
        raise Ex4dError(
            "model_invalid",
            f"{path} is not {model.title}: it has no tensor named like {', '.join(missing)}.",
            "Choose the file that holds it.",
        )


def _tensor_names(path: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    from ..diffusion.tensor_files import read_tensors

    try:
        with safe_open(path, framework="np") as file:  # checks the header and the file's length, reads no tensor
            return list(file.keys())
    except (SafetensorError, OSError):
        return list(read_tensors(path))  # a torch file, which is mapped and not read; or its error says what is wrong


# --- checksums ----------------------------------------------------------------------------------------------------


def checksums(name: str, reporter: Reporter | None = None, place: Path | None = None) -> dict[str, str]:
    """SHA-256 of every file of a model, by path relative to its folder: what a take records.

    The model is the installed one, or the one at `place`.

    From the download's lock, else computed once and remembered as long as a file's size and time stay.

    Raises:
        Ex4dError: as `find`; `cancelled`.
    """
    model, path = model_named(name), place or find(name)
    lock = read_lock(download_folder(name)) if place is None and name not in registrations() else None
    if lock is not None:
        return {file: entry.sha256 for file, entry in sorted(lock.files.items())}
    return file_checksums(model_files(model, path), reporter or Silent())


def file_checksums(files: Mapping[str, Path], reporter: Reporter) -> dict[str, str]:
    """SHA-256 of each file by the same name, remembered as long as its size and time stay.

    Raises:
        Ex4dError: `cancelled`.
    """
    progress = ByteProgress(reporter, "check files", sum(file.stat().st_size for file in files.values()))
    remembered = _remembered()
    result = {name: _checksum(place, remembered, progress) for name, place in files.items()}
    _remember(remembered)
    return result


def model_files(model: Model, path: Path) -> dict[str, Path]:
    """The files of a model that lies at `path`, by name relative to its folder, with `/`."""
    if path.is_file():
        return {path.name: path}
    inside = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    return {name: inside[name] for name in model.selected(inside)}


def _checksum(path: Path, remembered: dict[str, Any], progress: ByteProgress) -> str:
    status = path.stat()
    stamp = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    known = remembered.get(str(path))
    if known is not None and {key: known[key] for key in stamp} == stamp:
        progress.add(status.st_size)
        return str(known["sha256"])
    remembered[str(path)] = {**stamp, "sha256": sha256(path, progress.add)}
    return str(remembered[str(path)]["sha256"])


def _remembered() -> dict[str, Any]:
    """What was computed before, by absolute path; a damaged list is as good as none, since it can be made again."""
    try:
        entries = json_fields.mapping(_document(cache_folder() / CHECKSUMS_NAME).get("files", {}), "files")
        for path, entry in entries.items():
            json_fields.integer(json_fields.mapping(entry, path), "size", 0, _MOST_NANOSECONDS)
            json_fields.integer(entry, "mtime_ns", 0, _MOST_NANOSECONDS)
            json_fields.text(entry, "sha256")
    except ValueError:
        return {}
    return entries


def _remember(files: Mapping[str, Any]) -> None:
    _make(cache_folder())
    write_bytes(cache_folder() / CHECKSUMS_NAME, json_fields.to_json({"schema": _SCHEMA, "files": dict(files)}))


def _document(path: Path) -> dict[str, Any]:
    """The JSON object in a file of ours; empty without the file. Raises ValueError if it is damaged or newer."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise explain_os_error(error, path) from error
    document = json_fields.mapping(json_fields.parse_json(data), "the document")
    if json_fields.integer(document, "schema", 1) > _SCHEMA:
        raise ValueError("it was written by a newer version")
    return document


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, folder) from error
