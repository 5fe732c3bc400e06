# SPDX-License-Identifier: GPL-3.0-or-later
"""The samples of a step, read from the cache while the step before is computed."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from .flow_matching import NoiseLevel, noised, sample_number, seeded
from .latent_cache import CachedData, TrainingTensors, read_sample
from .lora_config import LoraTraining
from .lora_levels import level_source

_AHEAD: Final = 2  # micro-batches that wait in memory


@dataclass(frozen=True)
class MicroBatch:
    """B samples as the network takes them, float32.

    noisy, target, noise: (B, C, f, h, w). timestep, weight: (B,). The others as of `AdapterNetwork.forward`.
    """

    noisy: Tensor
    target: Tensor
    noise: Tensor
    timestep: Tensor
    weight: Tensor
    condition: Tensor
    image_embeds: Tensor | None
    text: Tensor
    colour: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> MicroBatch:
        tensors = {name: value for name, value in self.__dict__.items() if value is not None}
        return dataclasses.replace(
            self, **{name: value.to(device, non_blocking=True) for name, value in tensors.items()}
        )


@dataclass(frozen=True)
class Place:
    """Which of the micro-batches of a step: `number` of `rank` among `ranks`."""

    number: int
    rank: int
    ranks: int


class BatchSource:
    """Draws micro-batches: which windows, masks, noise and noise levels follows from seed, step and place alone."""

    def __init__(self, training: LoraTraining, data: CachedData) -> None:
        self._training, self._data = training, data
        self._level = level_source(training.objective, data.shift)

    def count(self, ranks: int) -> int:
        """Micro-batches of a step on each of `ranks`."""
        return self._training.optimiser.batch // (self._training.optimiser.micro_batch * ranks)

    def draw(self, step: int, place: Place) -> MicroBatch:
        """The micro-batch of a step, counted from 0.

        Raises:
            Ex4dError: `model_invalid` for a damaged file in the cache.
        """
        size = self._training.optimiser.micro_batch
        first = (place.number * place.ranks + place.rank) * size
        return stacked([self._sample(step, first + index) for index in range(size)])

    def ahead(self, first_step: int, end: int, rank: int, ranks: int) -> Generator[MicroBatch, None, None]:
        """All micro-batches of a rank from `first_step` up to `end`, the next ones being read meanwhile."""
        places = (
            (step, Place(number, rank, ranks)) for step in range(first_step, end) for number in range(self.count(ranks))
        )
        waiting: deque[Future[MicroBatch]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="samples") as reader:
            try:
                for step, place in places:
                    waiting.append(reader.submit(self.draw, step, place))
                    if len(waiting) > _AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _sample(self, step: int, index: int) -> tuple[TrainingTensors, Tensor, NoiseLevel]:
        training = self._training
        position = step * training.optimiser.batch + index
        generator = seeded(training.run.seed, "sample", position)
        number = sample_number(training.run.seed, position, len(self._data.training))
        mask = int(torch.randint(training.data.masks_per_clip, (), generator=generator))
        level = self._level(generator)
        tensors = read_sample(self._data.training[number], mask)
        return tensors, torch.randn(tensors.target.shape, generator=generator), level


def stacked(samples: list[tuple[TrainingTensors, Tensor, NoiseLevel]]) -> MicroBatch:
    """Samples of windows, their noise and its level as one micro-batch."""
    tensors = [sample for sample, _, _ in samples]
    image_embeds = [sample.image_embeds for sample in tensors if sample.image_embeds is not None]
    return MicroBatch(
        noisy=torch.cat([noised(sample.target, noise, level.sigma) for sample, noise, level in samples]),
        target=torch.cat([sample.target for sample in tensors]),
        noise=torch.cat([noise for _, noise, _ in samples]),
        timestep=torch.tensor([level.timestep for _, _, level in samples]),
        weight=torch.tensor([level.weight for _, _, level in samples]),
        condition=torch.cat([sample.condition for sample in tensors]),
        image_embeds=torch.cat(image_embeds) if image_embeds else None,
        text=torch.cat([sample.text for sample in tensors]),
        colour=torch.cat([sample.colour for sample in tensors]),
        mask=torch.cat([sample.mask for sample in tensors]),
    )
