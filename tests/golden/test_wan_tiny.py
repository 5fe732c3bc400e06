# SPDX-License-Identifier: GPL-3.0-or-later
"""Every stage of the pipeline against the reference's own numbers, through the original weight files.

The fixture folder (its README says how it was made) is tests/golden/wan_tiny, or the one the environment variable
EX4D_GOLDEN names; all sizes, steps and seeds come from its configs_diffusers.json. Tolerance: 5e-5 in float32.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ex4d_engine.diffusion import preprocess
from ex4d_engine.diffusion.checkpoints import (
    load_adapter,
    load_image_encoder,
    load_text_encoder,
    load_transformer,
    load_vae,
    save_adapter,
)
from ex4d_engine.diffusion.pipeline import TEXT_TOKENS, Ex4dPipeline
from ex4d_engine.diffusion.scheduler import euler_scheduler, set_sampling_steps, training_schedule

pytestmark = pytest.mark.golden

FOLDER = Path(os.environ.get("EX4D_GOLDEN", Path(__file__).parent / "wan_tiny"))
CONFIG = json.loads((FOLDER / "configs_diffusers.json").read_text(encoding="utf-8"))
RUN = CONFIG["run"]
TOLERANCE = 5e-5

Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def given() -> Tensors:
    return load_file(FOLDER / "inputs.safetensors")


@pytest.fixture(scope="module")
def golden() -> Tensors:
    return load_file(FOLDER / "outputs.safetensors")


@pytest.fixture(scope="module")
def pipeline() -> Ex4dPipeline:
    transformer = load_transformer(FOLDER / "dit.safetensors", CONFIG["WanTransformer3DModel"])
    return Ex4dPipeline(
        tokenizer=None,
        text_encoder=load_text_encoder(FOLDER / "text_encoder.safetensors", CONFIG["UMT5EncoderModel"]),
        vae=load_vae(FOLDER / "vae.safetensors", CONFIG["AutoencoderKLWan"]),
        scheduler=euler_scheduler(RUN["flow_shift"]),
        image_encoder=load_image_encoder(FOLDER / "clip.safetensors", CONFIG["CLIPVisionModel"]),
        camera_encoder=load_adapter(FOLDER / "ex4d.safetensors", transformer),
        transformer=transformer,
    )


@dataclass
class Recording:
    """What passes through the transformer during one whole run, and its result."""

    predictions: list[torch.Tensor] = field(default_factory=list)
    block_inputs: list[torch.Tensor] = field(default_factory=list)
    patch_tokens: list[torch.Tensor] = field(default_factory=list)
    latents: list[torch.Tensor] = field(default_factory=list)
    timesteps: list[float] = field(default_factory=list)
    frames: np.ndarray | None = None


@pytest.fixture(scope="module")
def run(pipeline: Ex4dPipeline, given: Tensors) -> Recording:
    record = Recording()
    transformer = pipeline.transformer

    def without_ray(module: Any, args: tuple[torch.Tensor, ...]) -> None:
        record.patch_tokens.append(torch.nn.Conv3d.forward(module, args[0]))

    hooks = [
        transformer.register_forward_hook(lambda _m, _a, output: record.predictions.append(output[0])),
        transformer.blocks[0].register_forward_pre_hook(lambda _m, args: record.block_inputs.append(args[0])),
        transformer.patch_embedding.register_forward_pre_hook(without_ray),
    ]

    def on_step(_: Ex4dPipeline, step: int, timestep: torch.Tensor, tensors: Tensors) -> Tensors:
        assert step == len(record.latents)
        record.timesteps.append(float(timestep))
        record.latents.append(tensors["latents"])
        return {}

    record.frames = pipeline(
        given["video"],
        given["mask"],
        prompt_embeds=given["text_pos"][None],
        negative_prompt_embeds=given["text_neg"][None],
        num_inference_steps=RUN["num_inference_steps"],
        guidance_scale=RUN["guidance_scale"],
        generator=torch.Generator("cpu").manual_seed(RUN["seed"]),
        callback_on_step_end=on_step,
        output_type="np",
    ).frames
    for hook in hooks:
        hook.remove()
    return record


def assert_same(value: Any, expected: torch.Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(value), expected, rtol=0, atol=TOLERANCE)


def padded(embeds: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(embeds, (0, 0, 0, TEXT_TOKENS - embeds.shape[0]))[None]


# --- preprocessing ------------------------------------------------------------------------------------------------


def test_conditioning_videos(given: Tensors) -> None:
    colours, masks = given["src_color_bgr"].numpy()[..., ::-1], given["src_mask_bgr"].numpy()[..., 0]
    picked = preprocess.evenly_spaced_frames(len(colours), RUN["num_frames"])
    kernels = preprocess.random_erosion(RUN["num_frames"], RUN["erosion_seed"])
    assert len(colours) == RUN["source_frames"]
    assert kernels == given["erosion_kernels"].tolist()

    video, mask = preprocess.conditioning_videos(colours[picked], masks[picked], kernels, (RUN["height"], RUN["width"]))

    assert torch.equal(mask, given["mask"])
    assert torch.equal((mask[0] + 1) / 2, given["mask_frames"])
    assert_same(video, given["video"])


def test_colour_frames_before_the_mask(given: Tensors) -> None:
    colours = given["src_color_bgr"].numpy()[..., ::-1]
    picked = preprocess.evenly_spaced_frames(len(colours), RUN["num_frames"])
    all_seen = np.full(colours.shape[:3], 255, np.uint8)

    video, _ = preprocess.conditioning_videos(
        colours[picked], all_seen[picked], [1] * len(picked), (RUN["height"], RUN["width"])
    )

    assert_same((video[0] + 1) / 2, given["color_frames"])


def test_first_frame_is_truncated(given: Tensors, golden: Tensors) -> None:
    assert torch.equal(preprocess.first_frame(given["video"]), golden["first_frame_uint8"])


def test_clip_pixel_values(golden: Tensors) -> None:
    assert_same(preprocess.clip_pixel_values(golden["first_frame_uint8"]), golden["clip_pixel_values"])


# --- encoders -----------------------------------------------------------------------------------------------------


def test_clip_features(pipeline: Ex4dPipeline, golden: Tensors) -> None:
    assert_same(pipeline.encode_image(golden["first_frame_uint8"]), golden["clip_fea"])


def test_text_encoder(pipeline: Ex4dPipeline, golden: Tensors) -> None:
    mask = golden["text_mask"]
    embeds = pipeline.text_encoder(golden["text_ids"], mask).last_hidden_state
    assert_same(embeds[mask.bool()], golden["text_emb"][mask.bool()])


def test_vae_latents(pipeline: Ex4dPipeline, given: Tensors, golden: Tensors) -> None:
    assert_same(pipeline.encode_video(given["video"]), golden["video_latent"])
    assert_same(pipeline.encode_video(given["mask"] * 2 - 1), golden["mask_latent"])


def test_ray_latent(pipeline: Ex4dPipeline, given: Tensors, golden: Tensors) -> None:
    assert_same(pipeline.camera_encoder(golden["video_latent"], golden["mask_latent"]), golden["ray_latent"])
    assert_same(pipeline.prepare_ray_latent(given["video"], given["mask"]), golden["ray_latent"])


def test_noise_and_first_frame_condition(pipeline: Ex4dPipeline, given: Tensors, golden: Tensors) -> None:
    noise, condition = pipeline.prepare_latents(
        preprocess.image_tensor(golden["first_frame_uint8"]),
        batch_size=1,
        height=RUN["height"],
        width=RUN["width"],
        num_frames=RUN["num_frames"],
        dtype=torch.float32,
        device=torch.device("cpu"),
        generator=torch.Generator("cpu").manual_seed(RUN["seed"]),
    )

    assert torch.equal(noise, given["noise"])
    assert_same(condition, golden["y"])
    assert_same(condition[:, 4:], golden["y_latent_cond"])


# --- transformer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "lora", "ray"),
    [
        ("pred_base", False, False),
        ("pred_lora_only", True, False),
        ("pred_ray_only", False, True),
        ("pred_full", True, True),
    ],
)
def test_prediction(pipeline: Ex4dPipeline, given: Tensors, golden: Tensors, name: str, lora: bool, ray: bool) -> None:
    if not lora:
        pipeline.transformer.disable_lora()
    try:
        prediction = pipeline.predict_velocity(
            given["noise"],
            golden["y"],
            golden["timesteps"][1],
            (padded(given["text_pos"]), None),
            golden["clip_fea"],
            golden["ray_latent"] if ray else None,
        )
    finally:
        pipeline.transformer.enable_lora()

    assert_same(prediction, golden[name])


def test_adapter_saved_and_read_again_is_the_same_file(pipeline: Ex4dPipeline, tmp_path: Path) -> None:
    save_adapter(tmp_path / "again.safetensors", pipeline.transformer, pipeline.camera_encoder)

    again, original = load_file(tmp_path / "again.safetensors"), load_file(FOLDER / "ex4d.safetensors")
    assert again.keys() == original.keys()
    assert all(torch.equal(again[name], original[name]) for name in original)


# --- the whole run ------------------------------------------------------------------------------------------------


def test_patch_tokens_and_first_block_input(run: Recording, golden: Tensors) -> None:
    assert_same(run.patch_tokens[0], golden["patch_tokens_pos_step0"])
    assert_same(run.block_inputs[0], golden["block0_input_pos_step0"])


def test_predictions_of_every_step(run: Recording, golden: Tensors) -> None:
    assert len(run.predictions) == 2 * RUN["num_inference_steps"]
    assert_same(torch.stack(run.predictions[0::2]), golden["noise_pred_pos"])
    assert_same(torch.stack(run.predictions[1::2]), golden["noise_pred_neg"])


def test_latents_of_every_step(run: Recording, golden: Tensors) -> None:
    assert_same(torch.tensor(run.timesteps), golden["timesteps"])
    assert_same(torch.stack(run.latents), golden["latents_steps"])


def test_frames(run: Recording, pipeline: Ex4dPipeline, golden: Tensors) -> None:
    assert_same(pipeline.decode_latents(golden["latents_steps"][-1]), golden["frames"])
    assert run.frames is not None
    assert_same(torch.from_numpy(run.frames).permute(0, 4, 1, 2, 3) * 2 - 1, golden["frames"])


def test_uint8_frames(run: Recording, golden: Tensors) -> None:
    assert np.array_equal(preprocess.uint8_frames(golden["frames"]), golden["frames_uint8"].numpy())

    # From our own latents a value within 5e-5 of a whole number may fall to its other side, and only such a value.
    ours = preprocess.uint8_frames(torch.from_numpy(run.frames).permute(0, 4, 1, 2, 3) * 2 - 1).astype(int)
    difference = np.abs(ours - golden["frames_uint8"].numpy())
    levels = ((golden["frames"][0] + 1) * 127.5).permute(1, 2, 3, 0).numpy()
    at_boundary = np.abs(levels - np.round(levels)) < TOLERANCE * 127.5
    assert difference.max() <= 1
    assert not (difference.astype(bool) & ~at_boundary).any()


# --- schedule -----------------------------------------------------------------------------------------------------


def test_sampling_schedule(golden: Tensors) -> None:
    names = [name for name in golden if name.startswith("sigmas_")]
    assert {"sigmas_4", "sigmas_25", "sigmas_50"} <= set(names)

    for name in names:
        steps = int(name.removeprefix("sigmas_"))
        scheduler = euler_scheduler(RUN["flow_shift"])
        timesteps = set_sampling_steps(scheduler, steps)
        torch.testing.assert_close(timesteps, golden[f"timesteps_{steps}"], rtol=1e-6, atol=0)
        assert_same(scheduler.sigmas[:-1], golden[name])
        assert scheduler.sigmas[-1] == 0
    scheduler = euler_scheduler(RUN["flow_shift"])
    set_sampling_steps(scheduler, RUN["num_inference_steps"])
    assert_same(scheduler.sigmas[:-1], golden["sigmas"])  # the run's own


def test_training_schedule(golden: Tensors) -> None:
    schedule = training_schedule(RUN["flow_shift"])

    assert_same(schedule.sigmas, golden["train_sigmas_1000"])
    torch.testing.assert_close(schedule.timesteps, golden["train_timesteps_1000"], rtol=1e-6, atol=0)
    assert_same(schedule.weights, golden["train_weights_1000"])
