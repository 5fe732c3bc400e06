# SPDX-License-Identifier: GPL-3.0-or-later
"""One job from its start to its end, a little at a time, without ever waiting. No bpy.

A job is a generator: it yields what to ask of the engine and gets the engine's answer, or yields None in long
work of its own to let Blender breathe; it returns the sentence that the user reads at the end. What it does
in between runs on Blender's main thread. An error of the engine and a cancel close the generator, so its
`finally` blocks clean up.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Final

from ..ex4d_engine import protocol
from ..ex4d_engine.errors import Cancelled, Ex4dError
from .engine_process import HELLO_TIMEOUT_S, EngineProcess

SILENT_S: Final = 10.0  # ten missed heartbeats


@dataclass(frozen=True)
class EngineRequest:
    """A method of the engine and its parameters; see ex4d_engine/methods.py."""

    method: str
    params: dict[str, Any] = field(default_factory=dict)


Steps = Generator[EngineRequest | None, dict[str, Any], str]


class JobRun:
    """Drives one job; `advance` is called again and again until it says that the job is finished.

    Args:
        title: what the user calls the job.
        make_steps: starts the generator; it may call `progress` of the run it gets.
        start_engine: returns a started engine; called when the job first needs it.
    """

    def __init__(
        self, title: str, make_steps: Callable[[JobRun], Steps], start_engine: Callable[[], EngineProcess]
    ) -> None:
        self.title = title
        self.stage = ""
        self.done, self.total = 0, 0
        self.eta_s: float | None = None
        self.take = ""  # name of the take that the job works on, for another attempt to go on with
        self.preset = ""  # the one it generates with, for another attempt with less memory
        self.preview = ""  # the newest finished frame's file
        self.logs: list[str] = []
        self.message = ""  # the sentence at the end
        self.error: Ex4dError | None = None
        self.traceback = ""  # of a bug in the job's own steps
        self.is_finished = False
        self.is_cancelling = False
        self._steps = make_steps(self)
        self._start_engine = start_engine
        self._engine: EngineProcess | None = None
        self._request: EngineRequest | None = None
        self._job: int | None = None
        self._heard = time.monotonic()

    @property
    def is_in_blender(self) -> bool:
        """Whether the job works in Blender itself just now, so that the file must not change under it."""
        return not self.is_finished and self._request is None

    @property
    def factor(self) -> float:
        """How far the stage is, 0 to 1."""
        return self.done / self.total if self.total else 0.0

    @property
    def text(self) -> str:
        """Stage, count and time left, in one line."""
        if self.is_cancelling:
            return "Cancelling"
        if not self.stage:
            return "Starting" if self._request is None else "Starting the engine"
        parts = [f"{self.stage.capitalize()} {self.done}/{self.total}" if self.total else self.stage.capitalize()]
        silent_s = time.monotonic() - self._heard
        if self._job is not None and silent_s > SILENT_S:
            parts.append(f"no sign of life for {silent_s:.0f} s")
        elif self.eta_s:
            parts.append(f"{_duration(self.eta_s)} left")
        return ", ".join(parts)

    def progress(self, stage: str, done: int, total: int) -> None:
        """For steps that work in Blender itself."""
        self.stage, self.done, self.total, self.eta_s = stage, done, total, None

    def cancel(self) -> None:
        """Asks the job to stop; it goes on until the engine has answered."""
        self.is_cancelling = True
        if self._engine is not None and self._job is not None:
            self._engine.cancel(self._job)

    def advance(self) -> bool:
        """Does what can be done now; True once the job has finished (see `message` and `error`)."""
        if self.is_finished:
            return True
        try:
            if self._request is None:
                self._stop_if_asked()
                self._take(next(self._steps))
            elif self._job is None:
                self._submit_when_ready()
            else:
                self._listen()
        except StopIteration as end:
            self.message = str(end.value or "")
            self.is_finished = True
        except Ex4dError as error:
            self._fail(error)
        except Exception as error:  # a bug: the run must end all the same, or Blender would seem busy for ever
            self.traceback = traceback.format_exc()
            self._fail(
                Ex4dError(
                    "internal",
                    f"EX-4D failed unexpectedly: {type(error).__name__}: {error}",
                    "Copy the report and file it as a bug.",
                )
            )
        return self.is_finished

    def abandon(self) -> None:
        """Ends the run at once, for when nobody will call `advance` any more; the engine is told to stop."""
        if not self.is_finished:
            self.cancel()
            self._fail(Cancelled())

    def _stop_if_asked(self) -> None:
        if self.is_cancelling:
            raise Cancelled

    def _take(self, request: EngineRequest | None) -> None:
        self._request, self._job = request, None
        if request is None:
            return
        self.stage, self.done, self.total, self.eta_s = "", 0, 0, None
        self._engine = self._start_engine()
        self._heard = time.monotonic()
        self._submit_when_ready()

    def _submit_when_ready(self) -> None:
        assert self._engine is not None and self._request is not None
        self._stop_if_asked()
        if self._engine.check_hello() is not None:
            self._job = self._engine.submit(self._request.method, self._request.params)
        elif time.monotonic() - self._heard > HELLO_TIMEOUT_S:
            self._engine.wait_hello(0.0)  # says why, and stops it

    def _listen(self) -> None:
        assert self._engine is not None
        for message in self._engine.poll():
            self._heard = time.monotonic()
            match message:
                case protocol.Log() if message.id in (0, self._job):
                    self.logs.append(message.message)
                case protocol.Error(id=0):
                    self.logs.append(message.message)
                case protocol.Progress() if message.id == self._job:
                    self.stage, self.done, self.total = message.stage, message.done, message.total
                    self.eta_s = message.eta_s
                case protocol.Preview() if message.id == self._job:
                    self.preview = message.path
                case protocol.Error() if message.id == self._job:
                    raise message.exception()
                case protocol.Done() if message.id == self._job:
                    self._stop_if_asked()
                    self._take(self._steps.send(message.result))
                    return

    def _fail(self, error: Ex4dError) -> None:
        self._steps.close()
        self.error = error
        self.is_finished = True


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"
