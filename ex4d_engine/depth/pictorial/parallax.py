# SPDX-License-Identifier: GPL-3.0-or-later
"""What the camera's own movement says about depth: near things shift more than far ones.

The flow between two close frames is linear in the camera's rotation and translation once depth is
given, and linear in inverse depth once the camera is given (Longuet-Higgins and Prazdny, 1980). A
guess of the depth therefore yields the camera, and the camera a measurement of the depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

_FOCAL_IN_LONG_SIDES = 1.0
"""Focal length assumed for the flow, in units of the frame's longer side: a field of view of 53°."""
_FLOW_NOISE = 0.15
"""Standard error of the flow, in pixels."""


@dataclass(frozen=True)
class Parallax:
    """A measurement of every pixel's inverse depth.

    inverse_z: (h, w), in the units of the guess.
    information: (h, w), 1 / variance of it: 0 where the camera did not move or something moved by itself.
    own: (h, w, 2), flow in pixels that camera and guess do not explain.
    """

    inverse_z: Array
    information: Array
    own: Array


def measure_parallax(flow: Array, inverse_z: Array) -> Parallax:
    """Inverse depth from flow (h, w, 2) in pixels and a guess of it (h, w)."""
    turn, shift = _motion_basis(flow.shape[0], flow.shape[1])
    camera = _camera_motion(flow, inverse_z)
    rotated = flow - turn @ camera[3:]
    along = (shift @ camera[:3]).astype(np.float32)
    strength = (along**2).sum(2)
    measured = (rotated * along).sum(2) / np.maximum(strength, 1e-6)
    # What does not lie along the epipolar line is no parallax.
    across = np.linalg.norm(rotated - measured[..., None] * along, axis=2)
    own = rotated - inverse_z[..., None] * along
    trust = 1 / (1 + (across / (3 * _FLOW_NOISE)) ** 2) ** 2
    return Parallax(
        measured.astype(np.float32), (trust * strength / _FLOW_NOISE**2).astype(np.float32), own.astype(np.float32)
    )


def _camera_motion(flow: Array, inverse_z: Array) -> npt.NDArray[np.float64]:
    """(6,) translation and rotation between the frames, from every pixel that agrees with most others."""
    turn, shift = _motion_basis(flow.shape[0], flow.shape[1])
    every = (slice(None, None, 3), slice(None, None, 3))
    basis = np.concatenate([shift[every] * inverse_z[every][..., None, None], turn[every]], axis=3).reshape(-1, 2, 6)
    target = flow[every].reshape(-1, 2).astype(np.float64)
    camera = np.zeros(6)
    spread = 2.0
    weight = np.ones(len(target))
    for _ in range(8):
        weighted = (basis * weight[:, None, None]).reshape(-1, 6)
        # A breath of regularisation: without parallax, translation is left at nothing.
        ridge = np.diag([1e2, 1e2, 1e2, 1e-3, 1e-3, 1e-3])
        camera = np.linalg.solve(weighted.T @ basis.reshape(-1, 6) + ridge, weighted.T @ target.ravel())
        residual = np.linalg.norm(target - basis @ camera, axis=1)
        spread = max(_FLOW_NOISE, min(spread, 1.5 * float(np.median(residual))))
        weight = 1 / (1 + (residual / spread) ** 2) ** 2
    return camera


@lru_cache(maxsize=2)
def _motion_basis(h: int, w: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Flow in pixels per unit of rotation (h, w, 2, 3), and of translation times inverse depth (h, w, 2, 3)."""
    focal = _FOCAL_IN_LONG_SIDES * max(h, w)
    y, x = np.mgrid[:h, :w]
    x, y = (x + 0.5 - w / 2) / focal, (y + 0.5 - h / 2) / focal
    one, zero = np.ones_like(x), np.zeros_like(x)
    turn = np.stack([np.stack([x * y, -(1 + x * x), y], -1), np.stack([1 + y * y, -x * y, -x], -1)], axis=2)
    shift = np.stack([np.stack([one, zero, -x], -1), np.stack([zero, one, -y], -1)], axis=2)
    return focal * turn, focal * shift
