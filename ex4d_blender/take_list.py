# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of takes in the panel, as the shot folder has them; the folder is the truth, the list a view of it."""

from __future__ import annotations

from collections.abc import Iterator

import bpy

from ..ex4d_engine.errors import Ex4dError
from ..ex4d_engine.shot import load_shot
from ..ex4d_engine.take import Take, list_takes, load_take
from .compat import absolute_path


def refresh(scene: bpy.types.Scene, select: str = "") -> list[str]:
    """Fills `scene.ex4d.takes` from disk and selects a take; returns a sentence for each that cannot be read.

    A folder that holds no shot, or none that can be read, has no takes; whoever opens the shot says why.

    Args:
        select: name of the take to select; by default the one that was selected, else the newest.
    """
    settings = scene.ex4d
    rows = settings.takes
    before = rows[settings.active_take].name if 0 <= settings.active_take < len(rows) else ""
    rows.clear()
    problems: list[str] = []
    for take in _takes(settings.shot_folder, problems) if settings.shot_folder else ():
        row = rows.add()
        row.name, row.label, row.preset = take.name, take.label, take.preset
        row.frames, row.is_finished = len(take.frames), take.is_finished
    names = [row.name for row in rows]
    wanted = select or before
    settings.active_take = names.index(wanted) if wanted in names else max(len(names) - 1, 0)
    return problems


def _takes(folder: str, problems: list[str]) -> Iterator[Take]:
    try:
        shot = load_shot(absolute_path(folder))
    except Ex4dError:
        return
    for name in list_takes(shot):
        try:
            yield load_take(shot, name)
        except Ex4dError as error:
            problems.append(str(error))


@bpy.app.handlers.persistent
def refresh_after_load(_: object) -> None:
    """Takes that another Blender or the command line made since the file was saved appear when it opens."""
    for scene in bpy.data.scenes:
        refresh(scene)
