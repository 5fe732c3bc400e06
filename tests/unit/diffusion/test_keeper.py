# SPDX-License-Identifier: GPL-3.0-or-later
"""Models between jobs: the next job finds them in place, and whoever needs the memory gets all of it."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ex4d_engine.diffusion import keeper as keepers
from ex4d_engine.diffusion import run_plan, runtime
from ex4d_engine.diffusion.keeper import Keeper, held_gib, keeping, kept_pipeline, release_kept
from ex4d_engine.diffusion.run_plan import ModelPaths, RuntimeOptions, check_memory
from ex4d_engine.errors import Cancelled, Ex4dError
from tests import tiny_model
from tests.tiny_shot import Listener

RUN: dict[str, Any] = {
    "tokens": 18,
    "steps": 2,
    "guidance_scale": 5.0,
    "prompt": "a person walks",
    "negative_prompt": "blurred",
}


class Models:
    """Opens a job's pipeline as a stage does, and watches every model without holding it."""

    def __init__(self, paths: ModelPaths) -> None:
        self.paths = paths
        self.seen: list[weakref.ref[Any]] = []

    def job(
        self, options: RuntimeOptions | None = None, identity: str = "", error: Exception | None = None, **run: Any
    ) -> Listener:
        reporter = Listener()
        with kept_pipeline(
            self.paths, options or RuntimeOptions(), identity=identity, **{**RUN, "reporter": reporter, **run}
        ) as ready:
            video, mask = tiny_model.conditioning(frames=5)
            ready.pipeline(
                video,
                mask,
                prompt_embeds=ready.prompt_embeds[0],
                negative_prompt_embeds=ready.prompt_embeds[1],
                num_inference_steps=1,
                guidance_scale=run.get("guidance_scale", 5.0),
                generator=torch.Generator().manual_seed(0),
            )
            parts = ready.pipeline.components.values()
            self.seen.extend(weakref.ref(part) for part in parts if isinstance(part, torch.nn.Module))
            del parts
            if error is not None:
                raise error
        return reporter

    def alive(self) -> int:
        return len({id(part()) for part in self.seen if part() is not None})


@pytest.fixture
def models(model_folder: Path, adapter_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Models:
    monkeypatch.setenv("EX4D_CACHE", str(tmp_path / "cache"))
    return Models(ModelPaths(model_folder, adapter_file))


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    with keeping(Keeper(60.0)) as keeper:
        yield keeper


def is_in_place(reporter: Listener) -> bool:
    return any("still in place" in line for line in reporter.logs)


def test_without_a_keeper_nothing_is_kept(models: Models) -> None:
    models.job()
    assert models.alive() == 0 and held_gib() == 0.0


def test_the_next_job_of_the_same_models_finds_them_in_place(models: Models, keeper: Keeper) -> None:
    assert not is_in_place(models.job())
    assert models.alive() == 4 and keeper.is_holding and held_gib() > 0
    assert is_in_place(models.job())
    assert is_in_place(models.job(guidance_scale=1.0, steps=4)), "what is not of the models may be another"
    assert models.alive() == 4, "one set, whoever asked"
    keeper.release()
    assert models.alive() == 0 and not keeper.is_holding and held_gib() == 0.0
    assert not is_in_place(models.job())


@pytest.mark.parametrize(
    "other",
    [
        {"options": RuntimeOptions(cache="first-block")},
        {"options": RuntimeOptions(tier="48")},
        {"identity": "the same path, other files"},
        {"tokens": 36},
    ],
)
def test_other_models_go_before_these_are_loaded(
    models: Models, keeper: Keeper, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    models.job()
    load = runtime.load_pipeline

    def loading(*arguments: Any, **named: Any) -> Any:
        assert models.alive() == 0
        return load(*arguments, **named)

    monkeypatch.setattr(runtime, "load_pipeline", loading)
    assert not is_in_place(models.job(**other))
    assert models.alive() == 4


def test_a_new_prompt_is_encoded_in_the_memory_of_the_models(
    models: Models, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.job()
    embed = runtime.embed_texts

    def embedding(*arguments: Any) -> Any:
        assert models.alive() == 0
        return embed(*arguments)

    monkeypatch.setattr(runtime, "embed_texts", embedding)
    assert not is_in_place(models.job(prompt="a quiet street"))
    assert is_in_place(models.job()), "a prompt known on disk costs nothing"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Cancelled(), "cancelled"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (ValueError("a bug"), ""),
    ],
)
def test_what_ends_a_job_before_its_end_gives_the_memory_back(
    models: Models, keeper: Keeper, error: Exception, code: str
) -> None:
    models.job()
    with pytest.raises((Ex4dError, ValueError)) as caught:
        models.job(error=error)
    assert getattr(caught.value, "code", "") == code
    assert getattr(caught.value, "action", "").startswith("tier:") == (code == "out_of_memory")
    assert models.alive() == 0 and not keeper.is_holding, "while the error is at hand"
    assert not is_in_place(models.job())


def test_time_runs_from_the_end_of_the_last_job(
    models: Models, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(keepers.time, "monotonic", lambda: now[0])
    assert keeper.seconds_left() is None
    models.job()
    now[0] += 45
    assert keeper.seconds_left() == pytest.approx(15)
    models.job()
    assert keeper.seconds_left() == pytest.approx(60)
    now[0] += 100
    assert keeper.seconds_left() == 0
    keeper.release()
    assert keeper.seconds_left() is None


def test_the_check_before_a_job_counts_what_the_keeper_would_give_back(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Memory:
        available = 0.5 * 2**30

    monkeypatch.setattr(run_plan.psutil, "virtual_memory", Memory)
    with pytest.raises(Ex4dError) as caught:
        check_memory(models.paths, RuntimeOptions(), tokens=18)
    assert caught.value.code == "out_of_memory"
    check_memory(models.paths, RuntimeOptions(), tokens=18, held_gib=4.0)


def test_what_is_held_can_be_given_back_for_other_processes(models: Models, keeper: Keeper) -> None:
    models.job()
    release_kept()
    assert models.alive() == 0 and not keeper.is_holding


def test_an_adapter_of_another_place_is_another_model(models: Models, keeper: Keeper, tmp_path: Path) -> None:
    models.job()
    models.paths = dataclasses.replace(models.paths, adapter=tiny_model.save_adapter_file(tmp_path / "b.safetensors"))
    assert not is_in_place(models.job())


def test_the_job_at_hand_is_told_that_compiling_fails(
    models: Models, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = False

    def backend(graph: torch.fx.GraphModule, _: object) -> Any:
        if fails:
            raise RuntimeError("the disk is full")
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    options = RuntimeOptions(compile="on")
    torch._dynamo.reset()
    assert not any("Compiling" in line for line in models.job(options).logs)
    torch._dynamo.reset()  # as for a size that is new
    fails = True
    second = models.job(options)
    assert is_in_place(second) and any("the disk is full" in line for line in second.logs)
    torch._dynamo.reset()
    keeper.release()
    assert models.alive() == 0
