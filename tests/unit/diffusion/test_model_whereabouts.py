# SPDX-License-Identifier: GPL-3.0-or-later
"""Which models are on the card at once: where memory is short, text, CLIP and VAE never with the transformer.

The CPU stands for the card too, so devices tell nothing; what diffusers brings there and takes away is counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.hooks.group_offloading import ModuleGroup

from ex4d_engine.diffusion import runtime
from ex4d_engine.diffusion.float8 import Float8
from ex4d_engine.diffusion.keeper import Keeper
from ex4d_engine.diffusion.pipeline import Ex4dPipeline
from ex4d_engine.diffusion.run_plan import ModelPaths, RunPlan, RuntimeOptions
from ex4d_engine.diffusion.runtime import open_models, open_pipeline
from ex4d_engine.diffusion.tiers import Tier, tier_named
from ex4d_engine.diffusion.transformer_size import transformer_size
from ex4d_engine.progress import Silent
from tests.tiny_model import TEXT_WIDTH, conditioning

SMALL_MODELS = {"vae", "image_encoder", "camera_encoder"}
RUN: dict[str, Any] = {
    "tokens": 18,
    "steps": 1,
    "guidance_scale": 1.0,
    "negative_prompt": "blurred",
    "reporter": Silent(),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EX4D_CACHE", str(tmp_path / "Ünï cache"))


@pytest.fixture
def paths(model_folder: Path, adapter_file: Path) -> ModelPaths:
    return ModelPaths(model_folder, adapter_file)


class Card:
    """What was on it together, at every arrival: names of models, and how many of their weights."""

    def __init__(self) -> None:
        self.groups: dict[ModuleGroup, str] = {}
        self.together: list[frozenset[str]] = []
        self.most: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def know(self, pipeline: Ex4dPipeline) -> None:
        for name, model in pipeline.components.items():
            if isinstance(model, torch.nn.Module):
                self._names.update({id(part): name for part in model.modules()})

    def arrive(self, group: ModuleGroup) -> None:
        self.groups[group] = self._names[id(group.offload_leader)]
        self.together.append(frozenset(self.groups.values()))
        for name in set(self.groups.values()):
            weights = {
                id(weight): weight.numel()
                for other, owner in self.groups.items()
                if owner == name
                for weight in (*other.parameters, *(w for module in other.modules for w in module.parameters()))
            }
            self.most[name] = max(self.most.get(name, 0), sum(weights.values()))

    def leave(self, group: ModuleGroup) -> None:
        self.groups.pop(group, None)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    card, onload, offload = Card(), ModuleGroup.onload_, ModuleGroup.offload_

    def arriving(group: ModuleGroup) -> None:
        card.arrive(group)
        onload(group)

    def leaving(group: ModuleGroup) -> None:
        offload(group)
        card.leave(group)

    monkeypatch.setattr(ModuleGroup, "onload_", arriving)
    monkeypatch.setattr(ModuleGroup, "offload_", leaving)
    yield card
    assert not card.groups, "what came is gone again"


def generate(paths: ModelPaths, tier: Tier, card: Card) -> dict[str, int]:
    """One step and the decoder, as `tier` places the models; how many weights each model has."""
    float8: Float8 | None = "storage" if tier.precision == "float8" else None
    size, cpu = transformer_size(paths.folder), torch.device("cpu")
    plan = RunPlan(size, 18, cpu, torch.float32, tier, 0.0, float8, False)
    with open_models(paths, RuntimeOptions(), plan, is_guided=False, reporter=Silent()) as models:
        card.know(models.pipeline)
        models.pipeline(
            *conditioning(9, 32, 48),
            prompt_embeds=torch.zeros(1, 512, TEXT_WIDTH),
            guidance_scale=1.0,
            num_inference_steps=1,
            generator=torch.Generator().manual_seed(0),
        )
        parts = {name: part for name, part in models.pipeline.components.items() if isinstance(part, torch.nn.Module)}
        return {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}


@pytest.mark.parametrize("name", ["16", "12"])
def test_one_model_at_a_time_where_blocks_wait(paths: ModelPaths, card: Card, name: str) -> None:
    weights = generate(paths, tier_named(name), card)
    assert {model for models in card.together for model in models} == {"transformer", *SMALL_MODELS} == set(weights)
    assert all(len(models) == 1 for models in card.together)
    assert all(card.most[model] < weights[model] for model in weights), "and none of them whole"


def test_only_layers_beside_a_transformer_that_stays(paths: ModelPaths, card: Card) -> None:
    """Tier 24: what came beside it is a part of one small model."""
    weights = generate(paths, tier_named("24"), card)
    assert {model for models in card.together for model in models} == SMALL_MODELS
    assert all(len(models) == 1 for models in card.together)
    assert all(card.most[model] < weights[model] for model in SMALL_MODELS)


def test_the_text_encoder_is_gone_before_anything_else_comes(
    paths: ModelPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders: list[weakref.ref[Any]] = []
    alive_at_load: list[bool] = []
    load, load_pipeline = runtime.load_component, runtime.load_pipeline

    def loaded(*arguments: Any) -> Any:
        encoders.append(weakref.ref(model := load(*arguments)))
        return model

    def pipeline_loaded(*arguments: Any, **named: Any) -> Any:
        alive_at_load.append(any(encoder() is not None for encoder in encoders))
        return load_pipeline(*arguments, **named)

    monkeypatch.setattr(runtime, "load_component", loaded)
    monkeypatch.setattr(runtime, "load_pipeline", pipeline_loaded)
    with open_pipeline(paths, RuntimeOptions(), prompt="a person walks", **RUN) as ready:
        assert ready.pipeline.text_encoder is None
    assert len(encoders) == 1 and alive_at_load == [False]


def test_kept_models_go_before_the_text_encoder_comes(paths: ModelPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another text, with the models of the job before still in place."""
    kept: list[weakref.ref[Any]] = []
    load, beside = runtime.load_component, []

    def loaded(*arguments: Any) -> Any:
        beside.append([ref() for ref in kept if ref() is not None])
        return load(*arguments)

    monkeypatch.setattr(runtime, "load_component", loaded)
    keeper = Keeper(60.0)
    for prompt in ("a person walks", "a still picture"):
        with keeper.opened(paths, RuntimeOptions(), identity="x", prompt=prompt, **RUN) as ready:
            kept[:] = [weakref.ref(p) for p in ready.pipeline.components.values() if isinstance(p, torch.nn.Module)]
            del ready
    keeper.release()
    assert len(kept) == 4 and beside == [[], []]
