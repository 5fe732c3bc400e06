# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from ex4d_engine.diffusion.pipeline import Ex4dPipeline
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent
from tests.tiny_model import TEXT_WIDTH, conditioning

PROMPT = "a camera moves around a quiet street"


def generate(pipeline: Ex4dPipeline, videos: tuple[torch.Tensor, torch.Tensor] | None = None, **options: Any) -> Any:
    video, mask = videos or conditioning()
    options = {"prompt": PROMPT, "num_inference_steps": 2, **options}
    if "latents" not in options:
        options.setdefault("generator", torch.Generator().manual_seed(0))
    return pipeline(video, mask, **options).frames


class Calls:
    """The keyword and positional arguments of every transformer call while the block runs."""

    def __init__(self, pipeline: Ex4dPipeline) -> None:
        self.pipeline = pipeline
        self.inputs: list[torch.Tensor] = []
        self.texts: list[torch.Tensor] = []
        self.images: list[torch.Tensor] = []
        self.rays: list[torch.Tensor] = []

    def __enter__(self) -> Calls:
        def record(_: Any, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> None:
            for kept, value in zip((self.inputs, self.texts, self.images), (args[0], *args[2:]), strict=True):
                kept.append(value)
            self.rays.append(kwargs["ray_latent"])

        self.hook = self.pipeline.transformer.register_forward_pre_hook(record, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


def test_nine_frames_with_progress(pipeline: Ex4dPipeline) -> None:
    steps: list[tuple[int, float]] = []

    def on_step(_: Ex4dPipeline, step: int, timestep: torch.Tensor, __: Any) -> dict[str, torch.Tensor]:
        steps.append((step, float(timestep)))
        return {}

    frames = generate(pipeline, num_inference_steps=3, callback_on_step_end=on_step)

    assert frames.shape == (1, 9, 32, 48, 3)
    assert frames.dtype == np.uint8
    assert frames.std() > 1
    assert [step for step, _ in steps] == [0, 1, 2]
    assert steps[0][1] == 1000


def test_the_seed_decides(pipeline: Ex4dPipeline) -> None:
    first, again = (generate(pipeline, output_type="latent") for _ in range(2))
    other = generate(pipeline, output_type="latent", generator=torch.Generator().manual_seed(1))

    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    noise = torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(generate(pipeline, output_type="latent", latents=noise), first)


@torch.no_grad()
def test_output_types_agree(pipeline: Ex4dPipeline) -> None:
    latents = generate(pipeline, output_type="latent")
    values = generate(pipeline, output_type="np")

    decoded = pipeline.decode_latents(latents)
    assert values.dtype == np.float32
    assert values.min() >= 0 and values.max() <= 1
    np.testing.assert_allclose(values[0], ((decoded[0] + 1) / 2).permute(1, 2, 3, 0).numpy(), atol=1e-6)
    assert np.abs(generate(pipeline)[0] - np.floor(values[0] * 255)).max() <= 1


@pytest.mark.parametrize(("guidance_scale", "forwards"), [(5.0, 4), (1.0, 2)])
def test_guidance_one_is_one_forward_a_step(pipeline: Ex4dPipeline, guidance_scale: float, forwards: int) -> None:
    with Calls(pipeline) as calls:
        generate(pipeline, guidance_scale=guidance_scale)
    assert len(calls.inputs) == forwards


def test_both_guidance_passes_differ_in_the_text_alone(pipeline: Ex4dPipeline) -> None:
    with Calls(pipeline) as calls:
        generate(pipeline, num_inference_steps=1, negative_prompt="blurred")

    for kept in (calls.inputs, calls.images, calls.rays):
        assert torch.equal(kept[0], kept[1])
    assert not torch.equal(calls.texts[0], calls.texts[1])


def test_text_is_padded_with_zero_rows(pipeline: Ex4dPipeline) -> None:
    embeds = torch.randn(1, 7, TEXT_WIDTH, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"prompt": None, "guidance_scale": 1.0, "num_inference_steps": 1}
    with Calls(pipeline) as calls:
        generate(pipeline, prompt_embeds=embeds, **options)
        generate(pipeline, **{**options, "prompt": PROMPT})

    assert calls.texts[0].shape == calls.texts[1].shape == (1, 512, TEXT_WIDTH)
    assert torch.equal(calls.texts[0][:, :7], embeds)
    assert not calls.texts[0][:, 7:].any()
    tokens = len(pipeline.tokenizer(PROMPT).input_ids)
    assert calls.texts[1][0, :tokens].any(dim=1).all()
    assert not calls.texts[1][0, tokens:].any()


def test_only_the_first_frame_is_the_image(pipeline: Ex4dPipeline) -> None:
    video, mask = conditioning()
    later, earlier = video.clone(), video.clone()
    later[:, :, 1:] *= -1
    earlier[:, :, 0] *= -1
    options = {"guidance_scale": 1.0, "num_inference_steps": 1, "output_type": "latent"}
    with Calls(pipeline) as calls:
        for changed in (video, later, earlier):
            generate(pipeline, (changed, mask), **options)
    conditions = [value[:, 16:] for value in calls.inputs]

    assert torch.equal(conditions[0], conditions[1]) and torch.equal(calls.images[0], calls.images[1])
    assert not torch.equal(calls.rays[0], calls.rays[1])
    assert not torch.equal(conditions[0], conditions[2]) and not torch.equal(calls.images[0], calls.images[2])
    first_frame_mask = conditions[0][:, :4]
    assert (first_frame_mask[:, :, 0] == 1).all() and not first_frame_mask[:, :, 1:].any()


def test_the_vae_sees_the_mask_scaled_twice(pipeline: Ex4dPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[torch.Tensor] = []
    encode_video = pipeline.encode_video

    def recorded(video: torch.Tensor) -> torch.Tensor:
        encoded.append(video)
        return encode_video(video)

    monkeypatch.setattr(pipeline, "encode_video", recorded)
    video, mask = conditioning()

    pipeline.prepare_ray_latent(video, mask)

    assert torch.equal(encoded[0], video)
    assert set(encoded[1].unique().tolist()) == {-3.0, 1.0}


def test_odd_lengths_and_sizes_are_padded_and_cut_back(pipeline: Ex4dPipeline) -> None:
    video, mask = conditioning(frames=7, height=40, width=50)
    repeated = [torch.nn.functional.pad(value, (0, 14, 0, 8, 0, 2), mode="replicate") for value in (video, mask)]

    frames = generate(pipeline, (video, mask))

    assert frames.shape == (1, 7, 40, 50, 3)
    assert np.array_equal(frames, generate(pipeline, (repeated[0], repeated[1]))[:, :7, :40, :50])


def test_a_single_frame(pipeline: Ex4dPipeline) -> None:
    assert generate(pipeline, conditioning(frames=1)).shape == (1, 1, 32, 48, 3)


def test_cancel_in_the_middle_releases_everything(pipeline: Ex4dPipeline) -> None:
    reporter = Silent()
    kept: list[weakref.ref[torch.Tensor]] = []

    def on_step(_: Ex4dPipeline, step: int, __: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        kept.append(weakref.ref(tensors["latents"]))
        if step == 1:
            reporter.cancelled.set()
        reporter.check()
        return {}

    before = generate(pipeline)
    with Calls(pipeline) as calls, pytest.raises(Cancelled):
        generate(pipeline, num_inference_steps=5, callback_on_step_end=on_step)
    kept += [weakref.ref(value) for value in (*calls.inputs, *calls.images, *calls.rays)]
    del calls
    gc.collect()

    assert len(kept) >= 2 + 3 * 4
    assert not any(reference() is not None for reference in kept)
    assert pipeline.transformer.patch_embedding.ray_latent is None
    assert pipeline.current_timestep is None
    assert np.array_equal(generate(pipeline), before)


def test_a_callback_may_replace_the_latents(pipeline: Ex4dPipeline) -> None:
    zero = generate(
        pipeline,
        output_type="latent",
        callback_on_step_end=lambda _p, _s, _t, tensors: {"latents": torch.zeros_like(tensors["latents"])},
    )
    assert not zero.any()


def test_out_of_memory_is_told_to_the_user(pipeline: Ex4dPipeline) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = pipeline.transformer.blocks[1].register_forward_pre_hook(fail)
    try:
        with pytest.raises(Ex4dError) as caught:
            generate(pipeline)
    finally:
        hook.remove()

    assert caught.value.code == "out_of_memory"
    assert pipeline.transformer.patch_embedding.ray_latent is None


def test_without_a_camera_encoder(pipeline: Ex4dPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "camera_encoder", None)
    with pytest.raises(Ex4dError, match="no camera encoder") as caught:
        generate(pipeline)
    assert caught.value.code == "model_missing"


@pytest.mark.parametrize("shape", [(3, 9, 32, 48), (2, 3, 9, 32, 48), (1, 1, 9, 32, 48)])
def test_wrong_shapes(pipeline: Ex4dPipeline, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="have to be"):
        generate(pipeline, (torch.zeros(shape), torch.zeros(shape)))
    with pytest.raises(ValueError, match="alike"):
        generate(pipeline, (conditioning()[0], conditioning(frames=5)[1]))
