# SPDX-License-Identifier: GPL-3.0-or-later
"""Random camera paths of the family that the presets are of: what a user may ask of a shot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import Ex4dError
from ..trajectories import MAX_ORBIT_DEG, ease, orbit, preset

Span = tuple[float, float]
MOVES: Final = ("orbit", "dolly", "truck", "crane")


@dataclass(frozen=True)
class PathSettings:
    """Ranges that a path is drawn from, evenly within each.

    Attributes:
        moves: weights of orbit, dolly, truck and crane.
        orbit_deg: how far an orbit turns at its end; left and right are as likely.
        pitch_deg: its rise at its end, negative is down.
        radius: the distance from the pivot at an orbit's end, as a share of that at its start.
        shift: how far the other moves go, as a share of the pivot's depth; both directions are as likely, except that
            a crane only rises: most clips have a ground not far below the camera.
        pivot_quantile: the pivot's depth is this quantile of the depths in the middle of the first frame; a shot's
            own default, the subject's depth, is at 0.25.
        arrival: the share of the clip after which the move has reached its end and holds: its speed.
        smooth: the chance of a slow start and end.
    """

    moves: tuple[float, float, float, float] = (0.7, 0.1, 0.1, 0.1)
    orbit_deg: Span = (5.0, 90.0)
    pitch_deg: Span = (-10.0, 25.0)
    radius: Span = (0.8, 1.25)
    shift: Span = (0.05, 0.5)
    pivot_quantile: Span = (0.1, 0.5)
    arrival: Span = (0.6, 1.0)
    smooth: float = 0.5

    def __post_init__(self) -> None:
        if len(self.moves) != len(MOVES) or min(self.moves) < 0 or not 0 < sum(self.moves) < math.inf:
            raise _refused("moves", self.moves, "four weights that are not negative and not all zero")
        for name, least, most in (
            ("orbit_deg", 0.0, MAX_ORBIT_DEG),
            ("pitch_deg", -80.0, 80.0),
            ("radius", 0.05, 20.0),
            ("shift", 0.0, 0.95),  # a dolly further on would pass its pivot
            ("pivot_quantile", 0.0, 1.0),
            ("arrival", 0.01, 1.0),
        ):
            span = getattr(self, name)
            if len(span) != 2 or not least <= span[0] <= span[1] <= most:
                raise _refused(name, span, f"two rising numbers from {least:g} to {most:g}")
        if not 0 <= self.smooth <= 1:
            raise _refused("smooth", self.smooth, "a chance from 0 to 1")


def random_path(
    draw: np.random.Generator, count: int, first_depth: NDArray[np.float32], settings: PathSettings
) -> NDArray[np.float64]:
    """Draws a path that starts at the source view.

    Args:
        first_depth: (H,W) float32 z of the first frame, positive and finite: it says where the pivot is.

    Returns:
        Poses (count,4,4) relative to the source camera; the first is the identity.

    Raises:
        Ex4dError: `camera_invalid` for fewer frames than one.
    """
    # everything is drawn, used or not: what one setting changes then changes nothing else
    move = MOVES[int(draw.choice(len(MOVES), p=np.array(settings.moves) / sum(settings.moves)))]
    height, width = first_depth.shape
    middle = first_depth[height // 4 : height - height // 4, width // 4 : width - width // 4]
    pivot_z = float(np.quantile(middle, draw.uniform(*settings.pivot_quantile)))
    sign = 1.0 if draw.random() < 0.5 else -1.0
    degrees, pitch = draw.uniform(*settings.orbit_deg), draw.uniform(*settings.pitch_deg)
    radius, shift = draw.uniform(*settings.radius), draw.uniform(*settings.shift)
    arrival, smooth = draw.uniform(*settings.arrival), bool(draw.random() < settings.smooth)
    moving = max(1, math.ceil(arrival * (count - 1))) + 1
    shares = np.ones(max(count, moving))
    shares[:moving] = ease(moving, smooth)
    poses = np.tile(np.eye(4), (count, 1, 1))
    for index, share in enumerate(shares[:count]):
        if move == "orbit":
            poses[index] = orbit(2, sign * degrees * share, pivot_z, pitch_deg=pitch * share, smooth=False)[-1]
            poses[index] = poses[index] @ _ahead((1 - radius) * share * pivot_z)
        else:
            amount = shift if move == "crane" else sign * shift
            poses[index] = preset(move, amount * share, 2, pivot_z, smooth=False)[-1]
    return poses


def turned_deg(poses: NDArray[np.float64]) -> NDArray[np.float64]:
    """(F,) the angle in degrees between each pose's line of sight and the source's, for poses relative to it."""
    return np.degrees(np.arccos(np.clip(poses[:, 2, 2], -1.0, 1.0)))


def _ahead(distance: float) -> NDArray[np.float64]:
    pose = np.eye(4)
    pose[2, 3] = distance
    return pose


def _refused(name: str, value: object, wanted: str) -> Ex4dError:
    return Ex4dError("bad_request", f"A path's {name} cannot be {value}.", f"Give {wanted}.")
