# SPDX-License-Identifier: GPL-3.0-or-later
"""The pipe between Blender and the engine: one JSON object a line, UTF-8. Standard library only.

Requests (Blender to engine): {"type": "request", "id": 1, "method": "reconstruct", "params": {...}},
{"type": "cancel", "id": 1}, {"type": "shutdown"}.
Messages (engine to Blender): see `Message` and its subclasses; the first is always `hello`.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Final

from .errors import ERROR_CODES, Ex4dError

PROTOCOL_VERSION: Final = 1
METHODS: Final = ("reconstruct", "render", "generate", "ping")
MAX_LINE_BYTES: Final = 4 * 2**20  # pixels never travel here; a longer line is garbage


@dataclass(frozen=True)
class Request:
    """Asks for a job. `params` are the method's own keyword arguments (see worker.py)."""

    type: ClassVar[str] = "request"
    id: int
    method: str
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cancel:
    """Stops job `id` at its next step."""

    type: ClassVar[str] = "cancel"
    id: int


@dataclass(frozen=True)
class Shutdown:
    """Ends the engine; the end of its stdin does the same."""

    type: ClassVar[str] = "shutdown"


@dataclass(frozen=True)
class Hello:
    """The engine's first line. device: a name to show; memory_gib: (free, total) of that device."""

    type: ClassVar[str] = "hello"
    protocol: int
    engine: str
    device: str
    memory_gib: tuple[float, float]
    presets: tuple[str, ...] = ()
    depth_sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """eta_s: seconds until the stage ends, None while unknown."""

    type: ClassVar[str] = "progress"
    id: int
    stage: str
    done: int
    total: int
    eta_s: float | None = None


@dataclass(frozen=True)
class Preview:
    """A finished frame to show; path: absolute."""

    type: ClassVar[str] = "preview"
    id: int
    path: str


@dataclass(frozen=True)
class Log:
    """A sentence for the job's log; id 0: about the engine itself."""

    type: ClassVar[str] = "log"
    id: int
    message: str


@dataclass(frozen=True)
class Error:
    """The job's end by failure. code: one of errors.ERROR_CODES."""

    type: ClassVar[str] = "error"
    id: int
    code: str
    message: str
    hint: str = ""
    action: str = ""

    def exception(self) -> Ex4dError:
        code = self.code if self.code in ERROR_CODES else "internal"
        return Ex4dError(code, self.message, self.hint, self.action)


@dataclass(frozen=True)
class Done:
    """The job's end by success."""

    type: ClassVar[str] = "done"
    id: int
    result: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Heartbeat:
    """Sent every second while a job runs: the engine is alive even when a step is long."""

    type: ClassVar[str] = "heartbeat"
    id: int


Message = Request | Cancel | Shutdown | Hello | Progress | Preview | Log | Error | Done | Heartbeat
_TYPES: Final[dict[str, type]] = {
    kind.type: kind for kind in (Request, Cancel, Shutdown, Hello, Progress, Preview, Log, Error, Done, Heartbeat)
}
# what a field may hold, by the annotation it is declared with
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,),
    "str": (str,),
    "float | None": (int, float, type(None)),
    "dict[str, Any]": (dict,),
    "tuple[str, ...]": (list, tuple),
    "tuple[float, float]": (list, tuple),
}


def encode(message: Message) -> bytes:
    """The message as one line of UTF-8 JSON, newline included."""
    text = json.dumps({"type": message.type, **asdict(message)}, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"


def decode(line: bytes) -> Message:
    """Reads one line.

    Raises:
        Ex4dError: `bad_request` for anything that is not a message of this protocol.
    """
    if len(line) > MAX_LINE_BYTES:
        raise _bad(f"a line of {len(line)} bytes")
    try:
        # UnicodeDecodeError and JSONDecodeError are ValueErrors; RecursionError comes from deep nesting
        document = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _bad(f"not JSON ({error})") from error
    if not isinstance(document, dict):
        raise _bad("not an object")
    kind = _TYPES.get(str(document.pop("type", "")))
    if kind is None:
        raise _bad("unknown type")
    values: dict[str, Any] = {}
    for entry in fields(kind):
        if entry.name not in document:
            continue  # missing required fields are found by the constructor below
        value = document[entry.name]
        if not isinstance(value, _KINDS[str(entry.type)]) or isinstance(value, bool):
            raise _bad(f"{kind.type}.{entry.name} is a {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise _bad(f"{kind.type}.{entry.name} is not finite")
        values[entry.name] = tuple(value) if isinstance(value, list) else value
    try:
        message: Message = kind(**values)
    except TypeError as error:
        raise _bad(f"{kind.type} lacks a field") from error
    return message


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _bad(reason: str) -> Ex4dError:
    return Ex4dError("bad_request", f"A line on the pipe is not an EX-4D message: {reason}.", "Restart the engine.")
