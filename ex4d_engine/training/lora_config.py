# SPDX-License-Identifier: GPL-3.0-or-later
"""What one training of an EX-4D adapter is: a TOML file, read and checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

from ..diffusion.checkpoints import LORA_TARGETS
from ..errors import Ex4dError
from ..files import explain_os_error

OWN_ADAPTER: Final = "own"
"""As `model.start_from`: the adapter that lies in the model's folder."""

Section = TypeVar("Section")


def _number(default: float, least: float, most: float) -> Any:
    return field(default=default, metadata={"least": least, "most": most})


def _choice(*choices: str) -> Any:
    return field(default=choices[0], metadata={"choices": choices})


@dataclass(frozen=True)
class BaseModel:
    """[model]: what the adapter is for.

    name: of an installed model, see `ex4d models list`, or of the small one that comes with the engine, "ex4d-draft";
        used where `folder` is empty.
    folder: a model folder in diffusers' layout.
    start_from: an EX-4D adapter file to go on from, or "own" for the one in the model's folder; empty for a fresh
        adapter.
    """

    name: str = "wan2.1-i2v-14b-480p"
    folder: str = ""
    start_from: str = ""

    @property
    def title(self) -> str:
        """What messages call the model."""
        return Path(self.folder).name or self.name


@dataclass(frozen=True)
class TrainingData:
    """[data]: which clips, and how they are cut.

    clips: a folder of movies and image sequences; or
    scenes: how many scenes to draw instead.
    frames: of a window, 4k + 1. height, width: pixels, multiples of 16.
    windows_per_clip: cut from a clip that is long enough, evenly spread.
    short_clips: what is done with a clip shorter than a window.
    masks_per_clip: how many simulated masks are drawn for a window; a step takes one of them.
    depth: the depth source for clips; drawn scenes bring their own depth.
    prompt: text of every clip without a `.txt` file of its name beside it; empty for the one that generation uses.
    """

    clips: str = ""
    scenes: int = _number(0, 0, 10**7)
    frames: int = _number(49, 1, 257)
    height: int = _number(512, 16, 4096)
    width: int = _number(512, 16, 4096)
    windows_per_clip: int = _number(1, 1, 1000)
    short_clips: str = _choice("repeat_last", "skip")
    masks_per_clip: int = _number(4, 1, 64)
    depth: str = "bundled"
    prompt: str = ""


@dataclass(frozen=True)
class MaskMix:
    """[masks]: weights of the kinds of simulated masks, and how they are drawn (see simulated_masks.py).

    rendering, tracking, both, none: how often a mask is of this kind, as shares of their sum.
    least_orbit_deg, most_orbit_deg: how far a rendering mask's orbit turns.
    least_erosion, most_erosion: side in pixels of the square that the kept region shrinks by, drawn for each frame;
        9 is what generation erodes by, 2 to 8 the reference's.
    """

    rendering: float = _number(0.5, 0.0, 1e6)
    tracking: float = _number(0.2, 0.0, 1e6)
    both: float = _number(0.25, 0.0, 1e6)
    none: float = _number(0.05, 0.0, 1e6)
    least_orbit_deg: float = _number(5.0, 0.0, 180.0)
    most_orbit_deg: float = _number(90.0, 0.0, 180.0)
    least_erosion: int = _number(9, 1, 99)
    most_erosion: int = _number(9, 1, 99)


@dataclass(frozen=True)
class AdapterShape:
    """[adapter]: rank and alpha of the LoRA, the linear layers it changes, and the camera encoder's hidden width."""

    rank: int = _number(16, 1, 1024)
    alpha: float = _number(16.0, 1e-3, 4096.0)
    targets: tuple[str, ...] = LORA_TARGETS
    camera_channels: int = _number(1024, 1, 8192)


@dataclass(frozen=True)
class Objective:
    """[objective]: under how much noise a model is asked.

    noise_levels: "uniform" over the shifted schedule with the published weights; "logit_normal" before the shift; or
        "few_steps", evenly before the shift, except for a share at the levels of the steps that it will sample in.
    sampling_steps, sampled_share: how many steps these are, and that share; of "few_steps" only.
    """

    noise_levels: str = _choice("uniform", "logit_normal", "few_steps")
    sampling_steps: int = _number(4, 1, 100)
    sampled_share: float = _number(0.25, 0.0, 1.0)


@dataclass(frozen=True)
class Optimiser:
    """[optimiser]: AdamW and its schedule.

    batch: clips a step, over all graphics cards together. micro_batch: clips that one card holds at once; what is
        left of the batch is accumulated.
    schedule: of the learning rate after `warm_up_steps`.
    largest_gradient: norm that gradients are clipped to.
    average_kept: share of the averaged weights that a step keeps; the average is what is exported. 0 for none.
    gradient_checkpointing: each block is computed a second time in the backward pass instead of being remembered.
    """

    steps: int = _number(2000, 1, 10**8)
    batch: int = _number(4, 1, 4096)
    micro_batch: int = _number(1, 1, 4096)
    learning_rate: float = _number(1e-4, 1e-9, 1.0)
    weight_decay: float = _number(0.01, 0.0, 1.0)
    schedule: str = _choice("cosine", "constant")
    warm_up_steps: int = _number(100, 0, 10**8)
    largest_gradient: float = _number(1.0, 1e-6, 1e6)
    average_kept: float = _number(0.999, 0.0, 0.99999)
    gradient_checkpointing: bool = True


@dataclass(frozen=True)
class Upkeep:
    """[run]: seed, and how often what is written. Seed and validation_clips stay when a run is resumed.

    validation_clips: windows at the end of the list that are never trained on. validate_every: steps; 0 for never.
    validation_steps: denoising steps of a validation clip. log_every: steps between lines.
    """

    seed: int = _number(0, 0, 2**31)
    checkpoint_every: int = _number(100, 1, 10**8)
    checkpoints_kept: int = _number(2, 1, 1000)
    validate_every: int = _number(200, 0, 10**8)
    validation_clips: int = _number(2, 0, 1000)
    validation_steps: int = _number(8, 1, 1000)
    log_every: int = _number(10, 1, 10**6)


@dataclass(frozen=True)
class LoraTraining:
    """One training. Paths in it are absolute once it was read from a file."""

    model: BaseModel = field(default_factory=BaseModel)
    data: TrainingData = field(default_factory=TrainingData)
    masks: MaskMix = field(default_factory=MaskMix)
    adapter: AdapterShape = field(default_factory=AdapterShape)
    objective: Objective = field(default_factory=Objective)
    optimiser: Optimiser = field(default_factory=Optimiser)
    run: Upkeep = field(default_factory=Upkeep)

    def __post_init__(self) -> None:
        data, optimiser = self.data, self.optimiser
        if bool(data.clips) == bool(data.scenes):
            raise _refused("data.clips and data.scenes are alternatives", "Give one of them.")
        if data.frames % 4 != 1:
            raise _refused(f"data.frames is {data.frames}", "Give 4k + 1 frames, such as 49.")
        if data.height % 16 or data.width % 16:
            raise _refused(f"the size is {data.width}x{data.height}", "Give multiples of 16 pixels.")
        if optimiser.batch % optimiser.micro_batch:
            raise _refused(
                f"optimiser.batch {optimiser.batch} is no multiple of micro_batch {optimiser.micro_batch}",
                "Give a multiple, such as 4 and 1.",
            )
        unknown = [name for name in self.adapter.targets if name not in LORA_TARGETS]
        if unknown or not self.adapter.targets or len(set(self.adapter.targets)) < len(self.adapter.targets):
            raise _refused(
                f"adapter.targets are {list(self.adapter.targets)}",
                f"Give some of {', '.join(LORA_TARGETS)}, each once.",
            )

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Sections by name, as they come back from JSON."""
        sections = dataclasses.asdict(self)
        sections["adapter"]["targets"] = list(self.adapter.targets)
        return sections

    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with its first sitting, one entry a setting.

        Where files lie does not matter, what is in them does: see `latent_cache.CachedData.digest`.
        """
        free = {"model.folder", "model.name", "model.start_from", "data.clips"}
        # what a machine holds at once, and not what it learns
        free |= {"optimiser.micro_batch", "optimiser.gradient_checkpointing"}
        free |= {f"run.{entry.name}" for entry in dataclasses.fields(Upkeep)} - {"run.seed", "run.validation_clips"}
        if self.optimiser.schedule == "constant":
            free.add("optimiser.steps")  # which then changes nothing about a step
        if self.objective.noise_levels != "few_steps":
            free |= {"objective.sampling_steps", "objective.sampled_share"}
        entries = {
            f"{section}.{name}": value for section, values in self.to_json().items() for name, value in values.items()
        }
        return {name: value for name, value in entries.items() if name not in free}

    def printed(self) -> str:
        """The whole training as TOML, with every setting that was left out."""
        lines = []
        for section, values in self.to_json().items():
            lines += [f"[{section}]", *(f"{name} = {_toml(value)}" for name, value in values.items()), ""]
        return "\n".join(lines)


def read_config(path: Path) -> LoraTraining:
    """The training in a TOML file; relative paths are taken from the file's folder.

    Raises:
        Ex4dError: `no_such_file`; `bad_request` with the setting that is unknown, of another kind or out of range.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise explain_os_error(error, path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Ex4dError("bad_request", f"{path} is no TOML ({error}).", "Correct the file.") from error
    return parse_config(document, path.absolute().parent)


def parse_config(document: Mapping[str, Any], folder: Path) -> LoraTraining:
    """The training of a parsed TOML document, whose relative paths start at `folder`.

    Raises:
        Ex4dError: `bad_request`.
    """
    kinds = get_type_hints(LoraTraining)
    unknown = sorted(document.keys() - kinds.keys())
    if unknown:
        raise _refused(f"there is no section [{unknown[0]}]", f"Sections are {', '.join(kinds)}.")
    training = LoraTraining(**{name: _section(name, kinds[name], table) for name, table in document.items()})

    def absolute(text: str) -> str:
        return str((folder / Path(text).expanduser()).absolute()) if text else ""

    start = training.model.start_from
    model = dataclasses.replace(
        training.model,
        folder=absolute(training.model.folder),
        start_from=start if start == OWN_ADAPTER else absolute(start),
    )
    return dataclasses.replace(
        training, model=model, data=dataclasses.replace(training.data, clips=absolute(training.data.clips))
    )


def _section(section: str, kind: type[Section], table: Any) -> Section:
    if not isinstance(table, dict):
        raise _refused(f"{section} is no section", f"Write [{section}].")
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    values = {}
    for name, value in table.items():
        if name not in fields:
            raise _refused(f"[{section}] has no setting {name!r}", f"Its settings are {', '.join(fields)}.")
        values[name] = _value(f"{section}.{name}", hints[name], fields[name].metadata, value)
    return kind(**values)


_KINDS: Final[dict[Any, str]] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text in quotes",
    tuple[str, ...]: "a list of texts",
}


def _value(name: str, kind: Any, limits: Mapping[str, Any], value: Any) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind == tuple[str, ...]:
        fits = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
        value = tuple(value) if fits else value
    else:
        fits = type(value) is kind
    if not fits:
        raise _refused(f"{name} is {value!r}", f"Give {_KINDS[kind]}.")
    if "choices" in limits and value not in limits["choices"]:
        raise _refused(f"{name} is {value!r}", f"Give {' or '.join(limits['choices'])}.")
    if "least" in limits and not limits["least"] <= value <= limits["most"]:  # NaN is not in between either
        raise _refused(f"{name} is {value!r}", f"Give {limits['least']} to {limits['most']}.")
    return value


def _refused(what: str, hint: str) -> Ex4dError:
    return Ex4dError("bad_request", f"The training's configuration does not work: {what}.", hint)


def _toml(value: Any) -> str:
    """JSON's texts, numbers, booleans and flat lists are TOML's too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
