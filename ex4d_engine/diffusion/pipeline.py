# SPDX-License-Identifier: GPL-3.0-or-later
"""The EX-4D pipeline: Wan image-to-video, steered by a rendered colour video and its mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline
from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from transformers import CLIPImageProcessor, CLIPVisionModel, PreTrainedTokenizerBase, UMT5EncoderModel

from ..errors import Ex4dError
from . import preprocess
from .camera_encoder import CameraEncoder
from .guidance import guided_velocity
from .scheduler import set_sampling_steps
from .transformer import Ex4dTransformer3DModel

TEXT_TOKENS = 512
"""Rows of text embedding the transformer was trained with; rows after the prompt's end are zero."""

OutputType = Literal["latent", "np", "uint8"]
StepCallback = Callable[["Ex4dPipeline", int, torch.Tensor, dict[str, torch.Tensor]], dict[str, torch.Tensor]]
Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(latents, timestep) to the guided prediction of ε − x, all but the timestep (1, 16, f, h, w)."""


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is told about one video besides its text.

    Attributes:
        condition: (1, 20, f, h, w) first-frame mask and latents.
        image_embeds: (1, 257, image_dim) CLIP features of the first frame; None for a transformer that takes none.
        rays: what the camera encoder reads, latents (1, 16, f, h, w) of colour and of mask.
        ray_latent: (1, width, f/p, h/p, w/p) of the camera encoder; None has it made again from `rays` for each
            prediction. In the 14B model it is 40 times as large as they are, and made in a hundredth of a forward.
    """

    condition: torch.Tensor
    image_embeds: torch.Tensor | None
    rays: tuple[torch.Tensor, torch.Tensor]
    ray_latent: torch.Tensor | None

    def to(self, device: torch.device | str) -> Conditioning:
        colour, mask = self.rays
        return Conditioning(
            self.condition.to(device),
            _on(self.image_embeds, device),
            (colour.to(device), mask.to(device)),
            _on(self.ray_latent, device),
        )


class Ex4dPipeline(WanImageToVideoPipeline):
    """Wan2.1 image-to-video with a camera encoder (EX-4D, arXiv 2506.05554).

    The arguments are the parent's and `camera_encoder`, so that a stock Wan folder loads into this class. Of the
    parent's, `image_processor`, `transformer_2`, `boundary_ratio` and `expand_timesteps` belong to other Wan models.

    Args:
        tokenizer, text_encoder: UMT5; both None if only embeddings are ever passed.
        vae: the Wan video autoencoder.
        scheduler: flow-matching Euler, see `scheduler.euler_scheduler`.
        image_encoder: CLIP's vision half; None where the transformer takes no image features.
        transformer: the denoiser, with the EX-4D LoRA attached or fused.
        camera_encoder: belongs to the LoRA; None in a stock Wan folder, which then cannot generate.
    """

    tokenizer: PreTrainedTokenizerBase
    text_encoder: UMT5EncoderModel
    vae: AutoencoderKLWan
    scheduler: FlowMatchEulerDiscreteScheduler
    image_encoder: CLIPVisionModel | None
    transformer: Ex4dTransformer3DModel
    camera_encoder: CameraEncoder
    _current_timestep: torch.Tensor | None
    text_tokens: int = TEXT_TOKENS
    """Rows that text embeddings are padded to: those the transformer was trained with."""
    guidance_group: torch.distributed.ProcessGroup | None = None
    """The ranks that share a guided step's branches, see `parallel.share_work`; None computes both here."""

    model_cpu_offload_seq = "text_encoder->image_encoder->camera_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012 - diffusers' declaration
    _optional_components = [  # noqa: RUF012 - diffusers' declaration
        *WanImageToVideoPipeline._optional_components,
        "tokenizer",
        "text_encoder",
        "camera_encoder",
    ]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        text_encoder: UMT5EncoderModel | None,
        vae: AutoencoderKLWan,
        scheduler: FlowMatchEulerDiscreteScheduler,
        image_processor: CLIPImageProcessor | None = None,
        image_encoder: CLIPVisionModel | None = None,
        transformer: Ex4dTransformer3DModel | None = None,
        transformer_2: Ex4dTransformer3DModel | None = None,
        boundary_ratio: float | None = None,
        expand_timesteps: bool = False,
        camera_encoder: CameraEncoder | None = None,
    ) -> None:
        super().__init__(
            tokenizer,
            text_encoder,
            vae,
            scheduler,
            image_processor,
            image_encoder,
            transformer,
            transformer_2,
            boundary_ratio,
            expand_timesteps,
        )
        self.register_modules(camera_encoder=camera_encoder)

    @property
    def size_multiple(self) -> int:
        """Height and width are generated in multiples of this many pixels; other sizes are padded to it."""
        return self.vae_scale_factor_spatial * self.transformer.config.patch_size[1]

    @torch.no_grad()
    def __call__(
        self,
        video: torch.Tensor,
        mask: torch.Tensor,
        prompt: str | None = None,
        negative_prompt: str = "",
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 5.0,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        first_step: int = 0,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: StepCallback | None = None,
        output_type: OutputType = "uint8",
    ) -> WanPipelineOutput:
        """Generates the video that `video` shows where it is known.

        Frames other than 4k+1 and sizes other than multiples of `size_multiple` are padded by repetition and cut
        back, never resampled.

        Args:
            video: (1, 3, F, H, W) in [−1, 1], −1 where unseen; the first frame is the source view.
            mask: (1, 3, F, H, W) in {−1, 1}, 1 where seen.
            prompt, negative_prompt: text; or else
            prompt_embeds, negative_prompt_embeds: (1, L ≤ 512, text_dim) embeddings, padded with zero rows here to
                `text_tokens`.
            num_inference_steps: denoising steps.
            guidance_scale: neg + g·(pos − neg); at 1 there is one forward a step and no negative prompt.
            generator: source of the noise; on the CPU it gives the same noise for every device.
            latents: (1, 16, f, h, w) noise to start from, instead of `generator`'s.
            first_step: 0, or the step to begin with, for which `latents` are noised already.
            attention_kwargs: as of diffusers, e.g. {"scale": LoRA strength}.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents"}) after each step; may return other
                latents. What it raises ends the run and releases its memory.
            output_type: "uint8" or "np" (float32 in [0, 1]) frames (1, F, H, W, 3), or "latent" (1, 16, f, h, w) of
                the padded size.

        Raises:
            Ex4dError: `model_missing` without a camera encoder; `out_of_memory`.
            ValueError: shapes that do not fit each other.
        """
        _check_videos(video, mask)
        self._guidance_scale = guidance_scale
        with self.released():
            padded, padded_mask = (
                preprocess.padded_video(value, self.vae_scale_factor_temporal, self.size_multiple)
                for value in (video, mask)
            )
            prompts = self.prepare_prompt_embeds(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
            conditioning = self.prepare_conditioning(padded, padded_mask)
            if latents is None:
                shape = (1, self.vae.config.z_dim, *conditioning.condition.shape[2:])
                latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)

            def velocity(noisy: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
                return self.conditioned_velocity(
                    noisy, timestep, conditioning, prompts, guidance_scale, attention_kwargs
                )

            result = self.denoise(latents, velocity, num_inference_steps, first_step, callback_on_step_end)
            if output_type == "latent":
                return WanPipelineOutput(frames=result)
            frames = self.decode_latents(result)[:, :, : video.shape[2], : video.shape[3], : video.shape[4]]
            return WanPipelineOutput(frames=_frames_array(frames, output_type))

    @contextmanager
    def released(self) -> Iterator[None]:
        """Around a run or a part of one: whatever ends it, what it held on the device is let go.

        Raises:
            Ex4dError: `out_of_memory`.
        """
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise Ex4dError(
                "out_of_memory",
                "The graphics card ran out of memory while generating.",
                "Choose a smaller memory tier, a smaller size or fewer frames.",
            ) from error.with_traceback(None)  # which holds the model for as long as the error is at hand
        finally:
            # Also after a cancel: offloaded models leave the device, cached blocks must not reach the next run.
            self._current_timestep = None
            self.maybe_free_model_hooks()

    @torch.no_grad()
    def prepare_conditioning(self, video: torch.Tensor, mask: torch.Tensor, *, waits: bool = False) -> Conditioning:
        """The conditioning of videos as `__call__` takes them, of 4k+1 frames and a size the model takes.

        Args:
            video, mask: see there.
            waits: for one of many that wait for their turn: without its ray latent.

        Raises:
            Ex4dError: `model_missing` without a camera encoder.
        """
        if self.camera_encoder is None:
            raise Ex4dError(
                "model_missing",
                "This model folder has no camera encoder, so it cannot follow a camera.",
                "Load it together with an EX-4D adapter file.",
            )
        condition, image_embeds = self.encode_first_frame(video)
        rays = self.encode_rays(video, mask)
        ray_latent = None if waits else self._ray_latent(rays)
        return Conditioning(condition, _on(image_embeds, self.transformer.dtype), rays, ray_latent)

    @torch.no_grad()
    def encode_first_frame(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The first frame of a (1, 3, F, H, W) video as the denoiser sees it.

        Returns: first-frame mask and latents (1, 20, f, h, w) float32, CLIP features (1, 257, image_dim), which are
            None without an image encoder.
        """
        device = self._execution_device
        image = preprocess.first_frame(video)
        image_embeds = None if self.image_encoder is None else self.encode_image(image, device)
        _, condition = self.prepare_latents(
            preprocess.image_tensor(image).to(device),
            batch_size=1,
            num_channels_latents=self.vae.config.z_dim,
            height=video.shape[3],
            width=video.shape[4],
            num_frames=video.shape[2],
            dtype=torch.float32,
            device=device,
            latents=torch.zeros(()),  # the noise is drawn apart, as it may span more than these frames
        )
        return condition, image_embeds

    @torch.no_grad()
    def denoise(
        self,
        latents: torch.Tensor,
        velocity: Velocity,
        num_inference_steps: int,
        first_step: int = 0,
        callback: StepCallback | None = None,
    ) -> torch.Tensor:
        """The denoised latents (1, 16, f, h, w) float32.

        Args:
            latents: (1, 16, f, h, w) at the noise level of `first_step`: pure noise at step 0.
            velocity: the denoiser, see `conditioned_velocity`.
            num_inference_steps: steps of the whole schedule.
            first_step: the step to begin with; those before it are left out.
            callback: as `callback_on_step_end` of `__call__`; its step counts from the schedule's beginning.

        Raises:
            ValueError: `first_step` is no step of the schedule.
        """
        if not 0 <= first_step < num_inference_steps:
            raise ValueError(f"step {first_step} is not one of {num_inference_steps}")
        latents = latents.to(self._execution_device, torch.float32)
        timesteps = set_sampling_steps(self.scheduler, num_inference_steps, self._execution_device)
        self.scheduler.set_begin_index(first_step)
        self._num_timesteps = num_inference_steps - first_step
        for step in range(first_step, num_inference_steps):
            timestep = self._current_timestep = timesteps[step]
            latents = self.scheduler.step(velocity(latents, timestep), timestep, latents, return_dict=False)[0]
            if callback is not None:
                latents = callback(self, step, timestep, {"latents": latents}).get("latents", latents)
        return latents

    @torch.no_grad()
    def conditioned_velocity(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        conditioning: Conditioning,
        prompt_embeds: tuple[torch.Tensor, torch.Tensor | None],
        guidance_scale: float,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """`predict_velocity` with what `prepare_conditioning` and `prepare_prompt_embeds` returned."""
        ray_latent = conditioning.ray_latent
        if ray_latent is None:
            ray_latent = self._ray_latent(conditioning.rays)
        return self.predict_velocity(
            latents,
            conditioning.condition.to(latents.device),
            timestep,
            prompt_embeds,
            _on(conditioning.image_embeds, latents.device),
            ray_latent,
            guidance_scale,
            attention_kwargs,
        )

    def predict_velocity(
        self,
        latents: torch.Tensor,
        condition: torch.Tensor,
        timestep: torch.Tensor,
        prompt_embeds: tuple[torch.Tensor, torch.Tensor | None],
        image_embeds: torch.Tensor | None,
        ray_latent: torch.Tensor | None,
        guidance_scale: float = 1.0,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """The guided prediction of ε − x, (1, 16, f, h, w) float32.

        Args:
            latents: (1, 16, f, h, w) noisy latents.
            condition: (1, 20, f, h, w) first-frame mask and latents, from `prepare_latents`.
            timestep: scalar float.
            prompt_embeds: positive and, under guidance, negative (1, 512, text_dim).
            image_embeds: (1, 257, image_dim), or None.
            ray_latent: from `prepare_ray_latent`; None predicts as plain Wan does.
            guidance_scale, attention_kwargs: as of `__call__`.
        """
        dtype = self.transformer.dtype
        model_input = torch.cat([latents, condition], dim=1).to(dtype)

        def predict(branch: str, embeds: torch.Tensor) -> torch.Tensor:
            with self.transformer.cache_context(branch):
                (prediction,) = self.transformer(
                    model_input,
                    timestep.expand(latents.shape[0]),
                    embeds.to(dtype),
                    image_embeds,
                    return_dict=False,
                    attention_kwargs=attention_kwargs,
                    ray_latent=ray_latent,
                )
            # The scheduler keeps the precision of what it is given: latents in half precision would add up its error.
            return prediction.float()

        return guided_velocity(predict, prompt_embeds, guidance_scale, self.guidance_group)

    def prepare_prompt_embeds(
        self,
        prompt: str | None,
        negative_prompt: str,
        prompt_embeds: torch.Tensor | None,
        negative_prompt_embeds: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Positive and, under guidance, negative embeddings, each (1, text_tokens, text_dim), zero after the text."""
        positive, negative = self.encode_prompt(
            prompt,
            negative_prompt,
            do_classifier_free_guidance=self.do_classifier_free_guidance,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            max_sequence_length=TEXT_TOKENS,
            device=self._execution_device,
        )
        positive = _padded_text(positive.to(self._execution_device), self.text_tokens)
        if not self.do_classifier_free_guidance:
            return positive, None
        return positive, _padded_text(negative.to(self._execution_device), self.text_tokens)

    def encode_image(self, image: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
        """CLIP features (1, 257, image_dim) of an (H, W, 3) uint8 image: the last layer but one, before its norm."""
        assert self.image_encoder is not None  # the transformer's configuration and the folder agree
        device = device or self._execution_device
        pixels = preprocess.clip_pixel_values(image, self.image_encoder.config.image_size)
        output = self.image_encoder(pixels.to(device, self.image_encoder.dtype), output_hidden_states=True)
        return output.hidden_states[-2]

    def prepare_ray_latent(self, video: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The camera encoder's output (1, width, f/p, h/p, w/p) for videos as `__call__` takes them."""
        return self._ray_latent(self.encode_rays(video, mask))

    def _ray_latent(self, rays: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        colour_latents, mask_latents = (value.to(self._execution_device, self.camera_encoder.dtype) for value in rays)
        return self.camera_encoder(colour_latents, mask_latents)

    def encode_rays(self, video: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the camera encoder reads: latents (1, 16, f, h, w) of colour and of mask, as `__call__` takes them."""
        # The published weights were trained on a mask scaled twice, to {−3, 1}.
        return self.encode_video(video), self.encode_video(mask * 2 - 1)

    def encode_video(self, video: torch.Tensor) -> torch.Tensor:
        """Normalised latents (1, 16, (F−1)/4 + 1, H/8, W/8) float32 of a (1, 3, F, H, W) video: no sampling."""
        mean, std = self.latent_statistics()
        posterior = self.vae.encode(video.to(self._execution_device, self.vae.dtype)).latent_dist
        return (posterior.mode().float() - mean) / std

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """The video (1, 3, F, H, W) in [−1, 1] of normalised latents (1, 16, f, h, w)."""
        mean, std = self.latent_statistics()
        return self.vae.decode((latents * std + mean).to(self.vae.dtype), return_dict=False)[0].clamp(-1, 1)

    def latent_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the VAE's latents, each (1, C, 1, 1, 1) float32."""
        config = self.vae.config
        mean, std = (
            torch.tensor(values, device=self._execution_device).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, std


def _check_videos(video: torch.Tensor, mask: torch.Tensor) -> None:
    if video.ndim != 5 or video.shape[:2] != (1, 3) or mask.shape != video.shape:
        raise ValueError(
            f"`video` and `mask` have to be (1, 3, F, H, W) alike but are {tuple(video.shape)} and {tuple(mask.shape)}"
        )


def _padded_text(embeds: torch.Tensor, tokens: int) -> torch.Tensor:
    """(B, tokens, D): zero rows appended. The transformer takes no text mask: a shorter text is silently wrong."""
    return torch.nn.functional.pad(embeds, (0, 0, 0, tokens - embeds.shape[1]))


def _on(value: torch.Tensor | None, place: torch.device | torch.dtype | str) -> torch.Tensor | None:
    """`value` on a device or in a precision; None stays None."""
    return None if value is None else value.to(place)


def _frames_array(video: torch.Tensor, output_type: OutputType) -> np.ndarray:
    """(1, F, H, W, 3) of a (1, 3, F, H, W) video in [−1, 1]."""
    if output_type == "uint8":
        return preprocess.uint8_frames(video)[None]
    return ((video.float() + 1) / 2).permute(0, 2, 3, 4, 1).cpu().numpy()
