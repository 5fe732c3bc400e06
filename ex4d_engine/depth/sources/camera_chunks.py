# SPDX-License-Identifier: GPL-3.0-or-later
"""Chunks of a clip, each with a world and a scale of its own, brought into the world of the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]

_SURE: Final = 0.5
"""Share of an overlap's pixels, the most confident ones, that its scale rests on."""


@dataclass(frozen=True)
class Chunk:
    """S frames that were seen together, in the chunk's own world.

    inverse_z: (S, h, w), NaN where unknown. confidence: (S, h, w) in 0…1. camera_to_world: (S, 4, 4), OpenCV axes.
    fov: (S, 2) vertical and horizontal, radians.
    """

    inverse_z: Array
    confidence: Array
    camera_to_world: Matrix
    fov: Matrix


@dataclass(frozen=True)
class View:
    """One frame of a clip, in the clip's world; the parts are those of `Chunk`, without S."""

    inverse_z: Array
    confidence: Array
    camera_to_world: Matrix
    fov: Matrix


@dataclass(frozen=True)
class Similarity:
    """point ↦ scale · rotation · point + translation."""

    scale: float
    rotation: Matrix
    translation: Matrix


def chain(
    frames: Iterator[Image], predict: Callable[[list[Image], int], Chunk], window: int, overlap: int
) -> Iterator[View]:
    """Every frame's view in the first chunk's world.

    Args:
        predict: (at most `window` frames, the first one's place in the clip) → their chunk.
        window, overlap: frames of a chunk, and those it has in common with the last, in which it is faded in.
    """
    images: list[Image] = []
    first, fresh = 0, 0
    before: Chunk | None = None

    def next_chunk() -> Chunk:
        chunk = predict(images, first)
        return chunk if before is None else _joined(before, chunk, overlap)

    for image in frames:
        images.append(image)
        fresh += 1
        if len(images) == window:
            before = next_chunk()
            yield from _views(before, 0, window - overlap)
            images, fresh = images[window - overlap :], 0
            first += window - overlap
            before = _last(before, overlap)
    if fresh or before is None:
        if images:
            yield from _views(next_chunk(), 0, len(images))
    else:
        yield from _views(before, 0, overlap)


def find_similarity(reference: Chunk, chunk: Chunk) -> Similarity:
    """What moves a chunk onto a reference of the same frames.

    The scale is the median ratio of their depths where both are confident; the rotation the mean of the cameras'
    turns; the translation the mean of what is left between the cameras' positions.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.log(chunk.inverse_z) - np.log(reference.inverse_z)
    sure = np.minimum(reference.confidence, chunk.confidence)
    known = np.isfinite(ratio)
    if known.any():
        known &= sure >= np.quantile(sure[known], 1 - _SURE)
    scale = float(np.exp(np.median(ratio[known]))) if known.any() else 1.0
    here, there = chunk.camera_to_world, reference.camera_to_world
    rotation = _nearest_rotation((there[:, :3, :3] @ here[:, :3, :3].transpose(0, 2, 1)).sum(0))
    translation = (there[:, :3, 3] - scale * here[:, :3, 3] @ rotation.T).mean(0)
    return Similarity(scale, rotation, translation)


def moved(chunk: Chunk, by: Similarity) -> Chunk:
    """The chunk in the world that the similarity leads to."""
    poses = chunk.camera_to_world.copy()
    poses[:, :3, :3] = by.rotation @ poses[:, :3, :3]
    poses[:, :3, 3] = by.scale * poses[:, :3, 3] @ by.rotation.T + by.translation
    return Chunk(chunk.inverse_z / np.float32(by.scale), chunk.confidence, poses, chunk.fov)


def _joined(before: Chunk, chunk: Chunk, overlap: int) -> Chunk:
    """The chunk moved onto `before`, its first `overlap` frames faded from there."""
    chunk = moved(chunk, find_similarity(before, _first(chunk, overlap)))
    share = np.arange(1, overlap + 1) / (overlap + 1)
    old, new = before, _first(chunk, overlap)
    soft = share.astype(np.float32)[:, None, None]
    poses = (1 - share)[:, None, None] * old.camera_to_world + share[:, None, None] * new.camera_to_world
    poses[:, :3, :3] = [_nearest_rotation(rotation) for rotation in poses[:, :3, :3]]
    faded = Chunk(
        (1 - soft) * old.inverse_z + soft * new.inverse_z,
        (1 - soft) * old.confidence + soft * new.confidence,
        poses,
        (1 - share)[:, None] * old.fov + share[:, None] * new.fov,
    )
    return Chunk(
        np.concatenate([faded.inverse_z, chunk.inverse_z[overlap:]]),
        np.concatenate([faded.confidence, chunk.confidence[overlap:]]),
        np.concatenate([faded.camera_to_world, chunk.camera_to_world[overlap:]]),
        np.concatenate([faded.fov, chunk.fov[overlap:]]),
    )


def _nearest_rotation(matrix: Matrix) -> Matrix:
    u, _, v = np.linalg.svd(matrix)
    return u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))]) @ v


def _first(chunk: Chunk, count: int) -> Chunk:
    return _part(chunk, slice(0, count))


def _last(chunk: Chunk, count: int) -> Chunk:
    return _part(chunk, slice(len(chunk.fov) - count, len(chunk.fov)))


def _part(chunk: Chunk, part: slice) -> Chunk:
    return Chunk(chunk.inverse_z[part], chunk.confidence[part], chunk.camera_to_world[part], chunk.fov[part])


def _views(chunk: Chunk, first: int, end: int) -> Iterator[View]:
    for index in range(first, end):
        yield View(chunk.inverse_z[index], chunk.confidence[index], chunk.camera_to_world[index], chunk.fov[index])
