# SPDX-License-Identifier: GPL-3.0-or-later
"""One decoded movie frame made a picture: upright, square pixels, 8-bit sRGB, alpha apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, Interpolation

_QUALITY: Final = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_UNSPECIFIED: Final = 2  # AVCOL_SPC_UNSPECIFIED
_HDR: Final = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG", ColorTrc.LINEAR: "linear"}
_WIDE: Final = {
    ColorPrimaries.BT2020: "BT.2020",
    ColorPrimaries.SMPTE431: "DCI-P3",
    ColorPrimaries.SMPTE432: "Display P3",
}


@dataclass(frozen=True)
class PictureLayout:
    """What it takes to convert the frames of one stream.

    square: (width, height) with square pixels, before rotation.
    matrix: (a, b, c, d), each -1, 0 or 1, that takes stored to displayed coordinates: x' = a x + c y, y' = b x + d y.
    colorspace: matrix to decode YUV with where the stream is not tagged, else None.
    """

    square: tuple[int, int]
    matrix: tuple[int, int, int, int]
    colorspace: Colorspace | None
    has_alpha: bool
    bit_depth: int

    @property
    def displayed(self) -> tuple[int, int]:
        """(width, height) after rotation."""
        return self.square if self.matrix[0] else (self.square[1], self.square[0])


def layout_of(stream: Any, frame: Any) -> PictureLayout:
    """The layout of a stream, from its tags and its first decoded frame, where codecs keep what containers lack."""
    return PictureLayout(
        square=_square_size(stream, frame),
        matrix=_display_matrix(frame),
        colorspace=_untagged_colorspace(frame),
        has_alpha=any(component.is_alpha for component in frame.format.components),
        bit_depth=max(component.bits for component in frame.format.components),
    )


def convert(frame: Any, layout: PictureLayout) -> tuple[np.ndarray, np.ndarray | None]:
    """A decoded frame as (H, W, 3) uint8 sRGB and (H, W) uint8 alpha, or None where the stream has none.

    swscale takes range and matrix from the frame's own tags; those it lacks come from the layout.
    """
    picture = frame.reformat(
        width=layout.square[0],
        height=layout.square[1],
        format="rgba" if layout.has_alpha else "rgb24",
        src_colorspace=layout.colorspace,
        interpolation=_QUALITY,
    ).to_ndarray()
    a, b, c, d = layout.matrix
    if a:
        turned = picture[::d, ::a]
    else:
        turned = picture.transpose(1, 0, 2)[::b, ::c]
    alpha = np.ascontiguousarray(turned[..., 3]) if layout.has_alpha else None
    return np.ascontiguousarray(turned[..., :3]), alpha


def picture_notes(stream: Any, frame: Any, layout: PictureLayout) -> list[str]:
    """Sentences about everything in the pictures that is changed, assumed or left as it is."""
    notes = []
    if layout.matrix != (1, 0, 0, 1):
        notes.append("The clip is stored turned or mirrored: it is shown upright.")
    if layout.square[0] != frame.width:
        notes.append(f"Pixels are {stream.sample_aspect_ratio} as wide as high: the width is resampled to square ones.")
    if frame.interlaced_frame:
        notes.append("The clip is interlaced: its fields are left as they are; deinterlace it for a good result.")
    if layout.bit_depth > 8:
        notes.append("The clip has more than 8 bits a channel: it is read as 8.")
    if frame.color_trc in _HDR:
        notes.append(f"The clip is {_HDR[frame.color_trc]} encoded and not tone mapped: convert it to Rec.709 first.")
    if frame.color_primaries in _WIDE:
        notes.append(f"The clip's primaries are {_WIDE[frame.color_primaries]}: they are taken for Rec.709.")
    if layout.colorspace is not None and "gray" not in frame.format.name:
        standard = "709" if layout.colorspace == Colorspace.ITU709 else "601"
        notes.append(f"The clip names no colour matrix: BT.{standard} is assumed.")
    if layout.has_alpha:
        notes.append("Alpha is taken as straight.")
    return notes


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """The rotation and mirror flags of a clip, to the nearest quarter turn (ISO/IEC 14496-12, tkhd; y downwards)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
    if abs(a) >= abs(b):
        return (-1 if a < 0 else 1), 0, 0, (-1 if d < 0 else 1)
    return 0, (-1 if b < 0 else 1), (-1 if c < 0 else 1), 0


def _square_size(stream: Any, frame: Any) -> tuple[int, int]:
    """Width and height with square pixels: the width gives way, as in every player."""
    ratio = stream.sample_aspect_ratio
    return (max(round(frame.width * ratio), 1) if ratio else frame.width), frame.height


def _is_rgb(frame: Any) -> bool:
    return bool(frame.format.is_rgb) or "pal8" in frame.format.name


def _untagged_colorspace(frame: Any) -> Colorspace | None:
    """What players assume of YUV that does not say: BT.709 for high definition, BT.601 below."""
    if _is_rgb(frame) or frame.colorspace != _UNSPECIFIED:
        return None
    return Colorspace.ITU709 if frame.width >= 1280 or frame.height >= 720 else Colorspace.ITU601
