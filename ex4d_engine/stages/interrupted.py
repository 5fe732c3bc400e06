# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes that a killed or cancelled run began: the same command goes on in them instead of beginning another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..dwmesh.walls import CLOSED
from ..errors import Ex4dError
from ..shot import Shot
from ..take import Take, list_takes, load_take, new_take, walls_for
from ..trajectories import Trajectory


def interrupted_take(shot: Shot, **record: Any) -> Take | None:
    """The newest take without a result whose record says all of `record`."""
    for take in _takes_without_result(shot):
        if all(take.record.get(name) == value for name, value in record.items()):
            return take
    return None


def take_along(
    shot: Shot,
    path: Trajectory,
    label: str,
    generation: dict[str, Any] | None = None,
    *,
    wall_share: float = CLOSED,
) -> Take:
    """The take that an interrupted run began along this very path, else a new one.

    Args:
        generation: what the take's result is to be made with; None when only conditioning is wanted, which a
            take that has it already is not begun for.
        wall_share: as for `new_take`.
    """
    plate = shot.require_plate()
    for take in _takes_without_result(shot):
        same = (
            take.frames == path.frames
            and (take.width, take.height, take.fps) == (*path.size, path.fps)
            and (take.first, take.label, take.wall_share) == (plate.first, label, walls_for(shot, wall_share))
        )
        begun = not take.conditioning if generation is None else take.conditioning != "blender"
        if same and begun and take.record.get("generation", generation) == generation:
            return take
    return new_take(shot, path.frames, path.size, first=plate.first, fps=path.fps, label=label, wall_share=wall_share)


def _takes_without_result(shot: Shot) -> Iterator[Take]:
    for name in reversed(list_takes(shot)):
        try:
            take = load_take(shot, name)
        except Ex4dError:  # one that cannot be read is none to go on with
            continue
        if not take.preset:
            yield take
