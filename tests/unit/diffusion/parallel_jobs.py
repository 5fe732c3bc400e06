# SPDX-License-Identifier: GPL-3.0-or-later
"""What the ranks of test_parallel.py do; imported by them, so nothing heavy at the top."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ex4d_engine.diffusion.parallel_launch import run_parallel
from ex4d_engine.diffusion.ranks import ParallelJob, Ranks
from ex4d_engine.errors import Ex4dError
from ex4d_engine.progress import Silent

STEPS = 3
PROMPT = "a camera moves around a quiet street"


def job(name: str, **kwargs: Any) -> ParallelJob:
    return ParallelJob(f"tests.unit.diffusion.parallel_jobs:{name}", kwargs)


def denoised(pipeline: Any, guidance_scale: float, **options: Any) -> torch.Tensor:
    """The latents of a whole run on the tiny model."""
    from tests.tiny_model import conditioning

    return pipeline(
        *conditioning(),
        prompt=PROMPT,
        num_inference_steps=STEPS,
        guidance_scale=guidance_scale,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **options,
    ).frames


# --- numbers ------------------------------------------------------------------------------------------------------


def whole_runs(ranks: Ranks, model_folder: Path, adapter_file: Path) -> dict[str, Any]:
    """Guided runs with the branches split, unguided and guided ones with the tokens split, and what else is asked."""
    from ex4d_engine.diffusion.loading import load_pipeline
    from ex4d_engine.diffusion.parallel import share_work
    from tests.tiny_model import conditioning

    noise = torch.randn(4)

    def pipeline() -> Any:
        return load_pipeline(
            model_folder, adapter_file, dtype=torch.float32, device=ranks.device, reporter=ranks.reporter
        )

    branches, tokens = pipeline(), pipeline()
    forwards: list[str] = []
    branches.transformer.register_forward_hook(lambda *_: forwards.append("branch"))
    result: dict[str, Any] = {
        "noise": noise,
        "layouts": [share_work(branches, guided=True), share_work(tokens, guided=False)],
    }
    result["guided, branches split"] = denoised(branches, 5.0, callback_on_step_end=_reported(ranks))
    result["forwards"] = len(forwards)
    result["one branch, branches split"] = denoised(branches, 1.0)
    # before any other run, as what diffusers looks up at its first call cannot be looked up in a graph
    tokens.transformer.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    result["one branch, tokens split, compiled"] = denoised(tokens, 1.0)
    with torch.compiler.set_stance("force_eager"):
        result["one branch, tokens split"] = denoised(tokens, 1.0)
        result["guided, tokens split"] = denoised(tokens, 5.0)
    try:
        tokens(*conditioning(height=48), prompt=PROMPT, num_inference_steps=1, guidance_scale=1.0)
    except Ex4dError as error:
        result["odd tokens"] = error
    return result | {"of every rank": _of_every_rank(ranks, result["guided, branches split"])}


def mesh_run(ranks: Ranks) -> dict[str, Any]:
    """One guided prediction on four ranks, two for each branch's tokens."""
    from ex4d_engine.diffusion.guidance import guided_velocity
    from ex4d_engine.diffusion.parallel import layout_of, share_transformer

    predict, embeds, transformer = tiny_prediction()
    layout = layout_of(ranks.world_size, guided=True)
    group = share_transformer(transformer, layout)
    velocity = guided_velocity(predict, embeds, 5.0, group)
    return {"layout": layout, "velocity": velocity, "of every rank": _of_every_rank(ranks, velocity)}


def tiny_prediction() -> tuple[Any, tuple[torch.Tensor, torch.Tensor], Any]:
    """A `PredictBranch` of a tiny random transformer without adapter, its two texts, and the transformer."""
    from ex4d_engine.diffusion.transformer import Ex4dTransformer3DModel

    torch.manual_seed(3)
    config = {
        "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 36, "text_dim": 24, "freq_dim": 16,
        "ffn_dim": 32, "num_layers": 2, "image_dim": 32, "added_kv_proj_dim": 24, "rope_max_seq_len": 64,
    }  # fmt: skip
    transformer = Ex4dTransformer3DModel(**config, out_channels=16).eval()
    latents, image = torch.randn(1, 36, 3, 4, 6), torch.randn(1, 257, 32)
    texts = torch.randn(1, 512, 24), torch.randn(1, 512, 24)
    ray_latent = torch.randn(1, transformer.width, 3, 2, 3)

    def predict(_: str, embeds: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return transformer(latents, torch.tensor([500.0]), embeds, image, return_dict=False, ray_latent=ray_latent)[
                0
            ]

    return predict, texts, transformer


def _reported(ranks: Ranks) -> Any:
    def on_step(_pipeline: Any, step: int, _timestep: torch.Tensor, _tensors: Any) -> dict[str, Any]:
        ranks.reporter.check()
        ranks.reporter.progress("generate", step + 1, STEPS)
        ranks.reporter.log(f"step {step}")
        ranks.reporter.preview(Path(f"frame {step}.png"))
        return {}

    return on_step


def _of_every_rank(ranks: Ranks, value: Any) -> list[Any]:
    gathered: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(gathered, value)
    return gathered


# --- ends ---------------------------------------------------------------------------------------------------------


def endless(ranks: Ranks, pids: Path) -> None:
    """Steps with an exchange each until cancelled, the second rank being slower; leaves its process id in `pids`."""
    _write_pid(ranks, pids)
    for step in range(10**6):
        dist.all_reduce(torch.ones(1))
        ranks.reporter.progress("step", step, 10**6)
        time.sleep(0.01 * ranks.rank)
        try:
            ranks.reporter.check()
        finally:
            (pids / f"steps {ranks.rank}").write_text(str(step))


def stubborn(ranks: Ranks, pids: Path) -> None:
    """Neither asks whether it is cancelled nor says anything that a dead parent could not hear."""
    _write_pid(ranks, pids)
    ranks.reporter.progress("step", 1, 2)
    if ranks.is_first:
        (pids / "ready").touch()
    time.sleep(600)


def one_raises(ranks: Ranks, pids: Path, explained: bool) -> None:
    """The second rank raises in the middle of a step, the first waits for it in an exchange."""
    _write_pid(ranks, pids)
    dist.all_reduce(torch.ones(1))
    if ranks.rank == 1:
        if explained:
            raise Ex4dError("disk_full", "The disk is full.", "Free some space.", "open:disk")
        raise RuntimeError("device-side assert")
    dist.all_reduce(torch.ones(1))


def one_dies(ranks: Ranks, pids: Path) -> None:
    """The second rank is killed, as by the system, while the first waits for it in an exchange."""
    _write_pid(ranks, pids)
    dist.all_reduce(torch.ones(1))
    if ranks.rank == 1:
        time.sleep(0.2)
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    dist.all_reduce(torch.ones(1))


def only_the_first_checks(ranks: Ranks) -> str:
    """The other rank is done long before, having checked more often."""
    if ranks.rank == 1:
        for _ in range(1000):
            ranks.reporter.check()
        return "dropped"
    time.sleep(0.3)
    for _ in range(3):
        ranks.reporter.check()
    ranks.reporter.log(os.environ.get("NCCL_NVLS_ENABLE", "unset"))
    return "kept"


def _write_pid(ranks: Ranks, pids: Path) -> None:
    (pids / f"pid {ranks.rank}").write_text(str(os.getpid()))
    dist.barrier()


if __name__ == "__main__":  # a parent for test_parallel.py to kill
    (folder,) = sys.argv[1:]
    run_parallel(job("stubborn", pids=Path(folder)), 2, "cpu", Silent())
