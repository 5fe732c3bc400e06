# SPDX-License-Identifier: GPL-3.0-or-later
"""The pipe between Blender and the engine: one JSON object a line, UTF-8. Standard library only.

Requests (Blender to engine): {"type": "request", "id": 1, "method": "reconstruct", "params": {...}},
{"type": "cancel", "id": 1}, {"type": "shutdown"}.
Messages (engine to Blender): see `Message` and its subclasses; the first is always `hello`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Final

from .errors import ERROR_CODES, Ex4dError
from .json_fields import as_number, as_text, mapping, parse_json, to_json

PROTOCOL_VERSION: Final = 1
METHODS: Final = ("reconstruct", "find_shots", "render", "generate", "check_preset", "free_memory", "ping")
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
_MOST: Final = 2**53  # Blender's properties and other JSON readers hold no larger whole number


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MOST:
        raise ValueError(f"{name} is not a whole number")
    return value


def _number_or_none(value: Any, name: str) -> float | None:
    return None if value is None else as_number(value, name)


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is not a list")
    return tuple(as_text(entry, name) for entry in value)


def _two_numbers(value: Any, name: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{name} is not a list of two numbers")
    return as_number(value[0], name), as_number(value[1], name)


_KINDS: Final[tuple[type[Message], ...]] = (
    Request, Cancel, Shutdown, Hello, Progress, Preview, Log, Error, Done, Heartbeat
)  # fmt: skip
_TYPES: Final[dict[str, type[Message]]] = {kind.type: kind for kind in _KINDS}
# how a field is read, by the annotation it is declared with
_READERS: Final[dict[str, Callable[[Any, str], Any]]] = {
    "int": _whole,
    "str": as_text,
    "float | None": _number_or_none,
    "dict[str, Any]": mapping,
    "tuple[str, ...]": _texts,
    "tuple[float, float]": _two_numbers,
}


def encode(message: Message) -> bytes:
    """The message as one line of UTF-8 JSON, newline included.

    Raises:
        Ex4dError: `bad_request` for a line that the other end would refuse for its length.
        ValueError: for a number that is not finite.
    """
    line = to_json({"type": message.type, **asdict(message)}) + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise _bad(f"it would be a line of {len(line)} bytes")
    return line


def decode(line: bytes) -> Message:
    """Reads one line. Fields that are not known are ignored: a newer program may say more.

    Raises:
        Ex4dError: `bad_request` for anything that is not a message of this protocol.
    """
    if len(line) > MAX_LINE_BYTES:
        raise _bad(f"a line of {len(line)} bytes")
    try:
        document = mapping(parse_json(line), "the line")
        name = as_text(document.get("type"), "type")
        if name not in _TYPES:
            raise ValueError(f"there is no type {name[:40]!r}")
        kind = _TYPES[name]
        # fields that are missing and have no default are found by the constructor
        said = [entry for entry in fields(kind) if entry.name in document]
        values = {entry.name: _READERS[str(entry.type)](document[entry.name], entry.name) for entry in said}
        return kind(**values)
    except ValueError as error:
        raise _bad(str(error)) from error
    except TypeError as error:
        raise _bad(f"{name} lacks a field") from error


def _bad(reason: str) -> Ex4dError:
    return Ex4dError("bad_request", f"A line on the pipe is not an EX-4D message: {reason}.", "Restart the engine.")
