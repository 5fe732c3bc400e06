# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors a person can act on. Standard library only: part of the contract with the add-on.

Everything that can go wrong for a foreseeable reason is an `Ex4dError` with a stable code. The
command line prints `message` and `hint`; the pipe carries all four fields; Blender turns `action`
into a button. Any other exception that reaches the top is a bug of ours and is reported as one.
"""

from __future__ import annotations

from typing import Final

ERROR_CODES: Final[frozenset[str]] = frozenset(
    {
        # the plate
        "no_such_file",
        "no_video_stream",
        "unreadable_video",
        "no_frames",
        "unreadable_image",
        "missing_frame",
        "has_cuts",
        # depth and geometry
        "depth_mismatch",
        "depth_invalid",
        "unknown_depth_source",
        # cameras
        "camera_unsupported",
        "camera_invalid",
        "no_camera",
        # shot folder
        "shot_missing",
        "shot_newer",
        "shot_invalid",
        "take_missing",
        "take_incomplete",
        "shot_busy",
        "disk_full",
        "read_only",
        # machines and models
        "no_opengl",
        "missing_package",
        "model_missing",
        "model_invalid",
        "model_busy",
        "unknown_model",
        "licence_not_accepted",
        "no_network",
        "unknown_preset",
        "out_of_memory",
        # the pipe
        "bad_request",
        "engine_missing",
        "engine_died",
        "cancelled",
        "internal",
    }
)


class Ex4dError(Exception):
    """A failure with a sentence for a person.

    Args:
        code: one of `ERROR_CODES`; scripts and buttons depend on it.
        message: what happened, one sentence, with the name of the thing it happened to.
        hint: what to do about it, one sentence.
        action: name of an operator or command that does it; empty where there is none.
    """

    def __init__(self, code: str, message: str, hint: str = "", action: str = "") -> None:
        if code not in ERROR_CODES:
            raise ValueError(f"unknown error code {code!r}")
        # all four, as an exception that crosses to another process is made again from its args
        super().__init__(code, message, hint, action)
        self.code = code
        self.message = message
        self.hint = hint
        self.action = action

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class Cancelled(Ex4dError):
    """The user stopped the job; what was finished before stays on disk."""

    def __init__(self) -> None:
        super().__init__("cancelled", "The job was cancelled.", "Finished frames are kept; run it again to resume.")

    def __reduce__(self) -> tuple[type[Cancelled], tuple[()]]:
        return Cancelled, ()
