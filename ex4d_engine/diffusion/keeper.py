# SPDX-License-Identifier: GPL-3.0-or-later
"""Models kept in place between the jobs of one process, for as long as somebody may want them again.

Only a process that serves many jobs keeps anything, inside `keeping`. Everything happens on the thread that runs the
jobs; nothing is shared between processes. At module level nothing of torch is imported, so that such a process starts
at once.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..progress import Reporter

if TYPE_CHECKING:
    from .runtime import ModelPaths, Models, Ready, RunPlan, RuntimeOptions


class Keeper:
    """One set of models at most, in place for its next job.

    Args:
        idle_s: seconds without a job after which `seconds_left` is 0 and the models should be released.
    """

    def __init__(self, idle_s: float) -> None:
        self.idle_s = idle_s
        self._stack = ExitStack()
        self._kept: tuple[Hashable, RunPlan, Models] | None = None
        self._last_used = 0.0

    @property
    def is_holding(self) -> bool:
        return self._kept is not None

    def seconds_left(self) -> float | None:
        """Until the models should be released; None where there are none."""
        return max(0.0, self._last_used + self.idle_s - time.monotonic()) if self._kept is not None else None

    def release(self) -> None:
        """Gives the models' memory back; does nothing where none are held."""
        self._kept = None
        self._stack.close()

    def held_gib(self) -> float:
        """Memory of the device that the models hold, GiB."""
        if self._kept is None:
            return 0.0
        import torch

        _, plan, models = self._kept
        if plan.device.type == "cuda":
            return torch.cuda.memory_allocated(plan.device) / 2**30
        parts = [part for part in models.pipeline.components.values() if isinstance(part, torch.nn.Module)]
        return sum(weight.nbytes for part in parts for weight in part.parameters()) / 2**30

    @contextmanager
    def opened(
        self,
        paths: ModelPaths,
        options: RuntimeOptions,
        *,
        identity: Hashable,
        tokens: int,
        steps: int,
        guidance_scale: float,
        prompt: str,
        negative_prompt: str,
        reporter: Reporter,
        frame_bytes: int = 0,
    ) -> Iterator[Ready]:
        """As `runtime.open_pipeline`, with the models of the job before where it asked for the same.

        Other models go first, before any of these are loaded. Whatever ends the block with an error, a cancel
        included, gives the memory back; else the models stay.

        Args:
            identity: of the models' files, such as their checksums; two jobs of one path but other files share
                nothing.
        """
        from .runtime import Ready, open_models, plan_run, prompt_embeds, smaller_tier_offered

        is_guided = guidance_scale > 1
        key = (paths, options, identity, tokens)
        if self._kept is not None and self._kept[0] != key:
            self.release()
        try:
            if self._kept is None:
                plan = plan_run(paths, options, tokens, steps * (2 if is_guided else 1), frame_bytes=frame_bytes)
            else:
                plan = self._kept[1]
            with smaller_tier_offered(plan):
                texts = [prompt, negative_prompt] if is_guided else [prompt]
                embeds = prompt_embeds(paths.folder, texts, plan.device, reporter, before_encoding=self.release)
                if self._kept is None:
                    opening = open_models(paths, options, plan, is_guided=is_guided, reporter=reporter)
                    self._kept = (key, plan, self._stack.enter_context(opening))
                else:
                    reporter.log("The models are still in place from the job before.")
                models = self._kept[2]
                if models.compiled is not None:
                    models.compiled.reporter = reporter
                yield Ready(models.pipeline, embeds, models.record, models.compiled)
        except BaseException as error:
            self._kept = None
            # to the models' own end, which lets go of what the error holds
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        self._last_used = time.monotonic()


_keeper: ContextVar[Keeper | None] = ContextVar("keeper", default=None)


@contextmanager
def keeping(keeper: Keeper) -> Iterator[Keeper]:
    """Jobs within the block keep their models by `keeper`; at its end they are released."""
    token = _keeper.set(keeper)
    try:
        yield keeper
    finally:
        _keeper.reset(token)
        keeper.release()


def kept_pipeline(
    paths: ModelPaths, options: RuntimeOptions, *, identity: Hashable, **run: Any
) -> AbstractContextManager[Ready]:
    """`runtime.open_pipeline`, by this process's keeper where it has one and no other ranks share the work."""
    from .runtime import open_pipeline

    keeper = _keeper.get()
    if keeper is None or run.get("ranks") is not None:
        return open_pipeline(paths, options, **run)
    run.pop("ranks", None)
    return keeper.opened(paths, options, identity=identity, **run)


def release_kept() -> None:
    """Gives back what this process's keeper holds: other processes are about to need the devices."""
    keeper = _keeper.get()
    if keeper is not None:
        keeper.release()


def held_gib() -> float:
    """Memory of the device that this process's keeper would give back for other models, GiB."""
    keeper = _keeper.get()
    return keeper.held_gib() if keeper is not None else 0.0
