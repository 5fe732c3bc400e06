# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundled model's stages: each learns, saves what the ordinary classes load, and goes on exactly where it was."""

from __future__ import annotations

import dataclasses
import errno
import functools
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ex4d_engine import tensor_saving
from ex4d_engine.diffusion.checkpoints import load_adapter
from ex4d_engine.diffusion.folder_adapter import folder_adapter
from ex4d_engine.diffusion.loading import load_pipeline
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.training import bundled_parts
from ex4d_engine.training.bank_masks import BankMasks, MaskDrawer
from ex4d_engine.training.bundled_adapter import AdapterStage
from ex4d_engine.training.bundled_base import BaseSettings, BaseStage
from ex4d_engine.training.bundled_objective import SHEET_NAME
from ex4d_engine.training.bundled_parts import constant_text, load_codec, load_transformer, new_transformer
from ex4d_engine.training.bundled_run import CHECKPOINT_NAME, BundledTraining, Stage, train_stage
from ex4d_engine.training.checkpoint import save_checkpoint
from ex4d_engine.training.clip_bank import ClipBank, held_out_clips
from tests.unit.training.bundled_material import (
    ADAPTER,
    CPU,
    SHAPE,
    SIZES,
    save_codec,
    small_bank,
    small_clips,
    small_codec,
)
from tests.unit.training.watch import Watch

MASKS = BankMasks("tracking", frames=5, per_clip=1)


def settings(out: Path, **changes: Any) -> BundledTraining:
    given: dict[str, Any] = {"steps": 3, "batch": 2, "frames": (5,), "learning_rate": 1e-2, "log_s": 0.0}
    return BundledTraining(out, CPU, **(given | changes))


def base(training: BundledTraining, start: Path, **of_bank: Any) -> tuple[Stage, ClipBank]:
    bank = ClipBank(small_bank(**of_bank), small_clips, CPU)
    held_out = held_out_clips(small_clips, 2, 5, SIZES[0], CPU, None)
    known = start if (start / "transformer").exists() else None
    return BaseStage(training, BaseSettings(shape=SHAPE), load_codec(start, CPU), bank, held_out, known), bank


def adapter(training: BundledTraining, start: Path, kind: BankMasks = MASKS) -> tuple[Stage, ClipBank]:
    masks = MaskDrawer(kind, 0)
    bank = ClipBank(small_bank(), small_clips, CPU, masks)
    held_out = held_out_clips(small_clips, 2, 5, SIZES[0], CPU, masks)
    return AdapterStage(training, ADAPTER, kind, load_codec(start, CPU), bank, held_out, start), bank


def train(make: Any, training: BundledTraining, start: Path, *, resume: bool = False, watch: Any = None) -> Path:
    stage, bank = make(training, start)
    (model,) = train_stage(training, stage, bank, watch or Silent(), resume=resume)
    return model


@pytest.fixture(scope="module")
def trained_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Modell ä")
    return train(base, settings(folder / "base"), save_codec(folder / "start"))


def test_the_base_loads_through_the_ordinary_classes(trained_base: Path) -> None:
    transformer = load_transformer(trained_base)
    assert transformer.config.in_channels == 16 and transformer.config.out_channels == 6
    fresh = new_transformer(load_codec(trained_base, CPU), SHAPE, 0)
    assert not torch.allclose(transformer.proj_out.weight, fresh.proj_out.weight, atol=1e-3), "it has learned"
    load_codec(trained_base, CPU)
    weights = load_file(next(trained_base.glob("transformer/*.safetensors")))
    # diffusers keeps norms and the like in float32
    assert all(value.dtype == torch.float16 for name, value in weights.items() if ".ffn." in name or ".to_" in name)
    picture = cv2.imread(str(trained_base.parent / SHEET_NAME))
    assert picture is not None and picture.shape == (2 * 3 * 32, 5 * 48, 3)


def test_a_fresh_transformer_hands_its_noise_on() -> None:
    """All of it, in its place: shuffled, the copy would have nothing to do with the input."""
    transformer = new_transformer(small_codec(), SHAPE | {"attention_head_dim": 16}, 0)
    given = torch.randn(2, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (made,) = transformer(given, torch.full((2,), 900.0), constant_text(transformer, 2), return_dict=False)
    pair = torch.stack([made.flatten(), given[:, :6].flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.8


def test_an_adapter_is_trained_on_it_and_both_generate(trained_base: Path, tmp_path: Path) -> None:
    model = train(adapter, settings(tmp_path / "adapter", steps=4), trained_base)
    before, after = (load_file(next(folder.glob("transformer/*.saf*"))) for folder in (trained_base, model))
    assert all(torch.equal(before[name], after[name]) for name in before), "the base is frozen"
    file = folder_adapter(model)
    assert file is not None
    camera = load_adapter(file, load_transformer(model))
    assert camera.latent_patch_embedding.weight.abs().max() > 0
    pipeline = load_pipeline(model, file, dtype=torch.float32, device=CPU, reporter=Silent())
    assert pipeline.camera_encoder is not None


@pytest.mark.parametrize("make", [base, adapter])
def test_a_resumed_run_equals_one_that_was_not_interrupted(make: Any, trained_base: Path, tmp_path: Path) -> None:
    whole = train(make, settings(tmp_path / "whole", steps=6), trained_base)
    with pytest.raises(Cancelled):
        train(make, settings(tmp_path / "parts", steps=6), trained_base, watch=Watch(cancel_after=3))
    parts = train(make, settings(tmp_path / "parts", steps=6), trained_base, resume=True)
    kept, other = (load_file(folder.parent / CHECKPOINT_NAME) for folder in (whole, parts))
    assert kept.keys() == other.keys()
    for name, value in kept.items():
        assert torch.equal(value, other[name]), name


def test_weights_alone_are_enough_to_go_on(trained_base: Path, tmp_path: Path) -> None:
    stage, _ = base(settings(tmp_path / "more"), trained_base)
    expected = load_transformer(trained_base).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in stage.run.network.state_dict().items())


def test_an_adapter_goes_on_from_its_file(trained_base: Path, tmp_path: Path) -> None:
    model = train(adapter, settings(tmp_path / "first"), trained_base)
    stage, _ = adapter(settings(tmp_path / "more"), model)
    saved = load_file(folder_adapter(model) or Path())
    camera = {
        n.removeprefix("camera_encoder."): v for n, v in stage.run.network.state_dict().items() if "camera_e" in n
    }
    assert all(torch.equal(value, saved[name].float()) for name, value in camera.items())


def test_what_a_run_says_of_itself(trained_base: Path, tmp_path: Path) -> None:
    watch = Watch()
    train(base, settings(tmp_path / "run", save_s=0.0), trained_base, watch=watch)
    text = "\n".join(watch.lines)
    assert "clips/s" in text and "% of all time drawing" in text and text.count("held-out loss") == 4


def test_what_cannot_be_is_refused(trained_base: Path, tmp_path: Path) -> None:
    training = settings(tmp_path / "run")
    train(base, training, trained_base)
    with pytest.raises(Ex4dError, match="holds a training run already"):
        train(base, training, trained_base)
    with pytest.raises(Ex4dError, match=r"another learning_rate \(0\.01, not 0\.001\)"):
        train(base, dataclasses.replace(training, learning_rate=1e-3), trained_base, resume=True)
    with pytest.raises(Ex4dError, match=r"another .*stage"):
        train(adapter, training, trained_base, resume=True)
    with pytest.raises(Ex4dError, match="has no transformer"):
        adapter(training, save_codec(tmp_path / "codec only"))
    with pytest.raises(Ex4dError, match="4k"):
        settings(tmp_path / "run", frames=(6,))


def test_a_run_goes_on_with_the_masks_it_began_with(trained_base: Path, tmp_path: Path) -> None:
    """Else a row "tracking masks only" would have learned from others too."""
    training = settings(tmp_path / "run")
    train(adapter, training, trained_base)
    others = functools.partial(adapter, kind=dataclasses.replace(MASKS, mix="both"))
    with pytest.raises(Ex4dError, match=r"another masks \('tracking', not 'both'\)"):
        train(others, training, trained_base, resume=True)


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"seed": 1}, r"bank\.seed \(0, not 1\)"),
        ({"sizes": SIZES[::-1]}, r"bank\.sizes \(\[\[32, 48\], \[48, 32\]\], not \[\[48, 32\], \[32, 48\]\]\)"),
        ({"clip_frames": 8, "margin": 0.5}, r"bank\.clip_frames \(7, not 8\), bank\.margin \(0\.25, not 0\.5\)"),
        ({"most": 8, "refresh_every": 3}, r"bank\.most \(6, not 8\), bank\.refresh_every \(2, not 3\)"),
    ],
)
def test_a_run_goes_on_with_the_clips_it_began_with(
    changed: dict[str, Any], difference: str, trained_base: Path, tmp_path: Path
) -> None:
    training = settings(tmp_path / "run")
    train(base, training, trained_base)
    train(base, training, trained_base, resume=True)
    with pytest.raises(Ex4dError, match=f"another {difference}") as caught:
        train(functools.partial(base, **changed), training, trained_base, resume=True)
    assert caught.value.code == "bad_request"


def test_a_run_goes_on_with_as_many_masks_of_the_same_kind(trained_base: Path, tmp_path: Path) -> None:
    training = settings(tmp_path / "run")
    train(adapter, training, trained_base)
    others = functools.partial(adapter, kind=dataclasses.replace(MASKS, per_clip=2, wall_share=0.5))
    with pytest.raises(Ex4dError, match=r"another masks\.per_clip \(1, not 2\), masks\.wall_share"):
        train(others, training, trained_base, resume=True)


def test_an_adapter_goes_on_over_the_base_it_began_with(trained_base: Path, tmp_path: Path) -> None:
    training = settings(tmp_path / "run")
    model = train(adapter, training, trained_base)
    train(adapter, training, model, resume=True)  # the same weights, written once more
    other = Path(shutil.copytree(trained_base, tmp_path / "other"))
    file = next(other.glob("transformer/*.safetensors"))
    tensors = load_file(file)
    tensors["blocks.1.ffn.net.2.bias"][3] += 0.5
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(Ex4dError, match=r"another base \('[0-9a-f]+', not '[0-9a-f]+'\)") as caught:
        train(adapter, training, other, resume=True)
    assert caught.value.code == "bad_request"


@pytest.mark.parametrize("make", [base, adapter])
def test_a_stage_goes_on_with_the_codec_it_began_with(make: Any, trained_base: Path, tmp_path: Path) -> None:
    """Its latents are another language, and so they are with other statistics."""
    training = settings(tmp_path / "run")
    train(make, training, trained_base)
    other = Path(shutil.copytree(trained_base, tmp_path / "other"))
    config = other / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"latents_std": [0.4] * 6}), "utf-8")
    with pytest.raises(Ex4dError, match=r"another codec"):
        train(make, training, other, resume=True)


def test_the_clock_ends_a_run_and_counts_over_sittings(trained_base: Path, tmp_path: Path) -> None:
    """A minute on a clock that moves by five seconds whenever it is read."""
    ticks = itertools.count(0.0, 5.0)

    def sitting(out: Path, watch: Watch, *, resume: bool = False) -> int:
        training = settings(out, steps=None, minutes=1.0, log_s=1e9)
        stage, bank = base(training, trained_base)
        train_stage(training, stage, bank, watch, resume=resume, clock=lambda: next(ticks))
        return stage.run.step

    whole = sitting(tmp_path / "whole", Watch())
    assert whole == 12, "once a step"
    with pytest.raises(Cancelled):
        sitting(tmp_path / "parts", Watch(cancel_after=8))
    assert sitting(tmp_path / "parts", Watch(), resume=True) == whole


def test_a_full_disk_costs_neither_model_nor_checkpoint(
    trained_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = settings(tmp_path / "run")
    model = train(base, training, trained_base)
    good = {path: path.read_bytes() for path in training.out.rglob("*") if path.is_file()}

    def half_written(tensors: Any, path: Path, *_: Any, **__: Any) -> None:
        Path(path).write_bytes(b"half")
        raise SafetensorError(f"Error while serializing: I/O error: No space left on device (os error {errno.ENOSPC})")

    stage, _ = base(training, trained_base)
    monkeypatch.setattr("safetensors.torch.save_file", half_written)
    monkeypatch.setattr(tensor_saving, "save_file", half_written)
    for save in (stage.save_model, lambda: save_checkpoint(training.out / CHECKPOINT_NAME, stage.run, {})):
        with pytest.raises(Ex4dError) as caught:
            save()
        assert caught.value.code == "disk_full"
    assert {path: path.read_bytes() for path in training.out.rglob("*") if path in good} == good
    assert not [path for path in training.out.iterdir() if path.name.startswith(".")], "nothing half written is left"
    load_transformer(model)


def test_a_model_that_cannot_be_put_in_place_leaves_the_one_before(
    trained_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows a folder cannot be renamed while a program has one of its files open."""
    training = settings(tmp_path / "run")
    model = train(base, training, trained_base)
    rename = Path.rename

    def forbidden(self: Path, target: Path) -> Path:
        if self.name == ".model.new":
            raise PermissionError(errno.EACCES, "in use")
        return rename(self, target)

    stage, _ = base(training, trained_base)
    monkeypatch.setattr(Path, "rename", forbidden)
    with pytest.raises(Ex4dError) as caught:
        stage.save_model()
    assert caught.value.code == "read_only"
    load_transformer(model)


def test_a_run_killed_between_two_models_keeps_the_one_before(
    trained_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = settings(tmp_path / "run")
    model = train(base, training, trained_base)
    model.rename(training.out / ".model.old")  # as where the process ended before the new one took its place
    stage, _ = base(training, trained_base)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundled_parts, "write_bundled_folder", full)
    with pytest.raises(Ex4dError, match="disk is full"):
        stage.save_model()
    load_transformer(model)


def test_the_held_out_loss_falls_as_clips_are_learned(tmp_path: Path) -> None:
    training = settings(tmp_path / "run", steps=40, batch=4)
    stage, bank = base(training, save_codec(tmp_path / "start"))
    before = stage.held_out()
    assert stage.held_out() == before, "it does not depend on luck"
    train_stage(training, stage, bank, Silent())
    assert stage.held_out() < 0.9 * before


def test_a_run_that_diverged_goes_back_and_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = settings(tmp_path / "run", steps=5, checkpoint_s=0.0)
    stage, bank = base(training, save_codec(tmp_path / "start"))
    loss, broken = stage.loss, [3, 3]

    def once_beyond_numbers(step: int, material: Any) -> torch.Tensor:
        return loss(step, material) * (torch.inf if step in broken and not broken.remove(step) else 1)

    monkeypatch.setattr(stage, "loss", once_beyond_numbers)
    watch = Watch()
    train_stage(training, stage, bank, watch)
    assert sum("diverged before step 4: back to step 3" in line for line in watch.lines) == 2
    assert stage.run.step == 5 and all(value.isfinite().all() for value in stage.run.network.state_dict().values())
    stage, bank = base(settings(tmp_path / "new", log_s=0.0), save_codec(tmp_path / "start"))
    monkeypatch.setattr(stage, "loss", lambda step, material: loss(step, material) * torch.nan)
    with pytest.raises(Ex4dError, match="smaller learning rate"):
        train_stage(settings(tmp_path / "new"), stage, bank, Silent())
