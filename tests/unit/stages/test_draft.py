# SPDX-License-Identifier: GPL-3.0-or-later
"""Preset `draft` from a shot folder to its result, on a model folder in the bundled one's layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from ex4d_engine import bundled_model, cli, doctor
from ex4d_engine.bundled_model import BUNDLED
from ex4d_engine.diffusion.preset_defaults import DEFAULTS, PresetDefaults
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.image_files import read_png
from ex4d_engine.models.own_adapters import keep_adapter
from ex4d_engine.progress import Silent
from ex4d_engine.shot import Shot
from ex4d_engine.stages import (
    GenerateOptions,
    generate,
    generation_settings,
    render,
    repeat,
    require_preset,
)
from ex4d_engine.stages.diffusion_presets import ADAPTER
from ex4d_engine.take import Take, load_take
from tests import tiny_model
from tests.tiny_shot import Listener, orbit_take

QUICK = GenerateOptions(area=1024)
WINDOWED = GenerateOptions(area=1024, window=9, overlap=5, steps=4)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.save_bundled_folder(tmp_path_factory.mktemp("Ünï 作業") / "bundled")


@pytest.fixture
def bundled(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model is there."""
    monkeypatch.setattr(bundled_model, "FOLDER", tiny_bundle)
    return tiny_bundle


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of this test's own, to be damaged."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "model"))
    monkeypatch.setattr(bundled_model, "FOLDER", folder)
    return folder


def rendered(shot: Shot, count: int = 6) -> Take:
    return render(shot, orbit_take(shot, 12.0, count=count), Silent())


def drafted(shot: Shot, take: Take, options: GenerateOptions = QUICK, seed: int = 3) -> Take:
    return generate(shot, take, "draft", Silent(), seed=seed, options=options)


def frames(take: Take) -> list[bytes]:
    return [take.file("generated", number).read_bytes() for number in take.numbers]


def test_draft_fills_every_frame_and_puts_the_plate_back(shot: Shot, bundled: Path) -> None:
    listener = Listener()
    done = generate(shot, rendered(shot), "draft", listener, seed=3, options=QUICK)
    assert done.is_finished and done.preset == "draft" and "denoise" in listener.stages and listener.previews
    for number in done.numbers:
        color, matte, result = (read_png(done.file(layer, number)) for layer in ("color", "matte", "composite"))
        assert result.shape == color.shape and np.array_equal(result[matte == 255], color[matte == 255])
    assert done.record["generation"] == generation_settings("draft", 3, QUICK)
    run = json.loads((done.root / "take.json").read_text(encoding="utf-8"))["record"]["diffusion"]
    assert list(run["models"]) == [BUNDLED]
    files = {path.relative_to(bundled).as_posix() for path in bundled.rglob("*") if path.is_file()}
    assert set(run["models"][BUNDLED]) == files and "transformer/config.json" in files
    assert done.record["forwards"] == {"begun": 2, "cut_short": 0}


def test_by_itself_draft_takes_two_steps_at_its_own_size_and_knows_no_text() -> None:
    resolved = GenerateOptions().resolved("draft")
    assert (resolved.steps, resolved.guidance, resolved.area, resolved.window) == (2, 1.0, 256 * 256, 49)
    assert (resolved.prompt, resolved.negative_prompt) == ("", "")
    assert GenerateOptions(prompt="a dog").unused("final") == []


def test_a_prompt_is_told_to_be_of_no_use_and_changes_nothing(shot: Shot, bundled: Path) -> None:
    plain, listener = drafted(shot, rendered(shot)), Listener()
    options = GenerateOptions(area=1024, prompt="a red house", guidance=5.0)
    wordy = generate(shot, rendered(shot), "draft", listener, seed=3, options=options)
    assert frames(wordy) == frames(plain)
    (said,) = [line for line in listener.logs if "no use" in line]
    assert "prompt" in said and "guidance" in said and "negative_prompt" not in said
    assert wordy.record["generation"] == plain.record["generation"]


def test_windows_steps_and_seed_are_as_of_other_presets(shot: Shot, bundled: Path) -> None:
    done = drafted(shot, rendered(shot, 10), GenerateOptions(**{**WINDOWED.to_json(), "steps": 2}))
    assert not done.missing("generated") and done.record["forwards"]["begun"] == 2 * 2
    first, again, other = (drafted(shot, rendered(shot), seed=seed) for seed in (3, 3, 4))
    assert frames(first) == frames(again) != frames(other)


def test_a_cancelled_run_goes_on_to_the_same_bytes_and_a_repeat_gives_them_again(shot: Shot, bundled: Path) -> None:
    whole, stopped = drafted(shot, rendered(shot, 10), WINDOWED), rendered(shot, 10)
    with pytest.raises(Cancelled):
        generate(shot, stopped, "draft", Listener(stop_in="denoise", after=6), seed=3, options=WINDOWED)
    assert stopped.missing("generated")
    done = drafted(shot, load_take(shot, stopped.name), WINDOWED)
    assert frames(done) == frames(whole)
    assert done.record["forwards"]["begun"] < 2 * whole.record["forwards"]["begun"], "the first window was kept"
    listener = Listener()
    assert frames(repeat(shot, whole, listener)) == frames(whole)
    assert not any("may differ" in line or "no use" in line for line in listener.logs)


def test_a_second_pass_at_full_size(shot: Shot, bundled: Path) -> None:
    """The small model's codec has no tiles, unlike Wan's."""
    options = GenerateOptions(area=1024, detail="full", steps=2)
    fine, plain = drafted(shot, rendered(shot), options), drafted(shot, rendered(shot))
    assert fine.is_finished and fine.record["forwards"]["begun"] > 2 and frames(fine) != frames(plain)


def test_an_adapter_of_one_s_own_by_name(shot: Shot, bundled: Path, tmp_path: Path) -> None:
    tensors = {name: 2 * value.float() for name, value in load_file(bundled / "ex4d.safetensors").items()}
    save_file(tensors, tmp_path / "mine.safetensors")
    keep_adapter("mine", tmp_path / "mine.safetensors")
    own = drafted(shot, rendered(shot), GenerateOptions(area=1024, adapter="mine"))
    assert frames(own) != frames(drafted(shot, rendered(shot)))
    assert list(own.record["diffusion"]["models"]) == [BUNDLED, ADAPTER]


def test_from_the_command_line(
    shot: Shot, bundled: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    small = PresetDefaults(4, 1.0, area=1024, knows_text=False)
    monkeypatch.setitem(DEFAULTS, "draft", small)
    take = rendered(shot)
    assert cli.main(["generate", str(shot.root), "--take", take.name, "--preset", "draft", "--prompt", "a dog"]) == 0
    said = capfd.readouterr()
    assert load_take(shot, json.loads(said.out)["take"]).is_finished and "no use for prompt" in said.err


def test_without_its_model_draft_says_so_and_preview_is_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bundled_model, "FOLDER", tmp_path / "none")
    with pytest.raises(Ex4dError) as caught:
        require_preset("draft")
    assert (caught.value.code, caught.value.action) == ("model_missing", "preset:preview")
    assert "ships without it" in caught.value.message
    (line,) = [line for line in doctor.report()[0] if "preset   draft" in line]
    assert "ships without it" in line


def test_with_its_model_draft_works_here(bundled: Path) -> None:
    require_preset("draft")
    assert "  preset   draft: works here" in doctor.report()[0]


@pytest.mark.parametrize(
    "part",
    ["vae/diffusion_pytorch_model.safetensors", "prompt.safetensors", "transformer", "scheduler", "ex4d.safetensors"],
)
def test_a_model_that_is_not_whole_is_refused_before_any_work(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part) if (copy / part).is_dir() else (copy / part).unlink()
    with pytest.raises(Ex4dError) as caught:
        require_preset("draft")
    assert caught.value.code == "model_missing" and part.split("/")[0] in caught.value.message
    assert "Install this model again" in caught.value.hint, "and not the one that is downloaded"


def test_weights_that_are_no_numbers_end_with_the_step(shot: Shot, copy: Path) -> None:
    file = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["proj_out.bias"][:] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    take = rendered(shot)
    with pytest.raises(Ex4dError) as caught:
        drafted(shot, take)
    assert caught.value.code == "model_invalid" and take.missing("generated") == list(take.numbers)
