# SPDX-License-Identifier: GPL-3.0-or-later
"""Training of the bundled codec: the best linear codec of the clips first, its networks from there.

Like the depth network's, a run ends in the time given, whatever the machine: the learning rate follows the clock.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import torch
from diffusers.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from torch import Tensor, nn

from ..diffusion.bundled_codec import BundledCodec
from ..diffusion.loading import load_component
from ..errors import Cancelled, Ex4dError
from ..files import prepare_folder, write_bytes
from ..tensor_saving import save_tensors
from ..torch_device import torch_device
from .bundled_codec_losses import CodecLossParts, CodecLossWeights, block_edges, codec_losses, peak_signal_to_noise
from .checkpoint import SLOWER, RunState, go_back, load_checkpoint, save_checkpoint
from .depth_validation import autocast
from .folder_swap import new_folder
from .principal_components import fit_linear_codec
from .run_progress import check_end, follow, rate_at, share_done
from .step_timer import StepTimer

if TYPE_CHECKING:
    from ..progress import Reporter

CHECKPOINT_NAME: Final = "vae_checkpoint.safetensors"
CODEC_FOLDER: Final = "vae"
_LINEAR_SHARE: Final = 0.03
"""Of the learning rate for the projection: it is good already, and its weights for faint components are tiny."""

_LARGEST_GRADIENT: Final = 1.0
_DISK_BYTES: Final = 250 * 2**20  # two checkpoints and the weights, as one is written beside the last
_SCORED_AT_ONCE: Final = 4  # clips


class CodecScore(NamedTuple):
    """decibels: peak signal-to-noise ratio, the mean over clips. edges, true_edges: see `block_edges`."""

    decibels: float
    edges: float
    true_edges: float

    def __str__(self) -> str:
        return f"{self.decibels:.2f} dB, edges between blocks {self.edges:.2f} (in truth {self.true_edges:.2f})"


class ClipBank(Protocol):
    """Where clips come from."""

    def identity(self) -> dict[str, Any]:
        """What tells these clips from others, as it comes back from JSON."""
        ...

    def batch(self, step: int, batch: int, frames: int) -> Tensor:
        """(batch, 3, frames, H, W) float32 in [−1, 1] on the training device; the same step gives the same clips.

        The steps of a run are asked for in order, each at least once; H and W are multiples of 8 and may change.
        """
        ...


@dataclass(frozen=True)
class CodecTraining:
    """A run.

    out: folder of the checkpoint and of the codec.
    minutes: how long it takes, over all sittings; steps: or how many steps. One of them.
    batch, frames: clips a step and frames of each, 1+4n.
    fitted_clips: clips that the linear codec is fitted to.
    latent_noise: the largest noise that latents are decoded under, in their deviations: the denoiser is not exact.
    compiled: whether torch compiles the network, once for each size of clip. For graphics cards.
    checkpoint_s, log_s: seconds between checkpoints and between lines about progress.
    encoder_widths, decoder_widths, decoder_blocks: of `BundledCodec`.
    """

    out: Path
    minutes: float | None = None
    steps: int | None = None
    batch: int = 32
    frames: int = 9
    fitted_clips: int = 96
    device: str = "auto"
    seed: int = 0
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    latent_noise: float = 0.1
    compiled: bool = False
    checkpoint_s: float = 60.0
    log_s: float = 10.0
    z_dim: int = 48
    encoder_widths: tuple[int, int, int] = (64, 128, 192)
    decoder_widths: tuple[int, int, int] = (256, 128, 64)
    decoder_blocks: int = 3
    weights: CodecLossWeights = field(default_factory=CodecLossWeights)

    def __post_init__(self) -> None:
        check_end(self.minutes, self.steps, self.batch, self.fitted_clips)
        if self.frames < 1 or self.frames % 4 != 1:
            raise Ex4dError("bad_request", f"The codec takes no clips of {self.frames} frames.", "Give 5, 9 or 13.")

    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with its first sitting, as it comes back from JSON."""
        return {
            "batch": self.batch,
            "frames": self.frames,
            "fitted_clips": self.fitted_clips,
            "seed": self.seed,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "latent_noise": self.latent_noise,
            "z_dim": self.z_dim,
            "encoder_widths": list(self.encoder_widths),
            "decoder_widths": list(self.decoder_widths),
            "decoder_blocks": self.decoder_blocks,
            "weights": dataclasses.asdict(self.weights),
        }


def train_codec(
    settings: CodecTraining,
    bank: ClipBank,
    reporter: Reporter,
    *,
    held_out: Tensor | None = None,
    start: Path | None = None,
    resume: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Path:
    """Trains, and writes a checkpoint and the codec as it goes.

    Args:
        settings: the run.
        bank: clips to learn from.
        reporter: told of the progress; its `check` is called before each step.
        held_out: (N, 3, 1+4n, H, W) in [−1, 1], clips that are never learned from; scored at the start, where the
            codec is linear, at each checkpoint and at the end.
        start: folder of a codec to begin with, where no checkpoint is left of its run; None begins with the linear one.
        resume: goes on with the run in `settings.out`.
        clock: seconds.

    Returns: the codec's folder: averaged weights in half precision, the latents' statistics in its configuration.

    Raises:
        Ex4dError: `bad_request` for a folder that holds a run already, or another run than the one to resume;
            `model_invalid` for a damaged codec or checkpoint; `cancelled`, after a checkpoint.
    """
    checkpoint = settings.out / CHECKPOINT_NAME
    if checkpoint.exists() and not resume:
        raise Ex4dError(
            "bad_request",
            f"{settings.out} holds a training run already.",
            "Give --resume to go on with it, or another folder.",
        )
    prepare_folder(settings.out, need_bytes=_DISK_BYTES)
    device = torch_device(settings.device, with_mps=False)
    identity = settings.identity() | bank.identity()
    run = new_run(settings, bank, device, start) if not resume else _resumed(settings, checkpoint, identity, device)
    reporter.log(
        f"Training {sum(p.numel() for p in run.network.parameters()) / 1e6:.1f} M parameters on {device}, "
        f"{settings.batch} clips of {settings.frames} frames a step" + (f", from step {run.step}." if run.step else ".")
    )
    try:
        _train(settings, run, identity, device, reporter, bank, held_out, clock)
    except Cancelled:
        _save(settings, run, identity, bank)
        raise
    return _save(settings, run, identity, bank)


def new_run(settings: CodecTraining, bank: ClipBank, device: torch.device, start: Path | None = None) -> RunState:
    """A run before its first step: the linear codec of the bank's first clips, or the one it starts from."""
    run = _blank_run(settings, device)
    if start is None:
        fit_linear_codec(_codec(run.network), bank.batch(0, settings.fitted_clips, settings.frames))
        run.average.load_state_dict(run.network.state_dict())
        return run
    trained = load_component(BundledCodec, start, torch.float32).state_dict()
    try:
        for module in (run.network, run.average):
            module.load_state_dict(trained)
    except RuntimeError as error:
        raise Ex4dError(
            "bad_request",
            f"The codec in {start} has another shape than the one to be trained.",
            "Start from a codec of the same settings, or from nothing.",
        ) from error
    return run


def _resumed(settings: CodecTraining, checkpoint: Path, identity: Mapping[str, Any], device: torch.device) -> RunState:
    run = _blank_run(settings, device)
    load_checkpoint(checkpoint, run, identity)
    return run


def _blank_run(settings: CodecTraining, device: torch.device) -> RunState:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        codec = BundledCodec(
            z_dim=settings.z_dim,
            encoder_widths=settings.encoder_widths,
            decoder_widths=settings.decoder_widths,
            decoder_blocks=settings.decoder_blocks,
        )
    # Channels last is what a graphics card's convolutions want; on a CPU it changes nothing.
    codec.to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(codec).eval().requires_grad_(False)
    linear = [*codec.project.parameters(), *codec.expand.parameters()]
    networks = [*codec.encoder.parameters(), *codec.decoder.parameters()]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in networks if p.ndim > 1], "share": 1.0, "weight_decay": settings.weight_decay},
        {"params": [p for p in networks if p.ndim <= 1], "share": 1.0, "weight_decay": 0.0},
        {"params": linear, "share": _LINEAR_SHARE, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(0.9, 0.99),
        fused=device.type == "cuda",
    )
    return RunState(codec, average, optimizer)


def _train(
    settings: CodecTraining,
    run: RunState,
    identity: Mapping[str, Any],
    device: torch.device,
    reporter: Reporter,
    bank: ClipBank,
    held_out: Tensor | None,
    clock: Callable[[], float],
) -> None:
    timer = StepTimer(device)
    forward = torch.compile(run.network, dynamic=False) if settings.compiled else run.network
    if held_out is not None and run.step == 0:
        reporter.log(f"The linear codec, on clips never seen: {score(_codec(run.average), held_out)}")
    # the clock, set back by what earlier sittings took
    started = clock() - run.seconds
    logged = saved = clock()
    since: list[Tensor] = []
    pace = 1.0
    while (done := share_done(settings.minutes, settings.steps, run)) < 1:
        reporter.check()
        for group in run.optimizer.param_groups:
            group["lr"] = pace * settings.learning_rate * group["share"] * rate_at(done)
        since.append(_step(settings, run, forward, bank, device, timer))
        run.step += 1
        run.seconds = clock() - started
        to_log, to_save = clock() - logged >= settings.log_s, clock() - saved >= settings.checkpoint_s
        if (to_log or to_save) and not torch.isfinite(since[-1]).all():
            go_back(settings.out / CHECKPOINT_NAME, run, identity, reporter)
            pace *= SLOWER
            since.clear()
            logged = clock()
            continue
        if to_log:
            reporter.log(_line(run, since, timer, settings.batch))
            since.clear()
            logged = clock()
        if to_save:
            _save(settings, run, identity, bank)
            if held_out is not None:
                reporter.log(_score_line(run, held_out))
            saved = clock()
        reporter.progress("train codec", int(100 * min(1.0, share_done(settings.minutes, settings.steps, run))), 100)
    if since:
        reporter.log(_line(run, since, timer, settings.batch))
    if held_out is not None:
        reporter.log(_score_line(run, held_out))


def _step(
    settings: CodecTraining,
    run: RunState,
    forward: Callable[[Tensor, Tensor], Tensor],
    bank: ClipBank,
    device: torch.device,
    timer: StepTimer,
) -> Tensor:
    """One step. Returns the loss and its parts, still on the device: reading them would make it wait."""
    timer.start()
    clips = bank.batch(run.step, settings.batch, settings.frames)
    noise = _noise(settings, run.step, clips)
    timer.data_made()
    with autocast(device):
        returned = forward(clips, noise)
    parts = codec_losses(returned.float(), clips)
    loss = parts.total(settings.weights)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.network.parameters(), _LARGEST_GRADIENT)
    run.optimizer.step()
    follow(run.average, run.network, run.step)
    timer.stop()
    return torch.stack([loss, *parts]).detach()


def _noise(settings: CodecTraining, step: int, clips: Tensor) -> Tensor:
    """Latent noise (B, z_dim, f, h, w) of a step, a level a clip."""
    generator = torch.Generator(clips.device).manual_seed(settings.seed * 1_000_003 + step)
    batch, _, frames, height, width = clips.shape
    shape = (batch, settings.z_dim, 1 + (frames - 1) // 4, height // 8, width // 8)
    level = torch.rand(batch, 1, 1, 1, 1, generator=generator, device=clips.device) * settings.latent_noise
    return torch.randn(shape, generator=generator, device=clips.device) * level


@torch.no_grad()
def score(codec: BundledCodec, clips: Tensor) -> CodecScore:
    """How clips (N, 3, F, H, W) in [−1, 1] come back."""
    returned = torch.cat([codec.decode(codec.latents_of(some)).sample for some in clips.split(_SCORED_AT_ONCE)])
    return CodecScore(float(peak_signal_to_noise(returned, clips).mean()), block_edges(returned), block_edges(clips))


def _line(run: RunState, since: list[Tensor], timer: StepTimer, batch: int) -> str:
    loss = torch.stack(since).float().mean(0).tolist()
    seconds, data = timer.take()
    parts = ", ".join(f"{name} {value:.4f}" for name, value in zip(CodecLossParts._fields, loss[1:], strict=True))
    return (
        f"step {run.step}, {run.seconds:.0f} s: loss {loss[0]:.4f} ({parts}); "
        f"{len(since) * batch / max(seconds, 1e-9):.1f} clips/s, {100 * data / max(seconds, 1e-9):.0f} % of it drawing"
    )


def _score_line(run: RunState, held_out: Tensor) -> str:
    return f"On clips never seen: {score(_codec(run.average), held_out)}"


def _codec(module: nn.Module) -> BundledCodec:
    assert isinstance(module, BundledCodec)
    return module


def _save(settings: CodecTraining, run: RunState, identity: Mapping[str, Any], bank: ClipBank) -> Path:
    save_checkpoint(settings.out / CHECKPOINT_NAME, run, identity)
    codec = copy.deepcopy(_codec(run.average))
    measure_latents(codec, bank.batch(run.step, settings.batch, settings.frames))
    folder = settings.out / CODEC_FOLDER
    # as `save_pretrained` would; both at once, as the configuration has the statistics of these weights' latents
    with new_folder(folder) as fresh:
        fresh.mkdir()
        save_tensors(fresh / SAFETENSORS_WEIGHTS_NAME, codec.half().state_dict(), {"format": "pt"})
        write_bytes(fresh / CONFIG_NAME, codec.to_json_string().encode())
    return folder


@torch.no_grad()
def measure_latents(codec: BundledCodec, clips: Tensor) -> None:
    """Writes into the configuration what mean and deviation the latents of clips (N, 3, F, H, W) have."""
    latents = torch.cat([codec.latents_of(some) for some in clips.split(_SCORED_AT_ONCE)])
    values = latents.double().cpu().transpose(0, 1).flatten(1)
    codec.register_to_config(latents_mean=values.mean(1).tolist(), latents_std=values.std(1).clamp_min(1e-4).tolist())
