# SPDX-License-Identifier: GPL-3.0-or-later
"""Preset `final` from a shot folder to its frames, on a model of random weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ex4d_engine import bundled_model
from ex4d_engine.diffusion import runtime
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.image_files import read_png
from ex4d_engine.models import store
from ex4d_engine.models.registry import MODELS
from ex4d_engine.progress import Silent
from ex4d_engine.shot import Shot
from ex4d_engine.stages import GenerateOptions, diffusion_run, generate, generation_settings, render, repeat
from ex4d_engine.stages.diffusion_presets import ADAPTER, BASE, check_preset
from ex4d_engine.take import Take, list_takes, load_take, save_take
from tests import tiny_model
from tests.conftest import REPOSITORY
from tests.tiny_shot import Listener, orbit_take
from tests.unit.diffusion.cards import give_card, give_main

QUICK = GenerateOptions(steps=2, area=1024, prompt="a camera", negative_prompt="blurred")


def rendered(shot: Shot, degrees: float = 12.0, **placing: object) -> Take:
    return render(shot, orbit_take(shot, degrees, **placing), Silent())


def frames(take: Take) -> list[bytes]:
    return [take.file("generated", number).read_bytes() for number in take.numbers]


@pytest.mark.usefixtures("models")
def test_final_writes_every_frame_and_records_how(shot: Shot) -> None:
    listener = Listener()
    done = generate(shot, rendered(shot, size=(61, 47)), "final", listener, seed=3, options=QUICK)
    assert done.is_finished and not done.missing("generated")
    assert all(read_png(done.file("generated", number)).shape == (47, 61, 3) for number in done.numbers)
    assert "denoise" in listener.stages and listener.previews
    record = json.loads((done.root / "take.json").read_text(encoding="utf-8"))["record"]
    assert record["generation"] == generation_settings("final", 3, QUICK)
    assert (record["generation"]["guidance"], record["generation"]["erosion"]) == (5.0, 4)
    run = record["diffusion"]
    assert run["models"] == {name: store.checksums(name) for name in (BASE, ADAPTER)}
    assert {"torch", "diffusers", "transformers", "peft", "accelerate"} <= set(run["runtime"]["versions"])
    assert run["runtime"]["device"].startswith("CPU")
    assert not (done.root / "latents").exists() and not (done.root / "lead_in").exists()


@pytest.mark.usefixtures("models")
def test_a_path_that_begins_at_the_source_view_has_no_lead_in_and_another_has(shot: Shot) -> None:
    away = orbit_take(shot, 25.0)
    away = dataclasses.replace(away, frames=away.frames[::-1])
    save_take(away)
    away = render(shot, away, Silent())
    assert (read_png(away.file("mask", away.first)) == 255).mean() < 0.999  # or else this test means nothing
    done = generate(shot, away, "final", Silent(), options=QUICK)
    count = done.record["diffusion"]["lead_in"]
    assert 4 <= count <= 48 and count % 4 == 0
    assert len(frames(done)) == 6
    again = rendered(shot, 0.0)
    assert generate(shot, again, "final", Silent(), options=QUICK).record["diffusion"]["lead_in"] == 0


@pytest.mark.usefixtures("models")
def test_of_the_frames_that_are_made_those_of_the_lead_in_are_dropped(
    shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def numbered(
        pipeline: object, read: object, count: int, width: int, height: int, *_: object
    ) -> Iterator[np.ndarray]:
        for index in range(count):
            yield np.full((height, width, 3), index, np.uint8)

    monkeypatch.setattr(diffusion_run, "generate_video", numbered)
    away = orbit_take(shot, 25.0)
    away = dataclasses.replace(away, frames=away.frames[::-1])
    save_take(away)
    done = generate(shot, render(shot, away, Silent()), "final", Silent(), options=QUICK)
    led = done.record["diffusion"]["lead_in"]
    assert led >= 4
    made = [int(read_png(done.file("generated", number)).max()) for number in done.numbers]
    assert made == [led + index for index in range(len(made))]


@pytest.mark.usefixtures("models")
def test_a_cancelled_run_goes_on_to_the_same_bytes_and_a_repeat_gives_them_again(shot: Shot) -> None:
    whole = generate(shot, rendered(shot), "final", Silent(), seed=3, options=QUICK)
    other = rendered(shot)
    with pytest.raises(Cancelled):
        generate(shot, other, "final", Listener(stop_in="denoise", after=1), seed=3, options=QUICK)
    assert other.missing("generated") == list(other.numbers)  # in a step: no frame yet
    other = generate(shot, load_take(shot, other.name), "final", Silent(), seed=3, options=QUICK)
    assert frames(other) == frames(whole)
    listener = Listener()
    again = repeat(shot, whole, listener)
    assert again.name not in (whole.name, other.name) and frames(again) == frames(whole)
    assert not any("may differ" in line for line in listener.logs)
    assert frames(generate(shot, rendered(shot), "final", Silent(), seed=4, options=QUICK)) != frames(whole)


@pytest.mark.usefixtures("models")
def test_a_repeat_computes_on_as_many_threads_as_the_take_did(shot: Shot) -> None:
    ours = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = generate(shot, rendered(shot), "final", Silent(), seed=3, options=QUICK)
        torch.set_num_threads(2)
        again = repeat(shot, whole, Silent())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(ours)
    assert [take.record["diffusion"]["runtime"]["threads"] for take in (whole, again)] == [1, 1]
    assert frames(again) == frames(whole)


def test_a_repeat_says_what_is_not_as_it_was(shot: Shot, weights: tuple[Path, Path], tmp_path: Path) -> None:
    store.register(BASE, weights[0])
    store.register(ADAPTER, weights[1])
    whole = generate(shot, rendered(shot), "final", Silent(), options=QUICK)
    store.register(ADAPTER, tiny_model.save_adapter_file(tmp_path / "other.safetensors", rank=2, seed=5))
    listener = Listener()
    assert frames(repeat(shot, whole, listener)) != frames(whole)  # a rank of its own is read from the file
    assert any(ADAPTER in line and "may differ" in line for line in listener.logs)
    (_, again) = list_takes(shot)
    assert "may differ" in (load_take(shot, again).root / "log.jsonl").read_text(encoding="utf-8")


@pytest.mark.usefixtures("models")
def test_two_ranks_share_a_run_and_only_the_first_writes(shot: Shot) -> None:
    alone = generate(shot, rendered(shot), "final", Silent(), options=QUICK)
    shared = generate(shot, rendered(shot), "final", Silent(), options=dataclasses.replace(QUICK, gpus=2))
    assert shared.record["diffusion"]["runtime"]["ranks"] == 2
    for number in alone.numbers:
        one, two = (read_png(take.file("generated", number)).astype(int) for take in (alone, shared))
        assert abs(one - two).max() <= 1
    assert not (shared.root / "latents").exists()


@pytest.mark.usefixtures("models")
def test_the_command_line_shares_a_run_and_repeats_it_bit_for_bit_in_another_process(shot: Shot) -> None:
    take = rendered(shot)
    quick = ("--steps", "1", "--prompt", "a camera", "--negative-prompt", "blurred")

    def ex4d(*arguments: str) -> Take:
        command = [sys.executable, "-m", "ex4d_engine", "generate", str(shot.root), *arguments]
        ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8", check=False)
        assert ended.returncode == 0, ended.stderr
        return load_take(shot, json.loads(ended.stdout.splitlines()[-1])["take"])

    whole = ex4d("--take", take.name, "--preset", "final", "--seed", "3", "--gpus", "2", *quick)
    assert whole.record["diffusion"]["runtime"]["ranks"] == 2
    again = ex4d("--repeat", whole.name)
    assert again.name != whole.name and again.record["diffusion"]["runtime"]["ranks"] == 2
    assert frames(again) == frames(whole)


@pytest.mark.parametrize(("has_draft", "offered"), [(True, "draft"), (False, "preview")])
def test_missing_models_are_named_with_the_command_before_any_work(
    shot: Shot, monkeypatch: pytest.MonkeyPatch, has_draft: bool, offered: str
) -> None:
    monkeypatch.setattr(bundled_model, "has_bundled_model", lambda: has_draft)
    give_card(monkeypatch, 70.0)
    give_main(monkeypatch, 64.0)
    take = rendered(shot)
    with pytest.raises(Ex4dError) as error:
        generate(shot, take, "fast", Silent())
    assert (error.value.code, error.value.action) == ("model_missing", f"preset:{offered}")
    assert f"preset {offered}" in error.value.hint
    for name in (BASE, ADAPTER, "wan2.1-fast-lora"):
        assert f"`ex4d models download {name}`" in error.value.hint
    together = sum(MODELS[name].size_bytes for name in (BASE, ADAPTER, "wan2.1-fast-lora"))
    assert store.gigabytes(together) in error.value.message
    assert "generation" not in load_take(shot, take.name).record


@pytest.mark.parametrize(
    ("card_gib", "main_gib", "said"),
    [
        (0.0, 64.0, "needs an NVIDIA graphics card"),
        (4.0, 64.0, "of the graphics card"),
        (70.0, 16.0, "of main memory"),
    ],
)
@pytest.mark.parametrize("preset", ["final", "fast"])
def test_nothing_is_to_be_downloaded_for_a_machine_that_cannot_run_it(
    monkeypatch: pytest.MonkeyPatch, preset: str, card_gib: float, main_gib: float, said: str
) -> None:
    monkeypatch.setattr(bundled_model, "has_bundled_model", lambda: True)
    give_card(monkeypatch, card_gib)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: card_gib > 0)
    give_main(monkeypatch, main_gib)
    with pytest.raises(Ex4dError) as error:
        check_preset(preset, GenerateOptions())
    assert (error.value.code, error.value.action) == ("out_of_memory", "preset:draft")
    assert said in error.value.message and "download" not in str(error.value)


def test_a_model_that_is_here_counts_as_what_it_is(weights: tuple[Path, Path]) -> None:
    """Small enough for any machine, so that what is missing beside it is what there is to say."""
    store.register(BASE, weights[0])
    for options in (GenerateOptions(), GenerateOptions(model=str(weights[0]))):
        with pytest.raises(Ex4dError) as error:
            check_preset("final", options)
        assert error.value.code == "model_missing" and f"`ex4d models download {ADAPTER}`" in error.value.hint
        assert BASE not in error.value.hint


def test_weights_that_are_no_numbers_end_with_the_step_and_nothing_written(
    shot: Shot, weights: tuple[Path, Path], tmp_path: Path
) -> None:
    broken = shutil.copytree(weights[0], tmp_path / "broken")
    (file,) = (broken / "transformer").glob("*.safetensors")
    tensors = load_file(file)
    tensors["proj_out.bias"][:] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    options = GenerateOptions(**{**QUICK.to_json(), "model": str(broken), "adapter": str(weights[1])})
    take = rendered(shot)
    with pytest.raises(Ex4dError) as error:
        generate(shot, take, "final", Silent(), options=options)
    assert error.value.code == "model_invalid" and "Step 1 of 2" in str(error.value)
    assert "precision" not in str(error.value) and "`ex4d models verify`" in error.value.hint, "it was exact already"
    assert take.missing("generated") == list(take.numbers) and not list(take.root.rglob("*.safetensors"))


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(("precision", "said"), [("float8", True), ("exact", False), ("auto", False)])
def test_float8_on_a_cpu_is_said_to_be_exact(
    shot: Shot, monkeypatch: pytest.MonkeyPatch, precision: str, said: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    listener = Listener()
    options = dataclasses.replace(QUICK, steps=1, precision=precision)
    done = generate(shot, rendered(shot), "final", listener, options=options)
    assert done.record["diffusion"]["runtime"]["precision"] == "exact"
    lines = [line for line in listener.logs if "float8" in line]
    assert lines == (
        [f"Precision float8 is not for {runtime.device_name(torch.device('cpu'))}: this run is exact."] if said else []
    )


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"window": 48}, {"detail": "huge"}, {"tier": "9"}, {"magic": 1}, {"erosion": -1}, [1]]
)
def test_options_are_refused_by_name(options: object) -> None:
    with pytest.raises(Ex4dError) as error:
        GenerateOptions.from_json(options)
    assert error.value.code == "bad_request"
    assert isinstance(options, list) or next(iter(options)) in error.value.message  # type: ignore[call-overload]


def test_options_survive_json() -> None:
    options = GenerateOptions(steps=7, erosion="random", detail="1.5", guidance=3.0, model="/m o/ü")
    assert GenerateOptions.from_json(json.loads(json.dumps(options.to_json()))) == options
