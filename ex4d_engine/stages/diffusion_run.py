# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of the diffusion model over a take's conditioning, in this process or shared out among several."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from .. import json_fields as fields
from ..background import BackgroundWriter
from ..diffusion.attention import NATIVE
from ..diffusion.forwards import Forwards, counted_forwards
from ..diffusion.generation import VideoPlan, VideoSettings, generate_video, plan_video
from ..diffusion.keeper import kept_pipeline, release_kept
from ..diffusion.latent_store import FileStore, LatentStore, settings_digest
from ..diffusion.main_memory import check_main_memory
from ..diffusion.parallel import layout_of, refuse_shared_cache, token_count, usable_ranks
from ..diffusion.parallel_launch import run_parallel
from ..diffusion.ranks import DeviceKind, ParallelJob, Ranks
from ..diffusion.run_plan import ModelPaths
from ..diffusion.transformer_size import TransformerSize, transformer_size
from ..errors import Ex4dError
from ..files import explain_os_error, prepare_folder
from ..image_files import read_png, write_png
from ..progress import Reporter
from ..take import Take, save_take, with_record
from .diffusion_presets import LATENTS_NAME, options_refused, runtime_options
from .generate_options import GenerateOptions
from .lead_in import FramePair

PREVIEW_EVERY: Final = 8
SCRATCH_NAME: Final = "decoder"
"""In a take's folder, one a rank: what the decoder remembers of tiles of large frames, from one window to the next."""


@dataclass(frozen=True)
class DiffusionJob:
    """Everything that decides a run, picklable for the ranks.

    Attributes:
        take: whose `generated` frames are to be written.
        conditioning: files of colour and mask, lead-in first.
        lead_in: how many of them come before the take's own.
        options: resolved, no None but for model and adapter.
        seed: of noise and random erosion.
        paths: of the models.
        checksums: of their files.
    """

    take: Take
    conditioning: tuple[FramePair, ...]
    lead_in: int
    options: GenerateOptions
    seed: int
    paths: ModelPaths
    checksums: Mapping[str, Mapping[str, str]]

    def settings(self) -> VideoSettings:
        options: Any = self.options  # resolved: what may be None there is not here
        return VideoSettings(
            steps=options.steps,
            guidance_scale=options.guidance,
            seed=self.seed,
            window=options.window,
            overlap=options.overlap,
            erosion=options.erosion,
            area=options.area,
            detail_area=options.detail_area(self.take.width, self.take.height),
        )

    def plan(self) -> VideoPlan:
        with options_refused():
            return plan_video(len(self.conditioning), self.take.width, self.take.height, self.settings())


def run_job(job: DiffusionJob, reporter: Reporter) -> Take:
    """Writes the take's missing frames, on as many devices as are asked for and of use."""
    plan, wanted, size = job.plan(), int(job.options.gpus or 1), transformer_size(job.paths.folder)
    ranks = 1
    if wanted > 1:
        is_guided = (job.options.guidance or 1) > 1
        ranks = usable_ranks(wanted, size.heads, _tokens(plan), is_guided)
        refuse_shared_cache(job.options.cache or "none", layout_of(ranks, is_guided))
        if ranks < wanted:
            reporter.log(f"{ranks} of the {wanted} graphics cards can share this work.")
    check_main_memory(ranks * _frame_bytes(plan, size))
    with _without_scratch(job.take):
        if size.has_wan_vae:
            prepare_folder(job.take.root, need_bytes=ranks * plan.scratch_bytes())
        if ranks == 1:
            return run_rank(None, job=job, reporter=reporter)
        release_kept()
        kind: DeviceKind = "cuda" if torch.cuda.is_available() else "cpu"
        result: Take = run_parallel(ParallelJob(f"{__name__}:run_rank", {"job": job}), ranks, kind, reporter)
        return result


def run_rank(ranks: Ranks | None, *, job: DiffusionJob, reporter: Reporter | None = None) -> Take:
    """The whole run as one rank sees it; only the first writes. Returns the take with the run in its record."""
    reporter = ranks.reporter if ranks is not None else reporter
    assert reporter is not None
    take, options = job.take, job.options
    is_first = ranks is None or ranks.is_first
    plan, settings = job.plan(), job.settings()
    with kept_pipeline(
        job.paths,
        runtime_options(options),
        identity=settings_digest(job.checksums),
        tokens=max(_tokens(plan)),
        steps=plan.forwards // (2 if settings.guidance_scale > 1 else 1),
        guidance_scale=settings.guidance_scale,
        prompt=str(options.prompt),
        negative_prompt=str(options.negative_prompt),
        reporter=reporter,
        ranks=ranks,
        frame_bytes=_frame_bytes(plan, transformer_size(job.paths.folder)),
    ) as ready:
        if options.precision not in ("auto", ready.record["precision"]):
            reporter.log(f"Precision {options.precision} is not for {ready.record['device']}: this run is exact.")
        record = {
            "models": {name: dict(files) for name, files in job.checksums.items()},
            "runtime": ready.record,
            "conditioning": conditioning_digest(job.conditioning),
            "lead_in": job.lead_in,
        }
        store: LatentStore = FileStore(take.root / LATENTS_NAME, {**record, "seed": job.seed, **options.to_json()})
        if is_first:
            take = _recorded(take, record)
        else:
            store = _ReadOnly(store)
        scratch = take.root / f"{SCRATCH_NAME}_{0 if ranks is None else ranks.rank}"
        with _forwards_recorded(take, ready.pipeline.transformer, is_first) as forwards:
            frames = generate_video(
                ready.pipeline,
                lambda index: _read(job.conditioning[index]),
                len(job.conditioning),
                take.width,
                take.height,
                replace(settings, remedy=remedy(ready.record)),
                ready.prompt_embeds,
                reporter,
                store,
                scratch,
            )
            with closing(frames), BackgroundWriter() as writer:
                for index, frame in enumerate(frames):
                    number = take.first + index - job.lead_in
                    file = take.file("generated", number)
                    if not is_first or index < job.lead_in or file.is_file():
                        continue
                    if (number - take.first) % PREVIEW_EVERY:
                        writer.submit(write_png, file, frame)
                    else:  # a preview is a promise that the file is there
                        write_png(file, frame)
                        reporter.preview(file)
        # only now: a run that is stopped and goes on finds its windows by what was planned
        record = {**record, "runtime": ready.record_now()}
    take = with_record(take, diffusion=record, forwards=forwards.to_json())
    if is_first:
        save_take(take)  # a cancel may come before the composite is done
    return take


@contextmanager
def _without_scratch(take: Take) -> Iterator[None]:
    """Before and after the block there is nothing of any rank: neither a killed run's nor a killed rank's."""

    def remove() -> None:
        for folder in take.root.glob(f"{SCRATCH_NAME}_*"):
            shutil.rmtree(folder, ignore_errors=True)

    remove()
    try:
        yield
    finally:
        remove()


@contextmanager
def _forwards_recorded(take: Take, transformer: Any, is_first: bool) -> Iterator[Forwards]:
    """Counts the transformer's forwards on this rank. A run that is stopped records how far it came, for the one
    that goes on with it."""
    with counted_forwards(transformer, _forwards_before(take)) as forwards:
        try:
            yield forwards
        except BaseException:
            if is_first:
                with suppress(Ex4dError):  # a full disk, say: what stopped the run is what to tell
                    save_take(with_record(take, forwards=forwards.to_json()))
            raise


def _forwards_before(take: Take) -> Forwards:
    """What an interrupted run of the take counted."""
    try:
        said = fields.mapping(take.record.get("forwards") or {"begun": 0, "cut_short": 0}, "forwards")
        return Forwards(*(fields.integer(said, name, 0, 2**53) for name in ("begun", "cut_short")))
    except ValueError:  # a count that nobody can read is no reason to stop
        return Forwards()


def remedy(runtime: Mapping[str, Any]) -> str:
    """What to try where the model gives no numbers: the first departure from the plainest way of running it."""
    plainest = {"precision": "exact", "cache": "none", "attention": NATIVE}
    for name, value in plainest.items():
        if runtime.get(name) != value:
            return f"Set the {name} to {value} and run again."
    return "Check the model's files with `ex4d models verify`."


class _ReadOnly:
    """The first rank's windows for another rank. All take part in a window's steps, so that none is saved before
    every rank has looked for it."""

    def __init__(self, store: LatentStore) -> None:
        self._store = store

    def load(self, key: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        return self._store.load(key, shape)

    def save(self, key: str, latents: torch.Tensor) -> None:
        pass


def _recorded(take: Take, record: dict[str, Any]) -> Take:
    """The take with the run in its record; frames that an interrupted run of other models or devices wrote go."""
    if take.record.get("diffusion", record) != record:
        for layer in ("generated", "composite", "matte"):
            for number in take.numbers:
                take.file(layer, number).unlink(missing_ok=True)
        take = with_record(take, forwards=None)
    take = with_record(take, diffusion=record)
    save_take(take)
    return take


def _read(files: FramePair) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    color, mask = (read_png(file) for file in files)
    return color[..., :3], mask


def conditioning_digest(pairs: Sequence[FramePair]) -> str:
    """SHA-256 in hex of the files' bytes, in order."""
    digest = hashlib.sha256()
    for file in (file for pair in pairs for file in pair):
        digest.update(_file_digest(file))
    return digest.hexdigest()


def _file_digest(file: Path) -> bytes:
    try:
        return hashlib.sha256(file.read_bytes()).digest()
    except OSError as error:
        raise explain_os_error(error, file) from error


def _frame_bytes(plan: VideoPlan, size: TransformerSize) -> int:
    """What a run takes of the main memory beside its models."""
    return plan.host_bytes(size.has_wan_vae)


def _tokens(plan: VideoPlan) -> list[int]:
    """Of all sizes that are denoised: windows have one length, tiles one size."""
    frames = plan.windows[0].frames
    sizes = {(plan.size.height, plan.size.width), *((tile.height, tile.width) for tile in plan.tiles)}
    return sorted(token_count(frames, height, width) for height, width in sizes)
