# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds of places a clip may be taken in, and the plan of one scene: where its camera stands, what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import torch

from .draw import Draw

Span = tuple[float, float]


class Backdrop(IntEnum):
    """What closes the view behind the subject."""

    NONE = 0
    WALL = 1
    WOODS = 2
    LAMPS = 3  # points of light in the dark: a street or a party at night


@dataclass(frozen=True)
class Setting:
    """Ranges for one kind of place. Lengths in metres, counts as numbers of things.

    Where `level` is set, the eye's height counts from the subject's, in distances from it: a close-up is framed
    around its subject, whatever the ground does.
    """

    weight: float
    eye_height: Span
    subject_distance: Span
    subject_height: Span
    fov_deg: Span
    near: float  # nothing stands closer than this share of the subject's distance
    far: Span
    level: bool = False
    indoor: float = 0.0
    ground: float = 1.0
    backdrop: tuple[float, float, float, float] = (1, 0, 0, 0)  # weights, in the order of `Backdrop`
    table: float = 0.0
    people: Span = (0, 0)
    subject_person: float = 0.0
    subject_animal: float = 0.0
    subject_hand: float = 0.0
    branches: Span = (0, 0)
    trees: Span = (0, 0)
    bushes: Span = (0, 0)
    flowers: Span = (0, 0)
    grass: float = 0.0
    houses: Span = (0, 0)
    furniture: Span = (0, 0)
    vehicles: Span = (0, 0)
    poles: Span = (0, 0)
    clutter: Span = (0, 0)
    clutter_size: Span = (0.1, 0.5)
    leaves: float = 0.0
    hills: float = 0.0
    defocus: Span = (0.0, 0.2)
    fog: float = 0.1


SETTINGS: Final[dict[str, Setting]] = {
    "street": Setting(1.3, (1.0, 2.4), (4, 14), (0.6, 1.8), (40, 88), 0.35, (30, 90), people=(0, 5), trees=(0, 4),
                      houses=(4, 12), vehicles=(0, 4), poles=(0, 7), clutter=(0, 10), clutter_size=(0.15, 0.8),
                      hills=0.2),
    "nature": Setting(1.3, (0.4, 2.2), (2.5, 15), (0.2, 2.5), (30, 85), 0.3, (25, 120), people=(0, 1.5), trees=(1, 7),
                      bushes=(1, 6), flowers=(0, 8), grass=0.8, clutter=(0, 6), clutter_size=(0.1, 1.0), hills=0.7,
                      fog=0.25),
    "room": Setting(1.4, (0.8, 1.8), (1.5, 4.5), (0.4, 1.4), (45, 90), 0.35, (3, 7), indoor=1, people=(0, 2.5),
                    bushes=(0, 1.5), furniture=(2, 8), clutter=(4, 16), clutter_size=(0.06, 0.4), fog=0),
    "tabletop": Setting(0.9, (0.15, 0.7), (0.35, 1.1), (0.02, 0.15), (25, 65), 0.5, (1.0, 4), indoor=0.85, table=1,
                        flowers=(0, 4), clutter=(6, 20), clutter_size=(0.02, 0.12), defocus=(0.1, 0.8), fog=0),
    "portrait outdoors": Setting(1.1, (1.2, 1.75), (0.7, 2.6), (1.2, 1.6), (22, 60), 0.75, (15, 60), people=(1, 3),
                                 subject_person=1, trees=(0, 5), bushes=(0, 4), houses=(0, 7), grass=0.3, poles=(0, 3),
                                 clutter=(0, 5), clutter_size=(0.1, 0.5), hills=0.3, defocus=(0.2, 1.0)),
    "portrait indoors": Setting(0.9, (1.1, 1.75), (0.6, 2.2), (1.2, 1.6), (25, 65), 0.75, (2.5, 6), indoor=1,
    people=(1, 2.5),
                                subject_person=1, furniture=(1, 5), clutter=(2, 10), clutter_size=(0.06, 0.4),
                                defocus=(0.1, 0.9), fog=0),
    "macro": Setting(0.9, (0.1, 0.6), (0.18, 0.7), (0.1, 0.5), (20, 55), 0.5, (3, 30), flowers=(3, 14), grass=0.6,
                     trees=(0, 3), bushes=(1, 6), leaves=0.7, ground=0.9, backdrop=(2, 0.2, 1, 0), clutter=(0, 3),
                     clutter_size=(0.02, 0.08), defocus=(0.4, 1.6), hills=0.3),
    "flower": Setting(1.6, (-0.25, 0.5), (0.25, 1.0), (0.5, 1.3), (13, 42), 0.5, (3, 40), level=True, ground=0.1,
                      backdrop=(0.4, 0.4, 2.6, 0.3), flowers=(1, 12), leaves=0.45, bushes=(0, 2), branches=(0, 1.5),
                      defocus=(0.6, 2.6), fog=0.15),
    "branch": Setting(0.9, (-0.7, 0.25), (0.35, 2.0), (1.0, 2.2), (13, 42), 0.5, (4, 60), level=True, ground=0.1,
                      backdrop=(1, 0.4, 1.4, 0.3), branches=(1, 6), leaves=0.3, trees=(0, 2),
                      defocus=(0.4, 2.4), fog=0.2),
    "bust": Setting(1.5, (-0.12, 0.15), (0.75, 2.2), (1.4, 1.62), (12, 36), 0.8, (4, 50), level=True, indoor=0.4,
                    ground=0.5, backdrop=(1.0, 0.8, 1.2, 0.9), people=(1, 2.5), subject_person=1, furniture=(0, 4),
                    trees=(0, 2), houses=(0, 4), branches=(0, 1), clutter=(0, 6), clutter_size=(0.06, 0.4),
                    defocus=(0.5, 2.5)),
    "animal": Setting(0.9, (-0.1, 0.5), (0.5, 2.4), (0.12, 0.7), (15, 46), 0.7, (4, 40), level=True, indoor=0.25,
                      ground=0.55, backdrop=(0.8, 0.5, 1.4, 0.1), subject_animal=1, branches=(0, 1), grass=0.5,
                      furniture=(0, 3), bushes=(0, 3), leaves=0.15, defocus=(0.4, 2.4)),
    "hand": Setting(0.8, (-0.1, 0.9), (0.3, 0.9), (0.04, 0.3), (22, 55), 0.6, (1.5, 6), level=True, indoor=0.7,
                    ground=0.3, table=0.65, backdrop=(0.3, 0.9, 0.7, 0.7), subject_hand=1, people=(0, 0.6),
                    clutter=(2, 14), clutter_size=(0.02, 0.12), flowers=(0, 1.5), furniture=(0, 2),
                    defocus=(0.3, 2.0), fog=0),
    "park": Setting(1.2, (1.0, 2.0), (3, 10), (0.7, 1.6), (35, 80), 0.35, (20, 70), people=(1, 5), subject_person=0.6,
                    trees=(1, 6), bushes=(0, 6), flowers=(0, 6), grass=0.6, furniture=(0, 2), poles=(0, 4),
                    houses=(0, 4),
                    clutter=(0, 6), clutter_size=(0.1, 0.5), hills=0.3),
    "objects": Setting(1.0, (0.5, 3.0), (1.5, 6), (0.4, 2.0), (30, 80), 0.3, (5, 40), indoor=0.5, ground=0.7,
    people=(0, 1.5),
                       trees=(0, 2), furniture=(0, 4), clutter=(10, 26), clutter_size=(0.1, 1.2), poles=(0, 4)),
    "overlook": Setting(0.7, (8, 45), (25, 110), (0, 6), (30, 75), 0.5, (150, 500), people=(0, 4), trees=(2, 7),
                        bushes=(2, 7), houses=(3, 12), vehicles=(0, 4), poles=(0, 5), clutter=(4, 14),
                        clutter_size=(1, 7),
                        hills=0.8, fog=0.4),
}  # fmt: skip
NAMES: Final = tuple(SETTINGS)


LONGEST_S: Final = 6.0  # at a faster pace, people would have walked out of the scene


@dataclass(frozen=True)
class Plan:
    """One scene's plan, (B,) each unless said otherwise. The eye stands over the origin and looks along +z.

    Attributes:
        setting: int64 into NAMES.
        subject: (B, 3) metres, what the camera is about.
        aim: radians, how far to the side of the subject the camera looks; `tilt` likewise upwards.
        reach: metres, the farthest things stand here (a room's walls, a street's end).
        pace: how fast things happen, 1 = 24 frames a second.
        backdrop: int64, a `Backdrop`.
        ground_form: (B, 5): height = a·(x − x0)² + b·(z − z0)² + c, as (a, b, x0, z0, c).
    """

    setting: torch.Tensor
    eye_height: torch.Tensor
    subject: torch.Tensor
    fov: torch.Tensor
    aim: torch.Tensor
    tilt: torch.Tensor
    nearest: torch.Tensor
    reach: torch.Tensor
    indoor: torch.Tensor
    ground: torch.Tensor
    ground_form: torch.Tensor
    backdrop: torch.Tensor
    table: torch.Tensor
    pace: torch.Tensor
    defocus: torch.Tensor
    fog: torch.Tensor

    def count(self, draw: Draw, thing: str) -> torch.Tensor:
        """(B,) how many of a thing, drawn evenly from the setting's range."""
        low, high = torch.tensor([getattr(SETTINGS[name], thing) for name in NAMES]).float().unbind(-1)
        drawn = draw.uniform(self.setting.shape, low[self.setting], high[self.setting] + 1)
        return torch.floor(drawn)

    def chance(self, draw: Draw, thing: str) -> torch.Tensor:
        """(B,) whether the scene has it."""
        return draw.coin(self.setting.shape, _of(self.setting, thing))

    def eye(self) -> torch.Tensor:
        """(B, 3) where the camera of the plan stands."""
        origin = torch.zeros(len(self.setting))
        return torch.stack([origin, -(self.height(origin, origin) + self.eye_height), origin], -1)

    def height(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """The ground's height at (B, …) points, metres upwards."""
        a, b, x0, z0, c = (part.view(-1, *[1] * (x.dim() - 1)) for part in self.ground_form.unbind(-1))
        return a * (x - x0).square() + b * (z - z0).square() + c

    def standing(self, x: torch.Tensor, z: torch.Tensor, above: torch.Tensor | float = 0.0) -> torch.Tensor:
        """(B, …, 3) points over the ground."""
        return torch.stack([x, -(self.height(x, z) + above), z], -1)

    def spots(
        self, draw: Draw, count: int, *, nearest: float = 1.0, farthest: float = 1.0, spread: float = 1.15
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x and z (B, count) of places in view, as many near as far in the logarithm.

        Args:
            nearest, farthest: shares of the plan's nearest distance and of its reach.
            spread: 1 fills the picture's width.
        """
        shape = (len(self.setting), count)
        low = self.nearest[:, None] * nearest
        away = draw.log_uniform(shape, low, torch.maximum(self.reach[:, None] * farthest, low * 1.3))
        side = draw.uniform(shape, -0.5, 0.5) * (self.fov * spread)[:, None]
        return away * torch.sin(side), away * torch.cos(side)


def make_plan(draw: Draw, batch: int, frames: int) -> Plan:
    """Draws a setting and a plan for each scene."""
    setting = draw.pick((batch,), [SETTINGS[name].weight for name in NAMES])

    def span(field: str) -> torch.Tensor:
        low, high = torch.tensor([getattr(SETTINGS[name], field) for name in NAMES]).float().unbind(-1)
        return draw.uniform((batch,), low[setting], high[setting])

    distance, fov = span("subject_distance"), torch.deg2rad(span("fov_deg"))
    indoor = draw.coin((batch,), _of(setting, "indoor"))
    table = draw.coin((batch,), _of(setting, "table"))
    flat = indoor | table
    reach = torch.maximum(span("far"), distance * 1.8)
    # what a slope may rise within reach: gentle, never hiding the eye
    rise = draw.normal((batch, 2), 0.05) / reach[:, None]
    shift = draw.normal((batch, 2), 0.4) * reach[:, None]
    a, b = torch.where(flat[:, None], 0.0, rise).unbind(-1)
    x0, z0 = shift.unbind(-1)
    ground_form = torch.stack([a, b, x0, z0, -(a * x0 * x0 + b * z0 * z0)], -1)
    subject_height = span("subject_height")
    ground_there = a * x0 * x0 + b * (distance - z0).square() + ground_form[:, 4]
    subject = torch.stack([torch.zeros(batch), -(ground_there + subject_height), distance], -1)
    eye_height = span("eye_height")
    level = _of(setting, "level") > 0
    eye_height = torch.where(level, distance * eye_height - subject[:, 1], eye_height).clamp_min(0.05)
    chosen = draw.pick_each(torch.tensor([SETTINGS[name].backdrop for name in NAMES])[setting])
    return Plan(
        setting=setting,
        eye_height=eye_height,
        subject=subject,
        fov=fov,
        aim=draw.uniform((batch,), -0.28, 0.28) * fov,
        tilt=draw.uniform((batch,), -0.15, 0.15) * fov,
        nearest=distance * _of(setting, "near"),
        reach=reach,
        indoor=indoor,
        ground=draw.coin((batch,), _of(setting, "ground")),
        ground_form=ground_form,
        backdrop=torch.where(indoor, Backdrop.NONE, chosen),
        table=table,
        pace=draw.log_uniform((batch,), 0.3, 2.5).clamp_max(LONGEST_S * 24 / max(frames, 1)),
        defocus=span("defocus") * draw.coin((batch,), 0.85),
        fog=draw.coin((batch,), _of(setting, "fog")) * draw.log_uniform((batch,), 0.1, 1.2) / reach,
    )


def _of(setting: torch.Tensor, field: str) -> torch.Tensor:
    """A setting's number for every scene, (B,)."""
    return torch.tensor([float(getattr(SETTINGS[name], field)) for name in NAMES])[setting]
