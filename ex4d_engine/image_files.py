# SPDX-License-Identifier: GPL-3.0-or-later
"""Single image files: PNG and EXR in and out, in RGB order, lossless and atomic.

Depth is written as one float32 channel called `Y`, ZIP compressed. Blender 4.2, 4.5 and 5.0 read that to the bit, as
a grey image with the value in R, G and B (tests/blender/test_depth_exr.py). A lone `Z`, the custom elsewhere, comes
out of Blender's image loader as uninitialised memory, and `depth.Z` as a multilayer image, which no image texture can
show. `read_exr` finds them all.

Paths never reach OpenCV: its own readers and writers fail on non-ASCII names on Windows.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import OpenEXR

from .errors import Ex4dError
from .files import write_bytes

# Where a file holds several channels, the first of these that is there is its depth.
DEPTH_CHANNELS: Final[tuple[str, ...]] = ("Z", "depth.Z", "depth.V", "depth", "Depth")
# Without any, the only channel of a renderer's layer so called: Blender's `ViewLayer.Depth.Z`, others' `zDepth.R`.
_DEPTH_LAYERS: Final[tuple[str, ...]] = ("depth", "zdepth", "z depth", "z_depth", "worlddepth", "z")
_SINGLE: Final[tuple[str, ...]] = ("Z", "V", "Y", "R")


def read_png(path: Path | str) -> np.ndarray:
    """(H, W), (H, W, 3) or (H, W, 4), uint8 or uint16, RGB order, straight alpha.

    Raises:
        Ex4dError: `no_such_file`; `unreadable_image` if it is no whole PNG.
    """
    path = Path(path)
    return decode_image(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """The file's content. Raises Ex4dError `no_such_file` where there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise Ex4dError("no_such_file", f"There is no file {path}.", "Check the path.") from error


def decode_image(encoded: bytes, path: Path) -> np.ndarray:
    """An image file in memory (PNG, JPEG, TIFF, whatever OpenCV reads) as an array in RGB order.

    `path` is only for the message. Grey stays (H, W); the bit depth stays. A JPEG's EXIF rotation is applied.
    """
    # Colour flags drop alpha, "unchanged" drops the EXIF rotation: alpha never comes with JPEG.
    jpeg = encoded.startswith(b"\xff\xd8")
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH if jpeg else cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags) if encoded else None
    except cv2.error:
        image = None
    if image is None:
        raise Ex4dError("unreadable_image", f"{path} is not a readable image.", "Write the file again.")
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return np.asarray(image)


def write_png(path: Path | str, image: np.ndarray, *, compression: int = 1) -> None:
    """Writes a PNG atomically.

    Args:
        path: the file, in a folder that is there.
        image: (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA with straight alpha; uint8 or uint16.
        compression: zlib level, 0 to 9. Level 1 is twenty times faster than 9 for a fifth more bytes.
    """
    if image.dtype not in (np.uint8, np.uint16) or not (
        image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
    ):
        raise ValueError(f"a PNG is (H, W[, 3 or 4]) uint8 or uint16, not {image.shape} {image.dtype}")
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(image), [cv2.IMWRITE_PNG_COMPRESSION, compression])
    write_bytes(Path(path), encoded.tobytes())


def read_exr(path: Path | str, channel: str | None = None) -> np.ndarray:
    """One channel of an EXR file, (H, W) float32, cut or zero-padded to the display window.

    Args:
        path: the file, scanline or tiled, one part or many; any lossless or lossy compression, half, float or uint.
        channel: its full name, such as `depth.Z`. None takes the only channel, else the first of `DEPTH_CHANNELS`,
            else that of the only layer called depth (Blender's `ViewLayer.Depth.Z`; two view layers are not
            guessed between), else the only one whose name ends in `.Z` or `.V`, else a grey one.

    Raises:
        Ex4dError: `no_such_file`; `unreadable_image` if it is no whole EXR or holds no such channel.
    """
    path = Path(path)
    channels = _read_channels(path)
    name = channel if channel is not None else _depth_channel(channels)
    if name is None or name not in channels:
        wanted = f"channel {channel}" if channel is not None else "channel that could be depth"
        raise Ex4dError("unreadable_image", f"{path} has no {wanted}.", f"It holds {', '.join(sorted(channels))}.")
    return channels[name]


def read_exr_rgb(path: Path | str) -> np.ndarray:
    """The colour of an EXR file, (H, W, 3) float32, linear light; a single grey channel is spread over the three."""
    return read_exr_rgba(path)[0]


def read_exr_rgba(path: Path | str) -> tuple[np.ndarray, np.ndarray | None]:
    """Colour and alpha of an EXR file.

    Returns:
        colour: (H, W, 3) float32, linear light, as stored: premultiplied where there is alpha.
        alpha: (H, W) float32, or None where the file has none.

    The layer without a name is taken; a file that has none (Blender's multilayer) gives its first layer in R, G, B.
    """
    path = Path(path)
    channels = _read_channels(path)
    prefixes = [name[:-1] for name in sorted(channels, key=lambda name: (name.count("."), name)) if name[-1:] == "R"]
    for prefix in prefixes:
        if prefix + "G" in channels and prefix + "B" in channels:
            colour = np.stack([channels[prefix + letter] for letter in "RGB"], axis=-1)
            return colour, channels.get(prefix + "A")
    grey = next((name for name in ("Y", "V", "R") if name in channels), None)
    if grey is None:
        raise Ex4dError("unreadable_image", f"{path} has no colour.", f"It holds {', '.join(sorted(channels))}.")
    return np.repeat(channels[grey][..., None], 3, axis=-1), channels.get("A")


def write_exr_depth(path: Path | str, depth: np.ndarray) -> None:
    """Writes (H, W) float32 depth as channel `Y`, lossless and atomic: 512 x 512 takes about 15 ms and 0.8 MB."""
    if depth.ndim != 2 or depth.dtype != np.float32:
        raise ValueError(f"depth is (H, W) float32, not {depth.shape} {depth.dtype}")
    _write_channels(Path(path), {"Y": depth})


def write_exr_layers(path: Path | str, layers: Mapping[str, np.ndarray]) -> None:
    """Writes layers of one size into one EXR file, as Nuke and Blender read them, lossless and atomic.

    Args:
        path: the file.
        layers: by name, (H, W), (H, W, 3) or (H, W, 4) each, float32 or float16 (kept). `RGB` or `RGBA` is the layer
            without a name, `R G B A`; any other colour `name` becomes `name.R` and so on; a grey `depth` becomes
            `depth.Z`, any other grey `name` becomes `name.Y`. By EXR's custom colour is linear and premultiplied.
    """
    channels: dict[str, np.ndarray] = {}
    for name, image in layers.items():
        if image.dtype not in (np.float32, np.float16) or image.shape[2:] not in ((), (3,), (4,)):
            raise ValueError(f"layer {name!r} is (H, W[, 3 or 4]) float32 or float16, not {image.shape} {image.dtype}")
        if image.ndim == 2:
            channels[f"{name}.Z" if name == "depth" else f"{name}.Y"] = image
            continue
        prefix = "" if name in ("RGB", "RGBA") else f"{name}."
        channels |= {prefix + letter: image[..., index] for index, letter in enumerate("RGBA"[: image.shape[2]])}
    if len({image.shape for image in channels.values()}) != 1:
        raise ValueError("layers of one EXR file have one size")
    _write_channels(Path(path), channels)


def _write_channels(path: Path, channels: Mapping[str, np.ndarray]) -> None:
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    pixels = {name: OpenEXR.Channel(np.ascontiguousarray(image)) for name, image in channels.items()}
    # Through memory: OpenEXR's own file writing says nothing when the disk is full.
    encoded = io.BytesIO()
    with OpenEXR.File(header, pixels) as file:
        file.write(encoded)
    write_bytes(path, encoded.getvalue())


def _read_channels(path: Path) -> dict[str, np.ndarray]:
    """Every channel of every part, by full name, (H, W) float32 in the first part's display window."""
    if not path.is_file():
        raise Ex4dError("no_such_file", f"There is no file {path}.", "Check the path.")
    channels: dict[str, np.ndarray] = {}
    try:
        with OpenEXR.File(str(path), separate_channels=True) as file:
            for part in file.parts:
                # Parts may repeat channel names and then tell them apart by the part's name (OpenEXR's multi-view way).
                name_of_part = part.header.get("name", "")
                for name, channel in part.channels.items():
                    full = f"{name_of_part}.{name}" if name in channels else name
                    channels[full] = _in_display_window(channel.pixels, part.header)
    except (RuntimeError, ValueError, TypeError) as error:
        raise Ex4dError(
            "unreadable_image", f"{path} is not a whole EXR file of flat images.", "Write it again, without deep data."
        ) from error
    if not channels:  # OpenEXR leaves out a part whose pixels are cut off, and says so on stderr only
        raise Ex4dError("unreadable_image", f"{path} is cut off or empty.", "Write the file again.")
    return channels


def _in_display_window(pixels: np.ndarray, header: Mapping[str, Any]) -> np.ndarray:
    """Data window to display window: crops overscan, fills with 0 what was not rendered. (H, W) float32."""
    (left, top), _ = header["dataWindow"]
    (display_left, display_top), (display_right, display_bottom) = header["displayWindow"]
    shape = (int(display_bottom - display_top) + 1, int(display_right - display_left) + 1)
    y, x = int(top - display_top), int(left - display_left)
    if (y, x) == (0, 0) and pixels.shape == shape:
        return pixels.astype(np.float32, copy=False)
    image = np.zeros(shape, np.float32)
    inside = pixels[max(-y, 0) : max(shape[0] - y, 0), max(-x, 0) : max(shape[1] - x, 0)]
    image[max(y, 0) : max(y, 0) + inside.shape[0], max(x, 0) : max(x, 0) + inside.shape[1]] = inside
    return image


def _depth_channel(channels: Mapping[str, np.ndarray]) -> str | None:
    if len(channels) == 1:
        return next(iter(channels))
    for name in DEPTH_CHANNELS:
        if name in channels:
            return name
    layers: dict[str, str] = {}
    for letter in _SINGLE:  # a layer's depth may be written three times, as R, G and B
        for name in channels:
            layer, _, last = name.rpartition(".")
            if last == letter and layer.rpartition(".")[2].lower() in _DEPTH_LAYERS:
                layers.setdefault(layer, name)
    if layers:
        return next(iter(layers.values())) if len(layers) == 1 else None
    endings = [name for name in channels if name.endswith((".Z", ".V"))]
    if len(endings) == 1:
        return endings[0]
    return next((name for name in ("V", "Y", "R") if name in channels), None)
