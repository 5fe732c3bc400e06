# SPDX-License-Identifier: GPL-3.0-or-later
"""Collects the bodies, shapes and materials of a batch of scenes while its parts are being built."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .draw import Draw
from .materials import Materials, paint
from .motion import Bodies
from .primitives import FORM_SIZE, Kind, Primitives


class SceneBuilder:
    """Parts add (B, …) of something and get back the numbers of what they added, in the same shape."""

    def __init__(self, draw: Draw, batch: int) -> None:
        self.draw = draw
        self.batch = batch
        self._bodies: list[dict[str, torch.Tensor]] = []
        self._body_count = 0
        self._families: list[torch.Tensor] = []
        self._sizes: list[torch.Tensor] = []
        self._material_count = 0
        self._shapes: dict[Kind, list[tuple[torch.Tensor, ...]]] = {kind: [] for kind in Kind}
        self.body(torch.zeros(batch, 1, 3), torch.zeros(batch, 1, dtype=torch.int64))  # the world

    def body(
        self,
        offset: torch.Tensor,
        parent: torch.Tensor | int = 0,
        rest: torch.Tensor | None = None,
        **motion: torch.Tensor,
    ) -> torch.Tensor:
        """Adds moving bodies, see `Bodies`; what is not given stays still.

        Args:
            offset: (B, …, 3) metres in the parent's axes.
            parent: their parents' numbers; 0 is the world.
            rest: (B, …, 3, 3).

        Returns:
            (B, …) int64.
        """
        shape = offset.shape[:-1]
        count = shape[1:].numel()
        values = {
            "parent": torch.as_tensor(parent).expand(shape),
            "offset": offset,
            "rest": torch.eye(3).expand(*shape, 3, 3) if rest is None else rest.expand(*shape, 3, 3),
        }
        for name in ("velocity", "sway"):
            values[name] = motion.pop(name, torch.zeros(3)).expand(*shape, 3)
        values["axis"] = motion.pop("axis", torch.tensor([0.0, 1.0, 0.0])).expand(*shape, 3)
        for name in ("sway_rate", "sway_phase", "spin", "swing", "swing_rate", "swing_phase"):
            values[name] = motion.pop(name, torch.zeros(())).expand(shape)
        assert not motion, motion
        self._bodies.append(
            {name: value.reshape(self.batch, count, *value.shape[len(shape) :]) for name, value in values.items()}
        )
        numbers = torch.arange(self._body_count, self._body_count + count).view(shape[1:])
        self._body_count += count
        return numbers.expand(shape)

    def material(self, shape: Sequence[int], families: Sequence[float], size: torch.Tensor | float) -> torch.Tensor:
        """Adds a material for each entry, of families drawn by these weights (`materials.family`): (B, …) numbers."""
        count = torch.Size(shape[1:]).numel()
        sizes = torch.as_tensor(size, dtype=torch.float32).expand(tuple(shape)).reshape(self.batch, count)
        self._families.append(self.draw.pick((self.batch, count), families))
        self._sizes.append(sizes)
        numbers = torch.arange(self._material_count, self._material_count + count).view(tuple(shape[1:]))
        self._material_count += count
        return numbers.expand(tuple(shape))

    def shape(
        self,
        kind: Kind,
        half: torch.Tensor,
        material: torch.Tensor,
        active: torch.Tensor,
        *,
        body: torch.Tensor | int = 0,
        centre: torch.Tensor | None = None,
        rotation: torch.Tensor | None = None,
        form: Sequence[torch.Tensor | float] = (),
    ) -> None:
        """Adds shapes.

        Args:
            half: (B, …, 3) metres; gives the shape of all else, which may broadcast to it.
            active: which of them exist.
            form: up to eight numbers, each (B, …) or one for all.
        """
        lead = half.shape[:-1]
        flat = (self.batch, lead[1:].numel())
        numbers = [torch.as_tensor(value, dtype=torch.float32).expand(lead) for value in form]
        numbers += [torch.zeros(()).expand(lead)] * (FORM_SIZE - len(numbers))
        self._shapes[kind].append(
            (
                torch.as_tensor(body).expand(lead).reshape(flat),
                (torch.eye(3) if rotation is None else rotation).expand(*lead, 3, 3).reshape(*flat, 3, 3),
                (torch.zeros(3) if centre is None else centre).expand(*lead, 3).reshape(*flat, 3),
                half.reshape(*flat, 3),
                torch.stack(numbers, -1).reshape(*flat, FORM_SIZE),
                material.expand(lead).reshape(flat),
                active.expand(lead).reshape(flat),
            )
        )

    def primitives(self) -> Primitives:
        """All shapes, sorted by kind."""
        ranges, columns = [], []
        start = 0
        for kind in Kind:
            pieces = self._shapes[kind]
            stop = start + sum(piece[0].shape[1] for piece in pieces)
            ranges.append((start, stop))
            columns += pieces
            start = stop
        joined = [torch.cat([column[k] for column in columns], 1) for k in range(7)]
        return Primitives(tuple(ranges), *joined)

    def bodies(self) -> Bodies:
        """All bodies."""
        return Bodies(**{name: torch.cat([body[name] for body in self._bodies], 1) for name in self._bodies[0]})

    def materials(self) -> Materials:
        """All materials, painted at once: drawing them one part at a time would take longer than all else."""
        return paint(self.draw, torch.cat(self._families, 1), torch.cat(self._sizes, 1))
