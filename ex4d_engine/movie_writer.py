# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames into a movie file: H.264 to look at, FFV1 to keep every bit; exact rate, exact size, atomic."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

from .errors import Ex4dError
from .files import atomic_path

_QUALITY: Final = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


class MovieWriter:
    """Writes (H, W, 3) uint8 sRGB frames; the file appears under its name when the block ends well, else not at all.

        with MovieWriter(path, Fraction(24000, 1001), 1920, 1080) as movie:
            movie.write(image)

    Args:
        path: `.mp4`, `.mov` or `.mkv` for h264, `.mkv` for ffv1.
        fps: exact rate, kept as a fraction.
        width, height: any size from 1 up. H.264 with halved chroma (yuv420p, which every player shows) has even sizes
            only, so an odd size is written with full chroma (yuv444p, High 4:4:4 profile): Blender and FFmpeg read
            it, some browsers and televisions do not. The size is never padded: a strip must lie on its plate.
        codec: `h264`: BT.709 matrix, limited range, tagged as such, within 2 of 255 of the frame where colour is
            smooth. `ffv1`: lossless RGB (bgr0), every frame a key frame.
        crf: quality of h264, 0 (lossless but for chroma) to 51; 14 is visually lossless.

    Raises:
        Ex4dError: `disk_full`, `read_only`, or `no_frames` if nothing was written.
    """

    def __init__(
        self,
        path: Path | str,
        fps: Fraction,
        width: int,
        height: int,
        *,
        codec: Literal["h264", "ffv1"] = "h264",
        crf: int = 14,
    ) -> None:
        self.path = Path(path)
        allowed = {"h264": (".mp4", ".mov", ".mkv"), "ffv1": (".mkv",)}[codec]
        if self.path.suffix.lower() not in allowed:
            raise ValueError(f"{codec} goes into {', '.join(allowed)}, not {self.path.name}")
        self.fps, self.width, self.height, self.codec, self.crf = Fraction(fps), width, height, codec, crf
        self.frames_written = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            faststart = {} if self.path.suffix.lower() == ".mkv" else {"movflags": "+faststart"}
            self._container = stack.enter_context(av.open(str(temporary), "w", options=faststart))
            if self.codec == "h264":
                even = self.width % 2 == 0 and self.height % 2 == 0
                self._format = "yuv420p" if even else "yuv444p"
                options = {"crf": str(self.crf), "preset": "medium"}
                stream = self._container.add_stream("libx264", rate=self.fps, options=options)
            else:
                self._format = "bgr0"
                options = {"level": "3", "slicecrc": "1", "g": "1"}
                stream = self._container.add_stream("ffv1", rate=self.fps, options=options)
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, self._format
            stream.codec_context.time_base = 1 / self.fps
            if self.codec == "h264":
                stream.codec_context.colorspace = Colorspace.ITU709
                stream.codec_context.color_range = ColorRange.MPEG
                stream.codec_context.color_primaries = ColorPrimaries.BT709
                stream.codec_context.color_trc = ColorTrc.BT709
            self._stream = stream
            self._stack = stack.pop_all()
        return self

    def write(self, image: np.ndarray) -> None:
        """Appends one frame, (height, width, 3) uint8 sRGB."""
        if image.shape != (self.height, self.width, 3) or image.dtype != np.uint8:
            raise ValueError(f"frame is ({self.height}, {self.width}, 3) uint8, not {image.shape} {image.dtype}")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        if self.codec == "h264":
            frame = frame.reformat(
                format=self._format,
                interpolation=_QUALITY,
                dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
            )
        else:
            frame = frame.reformat(format=self._format)
        frame.pts, frame.time_base = self.frames_written, 1 / self.fps
        self._container.mux(self._stream.encode(frame))
        self.frames_written += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            if self.frames_written == 0:
                raise Ex4dError("no_frames", f"No frame was written to {self.path}.", "Choose a range with frames.")
            self._container.mux(self._stream.encode(None))
