# SPDX-License-Identifier: GPL-3.0-or-later
"""Training of the bundled codec: it begins as principal components, learns, stops when told, and goes on exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from ex4d_engine.diffusion.bundled_codec import BLOCK_VALUES, BundledCodec, block_groups
from ex4d_engine.diffusion.loading import load_component
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.training import bundled_codec_training
from ex4d_engine.training.bundled_codec_losses import CodecLossWeights, block_edges, codec_losses, peak_signal_to_noise
from ex4d_engine.training.bundled_codec_training import (
    CHECKPOINT_NAME,
    CODEC_FOLDER,
    CodecTraining,
    measure_latents,
    score,
    train_codec,
)
from ex4d_engine.training.principal_components import fit_linear_codec
from tests.unit.training.watch import Watch

SMALL: dict[str, Any] = {
    "z_dim": 6,
    "encoder_widths": (6, 8, 8),
    "decoder_widths": (12, 8, 6),
    "decoder_blocks": 1,
}


class DriftingWaves:
    """Clips of a colour wave that drifts, drawn from the step's number alone."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def identity(self) -> dict[str, Any]:
        return {"bank.seed": self._seed}

    def batch(self, step: int, batch: int, frames: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(step)
        way = torch.rand(batch, 3, 1, 1, 1, generator=generator) - 0.5
        slope = torch.rand(2, batch, 3, 1, 1, 1, generator=generator) * 0.6
        time, y, x = torch.arange(frames).view(-1, 1, 1), torch.arange(32).view(-1, 1), torch.arange(24)
        return torch.sin(slope[0] * y + slope[1] * x + way * time) * 0.8


def run(out: Path, **changes: Any) -> CodecTraining:
    settings = {"steps": 4, "batch": 2, "frames": 5, "fitted_clips": 8, "device": "cpu"} | SMALL
    return CodecTraining(out, **(settings | changes))


def decibels(line: str) -> float:
    return float(line.split(" dB")[0].split()[-1])


def load(folder: Path) -> BundledCodec:
    loaded: BundledCodec = load_component(BundledCodec, folder, torch.float32)
    return loaded


def test_principal_components_give_back_what_lies_in_their_space() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(6, BLOCK_VALUES, generator=generator)
    directions -= directions.unflatten(1, (4, -1)).mean(1).repeat(1, 4)  # the first frame, four times, is their mean
    offset = torch.rand(BLOCK_VALUES // 4, generator=generator).repeat(4)
    blocks = torch.randn(5, 3, 4, 6, generator=generator) @ (directions * torch.tensor([9, 5, 3, 1, 0.5, 0.1])[:, None])
    groups = functional.pixel_shuffle((blocks + offset).permute(0, 3, 1, 2), 8)  # (5, 12, 24, 32)
    rest = groups.unflatten(1, (4, 3)).transpose(1, 2)
    first = functional.pixel_shuffle(offset.view(1, -1, 1, 1).expand(5, -1, 3, 4), 8)[:, :3, None]
    clips = torch.cat([first, rest], dim=2)
    codec = BundledCodec(**SMALL).eval()

    fit_linear_codec(codec, clips)

    with torch.no_grad():
        torch.testing.assert_close(codec(clips), clips, atol=2e-3, rtol=0)
    measure_latents(codec, clips)
    assert codec.config.latents_mean == pytest.approx([0] * 6, abs=1e-3)
    assert codec.config.latents_std == pytest.approx([1] * 6, abs=0.02)


def test_the_linear_codec_is_better_than_principal_components_alone() -> None:
    clips = DriftingWaves().batch(0, 12, 5)
    blocks = functional.pixel_unshuffle(block_groups(clips), 8).transpose(0, 1).flatten(1)
    blocks = blocks - blocks.mean(1, keepdim=True)
    left_out = torch.linalg.svdvals(blocks)[6:].square().sum() / blocks.numel()
    codec = BundledCodec(**SMALL).eval()

    fit_linear_codec(codec, clips)

    with torch.no_grad():
        returned = functional.pixel_unshuffle(block_groups(codec(clips)), 8).transpose(0, 1).flatten(1)
    found = (returned - functional.pixel_unshuffle(block_groups(clips), 8).transpose(0, 1).flatten(1)).square().mean()
    assert found < 0.9 * left_out
    assert block_edges(clips) < 1.1 < block_edges(codec.decode(codec.latents_of(clips)).sample) < 3


def test_a_short_run_lowers_the_loss_and_beats_the_linear_codec(tmp_path: Path) -> None:
    held_out, watch = DriftingWaves().batch(10**6, 4, 9), Watch()

    folder = train_codec(
        run(tmp_path / "Lauf 1", steps=60, batch=4, learning_rate=5e-3, latent_noise=0.02),
        DriftingWaves(),
        watch,
        held_out=held_out,
    )

    linear = next(decibels(line) for line in watch.lines if line.startswith("The linear codec"))
    assert watch.lines[-1].startswith("On clips never seen") and decibels(watch.lines[-1]) > linear + 0.2
    codec = load(folder)
    assert score(codec, held_out).decibels > linear + 0.2, "half precision keeps it"
    latents = codec.latents_of(DriftingWaves().batch(60, 4, 5))
    assert codec.config.latents_std == pytest.approx(
        latents.detach().transpose(0, 1).flatten(1).std(1).tolist(), rel=0.05
    )
    assert {path.name for path in folder.parent.iterdir()} == {CHECKPOINT_NAME, CODEC_FOLDER}


def test_a_resumed_run_equals_one_that_was_not_interrupted(tmp_path: Path) -> None:
    train_codec(run(tmp_path / "whole", steps=6), DriftingWaves(), Silent())
    halves = run(tmp_path / "halves", steps=6)
    with pytest.raises(Cancelled):
        train_codec(halves, DriftingWaves(), Watch(cancel_after=3))
    watch = Watch()
    train_codec(halves, DriftingWaves(), watch, resume=True)

    assert "from step 3" in watch.lines[0]
    for name in (CHECKPOINT_NAME, f"{CODEC_FOLDER}/diffusion_pytorch_model.safetensors"):
        one, other = load_file(tmp_path / "whole" / name), load_file(halves.out / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name
    configs = [(tmp_path / out / CODEC_FOLDER / "config.json").read_text() for out in ("whole", "halves")]
    assert configs[0] == configs[1]


def test_the_clock_ends_a_run_and_counts_over_sittings(tmp_path: Path) -> None:
    ticks = iter(range(10_000))

    def clock() -> float:
        return float(next(ticks))

    settings = run(tmp_path, steps=None, minutes=0.5)
    with pytest.raises(Cancelled):
        train_codec(settings, DriftingWaves(), Watch(cancel_after=2), clock=clock)
    watch = Watch()
    train_codec(settings, DriftingWaves(), watch, resume=True, clock=clock)
    assert 2 < watch.checks < 30  # half a minute, less what the first sitting took


def test_a_folder_in_use_and_another_run_are_refused(tmp_path: Path) -> None:
    train_codec(run(tmp_path, steps=1), DriftingWaves(), Silent())
    attempts: list[Callable[[], Path]] = [
        lambda: train_codec(run(tmp_path, steps=1), DriftingWaves(), Silent()),
        lambda: train_codec(run(tmp_path, seed=3, batch=1), DriftingWaves(), Silent(), resume=True),
        lambda: train_codec(run(tmp_path, steps=1), DriftingWaves(seed=5), Silent(), resume=True),
    ]
    messages = ("--resume", r"batch \(2, not 1\), seed \(0, not 3\)", r"bank.seed \(0, not 5\)")
    for attempt, said in zip(attempts, messages, strict=True):
        with pytest.raises(Ex4dError, match=said) as caught:
            attempt()
        assert caught.value.code == "bad_request"


@pytest.mark.parametrize("wrong", [{"steps": None}, {"minutes": 1.0}, {"steps": 0}, {"batch": 0}, {"frames": 6}])
def test_settings_that_make_no_run_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(Ex4dError) as caught:
        run(tmp_path, **wrong)
    assert caught.value.code == "bad_request"


def test_the_losses_know_a_shift_from_an_edge_and_from_flicker() -> None:
    true = torch.zeros(1, 3, 4, 8, 8)
    shifted, edged, flickering = true + 0.5, true.clone(), true.clone()
    edged[..., 4:] = 0.5
    flickering[:, :, ::2] = 0.5

    assert [round(float(part), 6) for part in codec_losses(shifted, true)] == [0.5, 0.25, 0, 0]
    gradients = 0.5 / 7 + 0.5 / 3 + 0.5 / 1  # one step in 7, 3 and 1 places
    assert [float(part) for part in codec_losses(edged, true)] == pytest.approx([0.25, 0.125, gradients, 0])
    assert [float(part) for part in codec_losses(flickering, true)] == pytest.approx([0.25, 0.125, 0, 0.5])
    total = codec_losses(shifted, true).total(CodecLossWeights(2, 3, 5, 7))
    assert float(total) == pytest.approx(2 * 0.5 + 3 * 0.25)


def test_signal_to_noise_is_that_of_a_range_of_two() -> None:
    assert peak_signal_to_noise(torch.full((2, 3), 0.2), torch.zeros(2, 3)).tolist() == pytest.approx([20, 20])


def test_edges_between_blocks_are_found() -> None:
    smooth = torch.linspace(-1, 1, 64).expand(1, 3, 1, 8, 64)
    assert block_edges(smooth) == pytest.approx(1, rel=1e-4)
    blocks = smooth.unflatten(-1, (8, 8)).mean(-1, keepdim=True).expand(1, 3, 1, 8, 8, 8).flatten(-2)
    assert block_edges(blocks) == pytest.approx(9)  # 63 steps, of which 7 are all there is


def test_a_run_can_start_from_a_codec_alone(tmp_path: Path) -> None:
    first = train_codec(run(tmp_path / "first", steps=3), DriftingWaves(), Silent())
    second = train_codec(run(tmp_path / "second", steps=1, learning_rate=1e-9), DriftingWaves(), Silent(), start=first)
    for name, value in load(first).state_dict().items():
        torch.testing.assert_close(load(second).state_dict()[name], value, atol=2e-3, rtol=2e-3)
    with pytest.raises(Ex4dError) as caught:
        train_codec(run(tmp_path / "third", decoder_blocks=2), DriftingWaves(), Silent(), start=first)
    assert caught.value.code == "bad_request"


def test_weights_and_their_statistics_change_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New weights beside the old configuration would be another codec, whose latents are off."""
    settings = run(tmp_path, steps=3)
    folder = train_codec(settings, DriftingWaves(), Silent())
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object) -> None:
        raise Ex4dError("disk_full", "The disk is full.")

    monkeypatch.setattr(bundled_codec_training, "write_bytes", full)
    with pytest.raises(Ex4dError, match="disk is full"):
        train_codec(dataclasses.replace(settings, steps=6), DriftingWaves(), Silent(), resume=True)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.undo()
    train_codec(dataclasses.replace(settings, steps=6), DriftingWaves(), Silent(), resume=True)
    assert all(path.read_bytes() != content for path, content in before.items())
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT_NAME, CODEC_FOLDER}


def test_a_codec_that_diverged_goes_back_to_its_checkpoint(tmp_path: Path) -> None:
    class Broken(DriftingWaves):
        asked = 0

        def batch(self, step: int, batch: int, frames: int) -> torch.Tensor:
            clips = super().batch(step, batch, frames)
            self.asked += step == 3
            # the first time they are for the latents' statistics, with the checkpoint after step 3
            return clips * torch.inf if step == 3 and self.asked == 2 else clips

    watch = Watch()
    settings = run(tmp_path, steps=5, log_s=0.0, checkpoint_s=0.0)
    folder = train_codec(settings, Broken(), watch)
    assert any("diverged before step 4: back to step 3" in line for line in watch.lines)
    assert all(value.isfinite().all() for value in load(folder).state_dict().values())
