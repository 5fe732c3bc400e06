# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder of clips as windows to train on. One that cannot be used is left out and named, never an end of the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from .. import json_fields
from ..errors import Ex4dError
from ..files import write_bytes
from ..image_sequence import IMAGE_SUFFIXES, find_sequence
from ..models.lock import sha256
from ..progress import Reporter
from ..video import probe, read_frames

Frames = npt.NDArray[np.uint8]

MOVIE_SUFFIXES: Final = (
    ".mp4",
    ".mov",
    ".mkv",
    ".avi",
    ".webm",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".mxf",
    ".gif",
)
INDEX_NAME: Final = "clips.json"
_INDEX_EVERY: Final = 50  # clips between two writings of the index

CLIP_PROBLEMS: Final = frozenset(
    {
        "no_such_file",
        "no_video_stream",
        "unreadable_video",
        "unreadable_image",
        "no_frames",
        "missing_frame",
        "bad_request",
        "read_only",
        "depth_invalid",
        "depth_mismatch",
    }
)
"""Error codes that say something about one clip, so that the others can still be used."""


@dataclass(frozen=True)
class Clip:
    """A movie, or a folder that holds one image sequence.

    digest: SHA-256 of its content. frame_count: as `video.probe` counts.
    """

    path: Path
    digest: str
    frame_count: int


@dataclass(frozen=True)
class Window:
    """`wanted` frames of a clip from the `first` on (0 is the clip's first), the last repeated where it ends before."""

    clip: Clip
    first: int
    wanted: int

    @property
    def is_padded(self) -> bool:
        return self.first + self.wanted > self.clip.frame_count


@dataclass
class Skips:
    """What was left out of the training, and why. too_short: clips with fewer frames than a window."""

    problems: list[tuple[str, str]] = field(default_factory=list)
    too_short: list[str] = field(default_factory=list)

    @contextmanager
    def leaving_out(self, name: str) -> Iterator[None]:
        """What goes wrong with one clip inside is noted; anything else is raised."""
        try:
            yield
        except Ex4dError as error:
            if error.code not in CLIP_PROBLEMS:
                raise
            self.problems.append((name, error.message))

    def report(self) -> list[str]:
        """Lines for the end of a run; none where nothing was left out."""
        lines = []
        if self.too_short:
            lines.append(f"Clips that are shorter than a window and were left out: {len(self.too_short)}")
            lines += [f"  {name}" for name in self.too_short]
        if self.problems:
            lines.append(f"Clips, or windows of them, that could not be used and were left out: {len(self.problems)}")
            lines += [f"  {name}: {message}" for name, message in self.problems]
        return lines


def clip_paths(folder: Path) -> list[Path]:
    """Movies below `folder`, and sub-folders (or `folder` itself) that hold images, sorted.

    Raises:
        Ex4dError: `no_such_file`.
    """
    if not folder.is_dir():
        raise Ex4dError("no_such_file", f"There is no folder {folder}.", "Correct data.clips.")
    files = [path for path in folder.rglob("*") if not path.name.startswith(".") and path.is_file()]
    movies = {path for path in files if path.suffix.lower() in MOVIE_SUFFIXES}
    return sorted(movies | {path.parent for path in files if path.suffix.lower() in IMAGE_SUFFIXES})


def clip_name(path: Path, folder: Path) -> str:
    """What messages call a clip of `folder`: its way from there, or the folder's own name if it is the clip."""
    return folder.name if path == folder else path.relative_to(folder).as_posix()


def list_clips(folder: Path, cache: Path, skips: Skips, reporter: Reporter) -> list[Clip]:
    """The clips of `folder` by name. What was found out of each is remembered in `cache` while its files stay the same.

    Raises:
        Ex4dError: `no_such_file`; `no_frames` if there is no usable clip; `cancelled`.
    """
    paths = clip_paths(folder)
    index_file = cache / INDEX_NAME
    known = _read_index(index_file)
    clips: list[Clip] = []
    fresh = 0
    for done, path in enumerate(paths):
        reporter.check()
        reporter.progress("list clips", done, len(paths))
        name = clip_name(path, folder)
        with skips.leaving_out(name):
            files = _files(path)
            stamp = _stamp(files)
            entry = known.get(str(path))
            if entry is None or entry["stamp"] != stamp:
                info = probe(path)
                entry = {"stamp": stamp, "digest": _digest(files, reporter), "frames": info.frame_count or 0}
                known[str(path)] = entry
                fresh += 1
                if fresh % _INDEX_EVERY == 0:
                    write_bytes(index_file, json_fields.to_json(known))
            clips.append(Clip(path, entry["digest"], entry["frames"]))
    if fresh:
        write_bytes(index_file, json_fields.to_json(known))
    reporter.progress("list clips", len(paths), len(paths))
    if not clips:
        raise Ex4dError(
            "no_frames",
            f"None of the {len(paths)} movies and image folders in {folder} can be read."
            if paths
            else f"There are no movies and no images in {folder}.",
            "Name a folder of clips with data.clips.",
        )
    return clips


def windows(clips: list[Clip], frames: int, per_clip: int, keep_short: bool, skips: Skips) -> list[Window]:
    """Up to `per_clip` windows of each clip, evenly spread over it; more only where they need not overlap."""
    found = []
    for clip in clips:
        spare = clip.frame_count - frames
        if spare < 0 and not keep_short:
            skips.too_short.append(clip.path.name)
            continue
        count = max(1, min(per_clip, clip.frame_count // frames))
        starts = [0] if count == 1 else [round(spare * index / (count - 1)) for index in range(count)]
        found += [Window(clip, start, frames) for start in starts]
    return found


def read_window(window: Window, height: int, width: int, reporter: Reporter) -> Frames:
    """(F, H, W, 3) uint8: the window's frames, scaled to cover the size and cut at the middle.

    Raises:
        Ex4dError: what reading the clip raises; `unreadable_video` if decoding meets damage; `no_frames` if it gives
            none.
    """
    path, held = window.clip.path, min(window.wanted, window.clip.frame_count - window.first)
    first = probe(path).first_number + window.first
    reading = read_frames(path, first=first, last=first + held - 1, reporter=OnlyCancel(reporter))
    frames = [covering(frame.image, height, width) for frame in reading]
    if reading.notes:  # a frame that stands still for those that are lost would be learned
        raise Ex4dError("unreadable_video", f"{path} is damaged: {' '.join(reading.notes)}", "Export the clip again.")
    if not frames:
        raise Ex4dError("no_frames", f"{path} gave no frames.", "Check the file.")
    frames += [frames[-1]] * (window.wanted - len(frames))
    return np.stack(frames)


def covering(image: Frames, height: int, width: int) -> Frames:
    """(height, width, 3): `image` scaled so that it covers that size, the rest cut off on both sides alike."""
    scale = max(height / image.shape[0], width / image.shape[1])
    rows, columns = max(height, round(image.shape[0] * scale)), max(width, round(image.shape[1] * scale))
    if (rows, columns) != image.shape[:2]:
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        image = np.asarray(cv2.resize(image, (columns, rows), interpolation=method), dtype=np.uint8)
    top, left = (rows - height) // 2, (columns - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def caption(path: Path) -> str | None:
    """The text in the `.txt` file of a clip's name beside it, if there is one."""
    file = path.with_name(f"{path.name if path.is_dir() else path.stem}.txt")
    if not file.is_file():
        return None
    text = " ".join(file.read_text(encoding="utf-8", errors="replace").split())
    return text or None


class OnlyCancel:
    """Passes on a cancel and drops the rest: what is said of one clip would drown a run over thousands."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def check(self) -> None:
        self._reporter.check()

    def progress(self, stage: str, done: int, total: int) -> None:
        pass

    def log(self, message: str) -> None:
        pass

    def preview(self, path: Path) -> None:
        pass


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    sequence = find_sequence(path)
    assert sequence is not None
    return [sequence.file(number) for number in sequence.numbers]


def _stamp(files: list[Path]) -> list[int]:
    states = [file.stat() for file in files]
    return [len(states), sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)]


def _digest(files: list[Path], reporter: Reporter) -> str:
    digests = [sha256(file, lambda _: reporter.check()) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode("ascii")).hexdigest()


def _read_index(path: Path) -> dict[str, Any]:
    """What is known of clips by path; a damaged index is as good as none, since it can be made again."""
    try:
        entries = json_fields.mapping(json_fields.parse_json(path.read_bytes()), "clips")
        for name, entry in entries.items():
            json_fields.text(json_fields.mapping(entry, name), "digest")
            json_fields.integer(entry, "frames", 0)
            if not isinstance(entry.get("stamp"), list):
                raise ValueError("stamp is no list")
    except (OSError, ValueError, json.JSONDecodeError):
        return {}
    return entries
