# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ex4d_engine.diffusion import preprocess, windows
from ex4d_engine.diffusion.latent_store import NoStore
from ex4d_engine.diffusion.pipeline import Ex4dPipeline
from ex4d_engine.diffusion.streaming_vae import Part
from ex4d_engine.diffusion.windows import (
    DenoisePass,
    Frames,
    NoiseField,
    StepCounter,
    Window,
    WindowInputs,
    anchored,
    denoise_windows,
    plan_windows,
)
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent
from tests.tiny_model import TEXT_WIDTH, conditioning

HEIGHT, WIDTH = 32, 48
LATENT_SIZE = (HEIGHT // 8, WIDTH // 8)


class Memory:
    """A store in memory that tells what it was asked for."""

    def __init__(self) -> None:
        self.latents: dict[str, torch.Tensor] = {}

    def load(self, key: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        return self.latents.get(key)

    def save(self, key: str, latents: torch.Tensor) -> None:
        self.latents[key] = latents.clone()


class Bar(Silent):
    def __init__(self, cancel_at: int | None = None) -> None:
        super().__init__()
        self.steps: list[tuple[int, int]] = []
        self.cancel_at = cancel_at

    def progress(self, stage: str, done: int, total: int) -> None:
        self.steps.append((done, total))
        if done == self.cancel_at:
            self.cancelled.set()


def model_denoiser(
    pipeline: Ex4dPipeline, videos: tuple[torch.Tensor, torch.Tensor]
) -> Callable[[Window, Frames | None], WindowInputs]:
    """The pipeline's own denoiser on slices of a padded clip."""
    embeds = torch.randn(1, 512, TEXT_WIDTH, generator=torch.Generator().manual_seed(5))

    def prepare(window: Window, anchor: Frames | None) -> WindowInputs:
        video, mask = (value[:, :, window.start : window.stop] for value in videos)
        given = pipeline.prepare_conditioning(*anchored(video, mask, anchor))
        return WindowInputs(lambda x, t: pipeline.conditioned_velocity(x, t, given, (embeds, None), 1.0))

    return prepare


def run(
    pipeline: Ex4dPipeline,
    plan: tuple[Window, ...],
    prepare: Callable[[Window, Frames | None], WindowInputs],
    steps: int = 2,
    store: Any = None,
    bar: Bar | None = None,
    seed: int = 0,
) -> np.ndarray:
    denoising = DenoisePass("test", "0" * 64, steps, seed=seed)
    counter = StepCounter(bar or Bar(), steps * len(plan))
    return np.concatenate(
        list(denoise_windows(pipeline, plan, prepare, denoising, LATENT_SIZE, store or NoStore(), counter))
    )


# --- the plan -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 600), st.integers(1, 25), st.data())
def test_windows_cover_the_clip_on_the_latent_grid(num_frames: int, quarter: int, data: st.DataObject) -> None:
    length = 4 * quarter + 1
    overlap = data.draw(st.integers(1, length - 4))

    plan = plan_windows(num_frames, length, overlap)

    total = windows.padded_frames(num_frames)
    assert total % 4 == 1 and num_frames <= total < num_frames + 4
    assert plan[0].start == 0 and plan[0].overlap == 0
    assert plan[-1].stop == total
    assert [window.index for window in plan] == list(range(len(plan)))
    assert {window.frames for window in plan} == {min(total, length)}
    for before, after in itertools.pairwise(plan):
        assert after.start % 4 == 0 and before.start < after.start < before.stop
        assert after.overlap == before.stop - after.start >= overlap
        assert after.overlap % 4 == 1
        assert after.latent_start + after.overlap_latents == before.latent_start + before.latents - 1
    # the last moves back only as far as it must
    assert all(window.overlap == windows.padded_frames(overlap) for window in plan[1:-1])


@pytest.mark.parametrize(
    ("frames", "starts"), [(49, [0]), (50, [0, 4]), (81, [0, 32]), (120, [0, 36, 72]), (1, [0]), (46, [0])]
)
def test_some_plans(frames: int, starts: list[int]) -> None:
    assert [window.start for window in plan_windows(frames)] == starts


@pytest.mark.parametrize(("frames", "window", "overlap"), [(0, 49, 13), (9, 48, 13), (9, 1, 1), (9, 9, 6), (9, 9, 0)])
def test_impossible_plans(frames: int, window: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="frame"):
        plan_windows(frames, window, overlap)


def test_noise_is_one_field() -> None:
    plan = plan_windows(21, 9, 5)
    field = NoiseField(3, 16, *LATENT_SIZE)
    parts = [field.window(window) for window in plan]

    assert torch.equal(parts[0], torch.randn(1, 16, 3, *LATENT_SIZE, generator=torch.Generator().manual_seed(3)))
    for before, after, window in zip(parts, parts[1:], plan[1:], strict=False):
        shared = window.overlap_latents + 1
        assert torch.equal(before[:, :, -shared:], after[:, :, :shared])
    longer = NoiseField(3, 16, *LATENT_SIZE)
    assert all(
        torch.equal(part, longer.window(window))
        for part, window in zip(parts[:2], plan_windows(200, 9, 5), strict=False)
    )


# --- one window, many windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [9, 81])
def test_one_window_is_the_plain_pipeline(pipeline: Ex4dPipeline, length: int) -> None:
    """81 frames are what Wan itself was made for."""
    videos = conditioning(length, HEIGHT, WIDTH)
    embeds = torch.randn(1, 512, TEXT_WIDTH, generator=torch.Generator().manual_seed(5))
    plain = pipeline(
        *videos,
        prompt_embeds=embeds,
        guidance_scale=1.0,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(4),
    ).frames[0]

    (window,) = plan_windows(length, max(length, 49))
    frames = run(pipeline, (window,), model_denoiser(pipeline, videos), seed=4)

    assert frames.shape == (length, HEIGHT, WIDTH, 3) and np.array_equal(frames, plain)


def test_a_long_clip_is_denoised_window_by_window(pipeline: Ex4dPipeline) -> None:
    plan, bar = plan_windows(21, 9, 5), Bar()
    anchors: list[Frames | None] = []
    model = model_denoiser(pipeline, conditioning(21, HEIGHT, WIDTH))

    def prepare(window: Window, anchor: Frames | None) -> WindowInputs:
        anchors.append(anchor)
        return model(window, anchor)

    frames = run(pipeline, plan, prepare, bar=bar)

    assert len(plan) == 4
    assert frames.shape == (21, HEIGHT, WIDTH, 3)
    assert list(dict.fromkeys(bar.steps)) == [(done, 8) for done in range(1, 9)]
    # What a window is shown is what its neighbour made: its first frame for good, the rest before the crossfade.
    for window, anchor in zip(plan[1:], anchors[1:], strict=True):
        assert anchor is not None and anchor.shape == (window.overlap, HEIGHT, WIDTH, 3)
        assert np.abs(anchor[0].astype(int) - frames[window.start]).max() <= 1


def test_windows_of_81_frames_over_a_longer_clip(pipeline: Ex4dPipeline) -> None:
    plan = plan_windows(100, 81, 13)
    assert [(window.start, window.stop, window.overlap) for window in plan] == [(0, 81, 0), (20, 101, 61)]
    bar = Bar()

    frames = run(pipeline, plan, model_denoiser(pipeline, conditioning(101, HEIGHT, WIDTH)), bar=bar)

    assert frames.shape == (101, HEIGHT, WIDTH, 3) and frames.std() > 0
    assert bar.steps[-1] == (4, 4)


def test_the_anchor_is_the_image_and_is_seen(pipeline: Ex4dPipeline) -> None:
    video, mask = conditioning(9, HEIGHT, WIDTH)
    anchor = np.random.default_rng(0).integers(0, 256, (5, HEIGHT, WIDTH, 3), dtype=np.uint8)

    colour, seen = anchored(video, mask, anchor)

    assert (seen[:, :, :5] == 1).all() and torch.equal(seen[:, :, 5:], mask[:, :, 5:])
    assert torch.equal(colour[:, :, 5:], video[:, :, 5:])
    # not one level is lost on the way to the model's image: it would be at every window
    assert np.array_equal(preprocess.first_frame(colour).numpy(), anchor[0])


def test_going_on_after_a_cancel_gives_the_same_frames(pipeline: Ex4dPipeline) -> None:
    plan, model = plan_windows(17, 9, 5), model_denoiser(pipeline, conditioning(17, HEIGHT, WIDTH))
    whole = run(pipeline, plan, model)
    store, prepared = Memory(), []

    with pytest.raises(Cancelled):
        run(pipeline, plan, model, store=store, bar=Bar(cancel_at=3))
    assert list(store.latents) == ["test_0000." + "0" * 16]

    def counted(window: Window, anchor: Frames | None) -> WindowInputs:
        prepared.append(window.index)
        return model(window, anchor)

    bar = Bar()
    assert np.array_equal(run(pipeline, plan, counted, store=store, bar=bar), whole)
    assert prepared == [1, 2]
    assert bar.steps[0] == (2, 6) and bar.steps[-1] == (6, 6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_numbers_stop_the_run(pipeline: Ex4dPipeline, bad: float) -> None:
    store = Memory()

    def prepare(window: Window, _: Frames | None) -> WindowInputs:
        def velocity(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            value = torch.zeros_like(latents)
            if window.index == 1 and timestep < 900:
                value[0, 0, 0, 0, 0] = bad
            return value

        return WindowInputs(velocity)

    with pytest.raises(Ex4dError, match=r"Step 3 of 4 in window 2 gave no numbers.*the precision to exact") as caught:
        run(pipeline, plan_windows(13, 9, 5), prepare, steps=4, store=store)

    assert caught.value.code == "model_invalid"
    assert len(store.latents) == 1


def test_the_crossfade_keeps_the_noise_level(pipeline: Ex4dPipeline) -> None:
    """Two windows that agree about the picture: their shared latents are that picture with that noise at each step."""
    plan = plan_windows(13, 9, 5)
    clean = torch.randn(1, 16, 4, *LATENT_SIZE, generator=torch.Generator().manual_seed(2))
    field = NoiseField(0, 16, *LATENT_SIZE)
    noise = {window.index: field.window(window) for window in plan}
    checked: list[float] = []

    def prepare(window: Window, _: Frames | None) -> WindowInputs:
        own = clean[:, :, window.latent_start : window.latent_start + window.latents]

        def velocity(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            level = float(timestep) / 1000
            expected = windows.at_level(own, noise[window.index], level)
            torch.testing.assert_close(latents, expected, rtol=0, atol=1e-5)
            checked.append(level)
            return noise[window.index] - own

        return WindowInputs(velocity)

    run(pipeline, plan, prepare, steps=5)
    assert len(checked) == 5 * len(plan)


# --- seams --------------------------------------------------------------------------------------------------------

SEAM_PLAN = plan_windows(121, 49, 13)
LONG_SEAM_PLAN = plan_windows(217, 81, 13)
SETTLED = 6  # latent frames until the random decoder has forgotten its start


class LinearDecoder:
    """Three latent channels, enlarged, as a picture that goes evenly from one latent frame to the next: the random
    decoder would blur a jump over many frames."""

    def __init__(self, *_: object) -> None:
        self.last: torch.Tensor | None = None

    def parts(self, latents: torch.Tensor, ahead: int = 0, *, is_last: bool = False) -> Iterator[Part]:
        frame, last = 0, self.last
        for index in range(latents.shape[2]):
            pixels = latents[:, :3, index].repeat_interleave(8, -2).repeat_interleave(8, -1) / 4
            shares = (1.0,) if last is None else (0.25, 0.5, 0.75, 1.0)
            last = pixels if last is None else last
            yield Part(frame, 0, 0, torch.stack([last + share * (pixels - last) for share in shares], 2))
            frame += len(shares)
            last = pixels
            if index < latents.shape[2] - ahead:
                self.last = pixels


def drifting_oracle(offsets: float, seed: int) -> Callable[[Window, Frames | None], WindowInputs]:
    """Knows the clip's latents, a static scene that flickers evenly, but shifts them by another amount each window."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(1, 16, 1, *LATENT_SIZE, generator=generator)
    flicker = 0.2 * torch.randn(1, 16, 1, *LATENT_SIZE, generator=generator)
    scene = still + flicker * (-1) ** torch.arange(55).view(1, 1, -1, 1, 1)
    direction = torch.randn(1, 16, 1, *LATENT_SIZE, generator=generator)

    def prepare(window: Window, _: Frames | None) -> WindowInputs:
        sign = 1 if window.index % 2 else -1
        own = scene[:, :, window.latent_start : window.latent_start + window.latents] + sign * offsets * direction

        def velocity(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            return (latents - own) / (timestep / 1000)

        return WindowInputs(velocity)

    return prepare


def seam(frames: np.ndarray, plan: tuple[Window, ...]) -> float:
    """The greatest step from one frame to the next within any overlap and at its ends, in medians of all such steps."""
    steps = np.sqrt((np.diff(frames.astype(float), axis=0) ** 2).mean(axis=(1, 2, 3)))
    at_borders = [
        steps[4 * max(window.latent_start - 1, 0) : 4 * (window.latent_start + window.overlap_latents + 1)].max()
        for window in plan[1:]
    ]
    return float(max(at_borders) / np.median(steps[4 * SETTLED :]))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("plan", [SEAM_PLAN, LONG_SEAM_PLAN], ids=["49", "81"])
def test_no_seam_where_windows_drift(
    pipeline: Ex4dPipeline, monkeypatch: pytest.MonkeyPatch, plan: tuple[Window, ...], seed: int
) -> None:
    """A static scene that flickers a little. Between frames of one latent frame the decoder goes evenly."""
    monkeypatch.setattr(windows, "StreamingDecoder", LinearDecoder)
    oracle = drifting_oracle(0.4, seed)
    blended = seam(run(pipeline, plan, oracle), plan)
    monkeypatch.setattr(windows, "overlap_shares", lambda latents: torch.ones(1, 1, latents, 1, 1))
    cut = seam(run(pipeline, plan, oracle), plan)
    assert blended < 1.5 < cut


def test_windows_that_share_a_single_frame(pipeline: Ex4dPipeline) -> None:
    """No latent frame, as a window's first stands for itself."""
    plan = plan_windows(17, 9, 1)
    assert [(window.start, window.overlap_latents) for window in plan] == [(0, 0), (8, 0)]
    frames = run(pipeline, plan, model_denoiser(pipeline, conditioning(17, HEIGHT, WIDTH)))
    assert frames.shape == (17, HEIGHT, WIDTH, 3)
