# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pipe can ask the engine for: each method's parameters, and the stage function that it calls.

Methods and their parameters, as JSON ("?" may be left out or null):
  reconstruct  shot, source, first?, last?, stride?, depth?, depth_options?, fov_deg?, compat?,
               first_number?, fps?, focal_mm?, sensor_mm?, poses?, scene_scale?, measured?, cuts?
                                              → shot, frames, size
               stages.ReconstructSettings by name
  find_shots   source, first_number?          → shots, dissolves: [[first, last], …] in the clip's own frame numbers
  render       shot, take                     → take
  generate     shot, take, preset, seed?, options?  → take, result
               options: stages.generate_options.GenerateOptions by name
  check_preset  preset, options?              → nothing; the error says what the preset lacks
  free_memory                                 → nothing: models kept for the next job are let go
  ping                                        → nothing
`shot` and `source` are absolute paths: the engine's working folder means nothing to whoever asks.
Stages are imported when a method runs, so that the engine says hello before it loads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .errors import Ex4dError
from .progress import Reporter


@dataclass(frozen=True)
class Parameter:
    """kinds: the JSON types allowed; optional: may be absent or null; path: an absolute one."""

    kinds: tuple[type, ...]
    optional: bool = False
    path: bool = False


_TEXT: Final = Parameter((str,))
_PATH: Final = Parameter((str,), path=True)
_MAYBE_WHOLE: Final = Parameter((int,), optional=True)
_MAYBE_TEXT: Final = Parameter((str,), optional=True)
_MAYBE_NUMBER: Final = Parameter((int, float), optional=True)
PARAMETERS: Final[dict[str, dict[str, Parameter]]] = {
    "reconstruct": {
        "shot": _PATH,
        "source": _PATH,
        "first": _MAYBE_WHOLE,
        "last": _MAYBE_WHOLE,
        "stride": _MAYBE_WHOLE,
        "depth": _MAYBE_TEXT,
        "depth_options": Parameter((dict,), optional=True),
        "fov_deg": _MAYBE_NUMBER,
        "focal_mm": _MAYBE_NUMBER,
        "sensor_mm": _MAYBE_NUMBER,
        "poses": Parameter((str,), optional=True, path=True),
        "scene_scale": _MAYBE_NUMBER,
        "measured": Parameter((list,), optional=True),
        "cuts": _MAYBE_TEXT,
        "compat": _MAYBE_TEXT,
        "first_number": _MAYBE_WHOLE,
        "fps": _MAYBE_TEXT,
    },
    "find_shots": {"source": _PATH, "first_number": _MAYBE_WHOLE},
    "render": {"shot": _PATH, "take": _TEXT},
    "generate": {
        "shot": _PATH,
        "take": _TEXT,
        "preset": _TEXT,
        "seed": _MAYBE_WHOLE,
        "options": Parameter((dict,), optional=True),
    },
    "check_preset": {"preset": _TEXT, "options": Parameter((dict,), optional=True)},
    "free_memory": {},
    "ping": {},
}


KEEPING: Final = ("find_shots", "generate", "render", "check_preset", "ping")
"""Methods beside which models may stay in memory for the next job; every other one may want it for itself."""


def check_params(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """`params` without its nulls, which mean "not said".

    Raises:
        Ex4dError: `bad_request` for an unknown method, a name it does not know, a missing one, a wrong
            type, or a path that is not absolute.
    """
    expected = PARAMETERS.get(method)
    if expected is None:
        raise bad_request(f"There is no method {method!r}.", f"Methods are {', '.join(PARAMETERS)}.")
    unknown = sorted(set(params) - set(expected))
    if unknown:
        raise bad_request(f"{method} has no parameter {unknown[0]!r}.", f"It knows {', '.join(expected) or 'none'}.")
    said = {name: value for name, value in params.items() if value is not None}
    for name, parameter in expected.items():
        if name not in said:
            if parameter.optional:
                continue
            raise bad_request(f"{method} needs the parameter {name!r}.", "Give it.")
        value = said[name]
        if not isinstance(value, parameter.kinds) or isinstance(value, bool):
            kinds = " or ".join(kind.__name__ for kind in parameter.kinds)
            raise bad_request(f"{method}'s {name} is a {type(value).__name__}.", f"Give a {kinds}.")
        if parameter.path and not Path(str(value)).is_absolute():
            raise bad_request(f"{method}'s {name} is not an absolute path: {value!r}.", "Give the whole path.")
    return said


def bad_request(message: str, hint: str) -> Ex4dError:
    """The error for a request that no method can take."""
    return Ex4dError("bad_request", message, hint)


def run_method(method: str, params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Runs one job to its end and returns what `done` carries; `params` come from `check_params`."""
    match method:
        case "reconstruct":
            return _reconstruct(params, reporter)
        case "find_shots":
            return _find_shots(params, reporter)
        case "render":
            return _render(params, reporter)
        case "generate":
            return _generate(params, reporter)
        case "check_preset":
            return _check_preset(params)
        case _:
            return {}  # ping: to be answered is all it asks for; free_memory: the worker has done it


def _reconstruct(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    from . import stages

    root = Path(params["shot"])
    settings = stages.ReconstructSettings(**{name: value for name, value in params.items() if name != "shot"})
    plate = stages.reconstruct(settings, root, reporter).require_plate()
    return {"shot": str(root), "frames": plate.count, "size": [plate.width, plate.height]}


def _find_shots(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    from . import stages

    found = stages.find_shots(params["source"], reporter, first_number=params.get("first_number"))
    return {"shots": found.shots, "dissolves": found.dissolves}


def _render(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    from . import stages
    from .shot import load_shot
    from .take import load_take

    shot = load_shot(Path(params["shot"]))
    take = stages.render(shot, load_take(shot, params["take"]), reporter)
    return {"take": take.name}


def _generate(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    from . import stages
    from .shot import load_shot
    from .take import load_take

    options = stages.GenerateOptions.from_json(params.get("options", {}))
    shot = load_shot(Path(params["shot"]))
    take = load_take(shot, params["take"])
    take = stages.generate(shot, take, params["preset"], reporter, seed=params.get("seed", 0), options=options)
    return {"take": take.name, "result": str(take.result_file)}


def _check_preset(params: dict[str, Any]) -> dict[str, Any]:
    from . import stages

    stages.require_preset(params["preset"], stages.GenerateOptions.from_json(params.get("options", {})))
    return {}
