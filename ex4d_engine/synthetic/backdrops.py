# SPDX-License-Identifier: GPL-3.0-or-later
"""What fills the view behind a close-up: a wall, woods, lamps at night. Nothing of the ground need be in sight."""

from __future__ import annotations

from typing import Final

import torch

from .builder import SceneBuilder
from .materials import family
from .motion import about, along
from .plants import drifting, unit
from .primitives import CutOut, Kind
from .settings import Backdrop, Plan

SCREENS: Final = 36
STEMS: Final = 10
POINTS: Final = 48
NEAREST: Final = (1.0, 1.5, 3.0, 5.0)  # subject distances at which a backdrop stands at least, by `Backdrop`
FARTHEST: Final = (2.0, 12.0, 45.0, 60.0)
DOWN: Final = torch.tensor([0.0, 1.0, 0.0])


def add_backdrop(b: SceneBuilder, plan: Plan) -> None:
    """Adds the backdrop of every scene that has one, square to the view of the plan's camera, and what hangs there."""
    draw = b.draw
    near, far = (torch.tensor(ends)[plan.backdrop] for ends in (NEAREST, FARTHEST))
    away = (plan.subject[:, 2] * draw.log_uniform((b.batch,), near, far))[:, None]
    frame = _view_frame(plan)
    _surface(b, plan, frame, away)
    _foliage(b, plan, frame, away)
    _stems(b, plan, frame, away)
    _points_of_light(b, plan, frame, away)


def _view_frame(plan: Plan) -> torch.Tensor:
    """(B, 3, 3): the axes of a level camera that looks at the subject, as columns."""
    forward = unit(plan.subject - plan.eye())
    right = unit(torch.linalg.cross(DOWN.expand_as(forward), forward))
    return torch.stack([right, torch.linalg.cross(forward, right), forward], -1)


def _in_view(b: SceneBuilder, plan: Plan, frame: torch.Tensor, away: torch.Tensor, spread: float) -> torch.Tensor:
    """(B, n, 3) points at distances `away` (B, n) before the camera, strewn over the picture and around it."""
    shape = away.shape
    across, up = (b.draw.uniform(shape, -spread, spread) * plan.fov[:, None] for _ in range(2))
    local = torch.stack([torch.tan(across) * away, torch.tan(up) * away, away], -1)
    return plan.eye()[:, None] + (frame[:, None] @ local[..., None])[..., 0]


def _surface(b: SceneBuilder, plan: Plan, frame: torch.Tensor, away: torch.Tensor) -> None:
    """A flat wall, or a bowl that closes the view to all sides."""
    draw, one = b.draw, (b.batch, 1)
    wall = (plan.backdrop == Backdrop.WALL)[:, None]
    woods = (plan.backdrop == Backdrop.WOODS)[:, None]
    built = b.material(
        one,
        family("plaster", "plaster", "plaster", "paint", "brick", "wood", "fabric", "stone", "poster"),
        away * plan.fov[:, None] * draw.log_uniform(one, 0.3, 3.0),
    )
    grown = b.material(one, family("foliage", "foliage", "turf", "soil", "autumn", "bark"), away * plan.fov[:, None])
    night = b.material(one, family("bark", "hair", "stone"), away * plan.fov[:, None])
    side = away * torch.where(wall, 4.0, 1.6)
    # a bowl's rim comes forward to a quarter of the distance
    bend = torch.where(wall, 0.0, -0.3) / away
    askew = about(DOWN.expand(*one, 3), torch.where(wall, draw.normal(one, 0.35).clamp(-0.8, 0.8), 0.0))
    b.shape(
        Kind.CARD, torch.stack([side, side, away], -1), torch.where(wall, built, torch.where(woods, grown, night)),
        # woods let the sky through now and then
        (plan.backdrop != Backdrop.NONE)[:, None] & (~woods | draw.coin(one, 0.8)),
        centre=plan.eye()[:, None] + frame[:, None, :, 2] * away[..., None], rotation=frame[:, None] @ askew,
        form=(bend, bend),
    )  # fmt: skip


def _foliage(b: SceneBuilder, plan: Plan, frame: torch.Tensor, away: torch.Tensor) -> None:
    """Masses of leaves between the subject and the woods' edge, from clumps as large as the picture to single tufts."""
    draw, many = b.draw, (b.batch, SCREENS)
    there = (plan.backdrop == Backdrop.WOODS)[:, None] & (
        torch.arange(SCREENS) < draw.log_uniform((b.batch, 1), 3, SCREENS + 1)
    )
    low = torch.maximum(away * 0.25, plan.subject[:, 2:] * 1.5)
    distance = draw.log_uniform(many, low, torch.maximum(away * 0.95, low * 1.3))
    size = distance * plan.fov[:, None] * draw.log_uniform(many, 0.08, 0.6)
    cells = draw.log_uniform(many, 2.5, 16.0)
    group = torch.arange(SCREENS) % 5
    material = b.material(
        (b.batch, 5), family("foliage", "foliage", "foliage", "turf", "autumn", "bark"), size[:, :5]
    )[:, group]  # fmt: skip
    turn = along(-DOWN + draw.normal((*many, 3), 0.35), draw.normal(many, 0.6))
    b.shape(
        Kind.SCREEN, torch.stack([size * draw.uniform(many, 0.6, 1.5), size, size], -1), material, there,
        body=drifting(b, plan, (b.batch, 5), low * 0.05)[:, group],
        centre=_in_view(b, plan, frame, distance, 0.65), rotation=frame[:, None] @ turn,
        form=(draw.normal(many, 0.25) / size, draw.normal(many, 0.25) / size, 0.5, float(CutOut.FOLIAGE), cells, cells,
              draw.uniform((b.batch, 1), 0.7, 2.6), draw.uniform(many, 0, 9)),
    )  # fmt: skip


def _stems(b: SceneBuilder, plan: Plan, frame: torch.Tensor, away: torch.Tensor) -> None:
    """Trunks, reeds and twigs that cross the whole height of the picture far behind."""
    draw, many = b.draw, (b.batch, STEMS)
    there = (plan.backdrop == Backdrop.WOODS)[:, None] & (torch.arange(STEMS) < draw.uniform((b.batch, 1), 0, STEMS))
    low = torch.maximum(away * 0.2, plan.subject[:, 2:] * 1.3)
    distance = draw.log_uniform(many, low, torch.maximum(away * 0.9, low * 1.3))
    thick = distance * plan.fov[:, None] * draw.log_uniform((b.batch, 1), 0.004, 0.05) * draw.uniform(many, 0.5, 1.5)
    lean = -DOWN + draw.normal((*many, 3), 1.0) * draw.log_uniform((b.batch, 1, 1), 0.03, 0.5)
    b.shape(
        Kind.LIMB, torch.stack([thick, distance * plan.fov[:, None] * 1.5, thick * draw.uniform(many, 0.5, 1.0)], -1),
        b.material((b.batch, 1), family("bark", "foliage", "autumn"), thick[:, :1] * 6), there,
        centre=_in_view(b, plan, frame, distance, 0.6), rotation=along(lean, torch.zeros(many)), form=(0.2,),
    )  # fmt: skip


def _points_of_light(b: SceneBuilder, plan: Plan, frame: torch.Tensor, away: torch.Tensor) -> None:
    """Lamps in the dark; in woods, the sun on wet leaves. Out of focus each becomes a disc."""
    draw, many = b.draw, (b.batch, POINTS)
    lamps = (plan.backdrop == Backdrop.LAMPS)[:, None]
    glints = (plan.backdrop == Backdrop.WOODS)[:, None] & draw.coin((b.batch, 1), 0.3)
    there = (lamps | glints) & (torch.arange(POINTS) < draw.log_uniform((b.batch, 1), 8, POINTS * 2))
    low = torch.maximum(away * 0.3, plan.subject[:, 2:] * 1.5)
    distance = draw.log_uniform(many, low, torch.maximum(away * 0.9, low * 1.3))
    size = distance * plan.fov[:, None] * draw.log_uniform(many, 0.0015, 0.008) * torch.where(lamps, 1.0, 0.5)
    kinds = b.material((b.batch, 4), family("lamp"), 1.0)[:, torch.arange(POINTS) % 4]
    b.shape(
        Kind.ELLIPSOID, size[..., None].expand(*many, 3), kinds, there,
        centre=_in_view(b, plan, frame, distance, 0.6),
    )  # fmt: skip
