# SPDX-License-Identifier: GPL-3.0-or-later
"""Presets of a diffusion model: which models they need, and that a run of them could start. Loads no torch itself."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..bundled_model import BUNDLED, bundled_folder, has_bundled_model, smaller_preset
from ..diffusion.folder_adapter import follows_cameras
from ..errors import Ex4dError
from ..models import store
from ..models.own_adapters import adapter_path
from ..models.registry import model_named
from ..progress import Reporter
from ..shot import Shot
from ..take import Take
from .generate_options import GenerateOptions
from .lead_in import FOLDER_NAME, lead_in

if TYPE_CHECKING:
    from ..diffusion.run_plan import ModelPaths, RuntimeOptions

BASE, ADAPTER, FAST_LORA = "wan2.1-i2v-14b-480p", "ex4d-lora", "wan2.1-fast-lora"
MODELS_OF: Final[dict[str, tuple[str, ...]]] = {"final": (BASE, ADAPTER), "fast": (BASE, ADAPTER, FAST_LORA)}
"""The models to be downloaded, by preset."""
DIFFUSION_PRESETS: Final = ("draft", *MODELS_OF)
LATENTS_NAME: Final = "latents"


@dataclass(frozen=True)
class PresetModels:
    """Where a preset's models are; adapter is None where the model folder holds it."""

    folder: Path
    adapter: Path | None
    fast_lora: Path | None

    def paths(self) -> ModelPaths:
        from ..diffusion.run_plan import ModelPaths

        return ModelPaths(self.folder, self.adapter, self.fast_lora)


def preset_models(preset: str, options: GenerateOptions) -> PresetModels:
    """Where the models of `preset` are on this machine.

    Raises:
        Ex4dError: `model_missing` naming each that is not here and the commands that bring them; `model_invalid`.
    """
    if preset == "draft":
        return _draft_models(options)
    found: dict[str, Path | None] = {}
    missing = []
    for name in MODELS_OF[preset]:
        own = {BASE: options.model, ADAPTER: options.adapter}.get(name)
        try:
            if own:
                found[name] = adapter_path(own) if name == ADAPTER else Path(own).expanduser().absolute()
            else:
                found[name] = store.find(name)
        except Ex4dError as error:
            if error.code != "model_missing":
                raise
            found[name] = None
            folder = found[BASE]
            if name != ADAPTER or folder is None or not follows_cameras(folder):
                missing.append(name)
    if missing:
        models = [model_named(name) for name in missing]
        commands = " and ".join(f"`ex4d models download {model.name}`" for model in models)
        need, smaller = store.gigabytes(sum(model.size_bytes for model in models)), smaller_preset()
        raise Ex4dError(
            "model_missing",
            f"Preset {preset} needs {' and '.join(model.title for model in models)} (about {need}), "
            "not on this machine yet.",
            f"Get it with {commands}, or use preset {smaller} until then.",
            action=f"preset:{smaller}",
        )
    folder = found[BASE]
    assert folder is not None
    return PresetModels(folder, found[ADAPTER], found.get(FAST_LORA))


def _draft_models(options: GenerateOptions) -> PresetModels:
    if options.model is None and not has_bundled_model():
        raise Ex4dError(
            "model_missing",
            "Preset draft needs the bundled small model, which is not installed: this version ships without it.",
            "Use preset preview until then.",
            action="preset:preview",
        )
    folder = Path(options.model).expanduser().absolute() if options.model else bundled_folder()
    adapter = adapter_path(options.adapter) if options.adapter else None
    if adapter is None and folder.is_dir() and not follows_cameras(folder):
        raise Ex4dError(
            "model_missing",
            f"The model folder {folder} lacks its adapter, ex4d.safetensors.",
            "Install this model again, or name an adapter that was trained for it.",
        )
    return PresetModels(folder, adapter, None)


def check_preset(preset: str, options: GenerateOptions) -> None:
    """Raises what would keep the preset from starting here: a model or package that is not here, options that do not
    go together, or too little memory, or no graphics card: the last comes before any download is asked for."""
    try:
        from ..diffusion.keeper import held_gib
        from ..diffusion.run_plan import ModelPaths, check_memory
        from ..diffusion.windows import plan_windows
    except (ImportError, OSError, RuntimeError) as error:
        raise _package_lacks(preset, error) from error
    chosen = options.resolved(preset)
    assert chosen.window is not None and chosen.area is not None and chosen.overlap is not None
    with options_refused():
        plan_windows(1, chosen.window, chosen.overlap)
    tokens = ((chosen.window - 1) // 4 + 1) * chosen.area // 256  # a tile of a second pass has as many
    fits = partial(check_memory, options=runtime_options(chosen), tokens=tokens, held_gib=held_gib())
    try:
        models = preset_models(preset, options)
    except Ex4dError as error:
        if preset in MODELS_OF and error.code == "model_missing":
            folder = _base_folder(options)
            fits(None if folder is None else ModelPaths(folder, None))
        raise
    fits(models.paths())


def _package_lacks(preset: str, error: Exception) -> Ex4dError:
    """`missing_package`, for what was raised while packages were imported: one is not there, or does not load."""
    if isinstance(error, ModuleNotFoundError):
        message = f"Preset {preset} needs the package {error.name}, which is not installed."
    else:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        message = f"Preset {preset} needs packages of which one does not load ({reason})."
    hint = "Set the engine up again, or use preset preview."
    if importlib.util.find_spec("torchao") is not None:  # which transformers imports wherever it is, and setup leaves
        hint = "Set the engine up again, without torchao (`pip uninstall torchao`); or use preset preview."
    return Ex4dError("missing_package", message, hint, action="preset:preview")


def _base_folder(options: GenerateOptions) -> Path | None:
    """The model folder of the presets that are to be downloaded; None where it is not here."""
    if options.model:
        return Path(options.model).expanduser().absolute()
    try:
        return store.find(BASE)
    except Ex4dError as error:
        if error.code != "model_missing":
            raise
        return None


@contextmanager
def options_refused() -> Iterator[None]:
    """A ValueError in the block, of numbers that are not possible together, becomes `bad_request`."""
    try:
        yield
    except ValueError as error:
        raise Ex4dError("bad_request", f"These options do not go together: {error}.", "Change them.") from error


def runtime_options(chosen: GenerateOptions) -> RuntimeOptions:
    """The part of resolved options that says how the models run."""
    from ..diffusion.run_plan import RuntimeOptions

    names = ("tier", "precision", "attention", "compile", "cache")
    return RuntimeOptions(**{name: getattr(chosen, name) for name in names})


def fill(preset: str, shot: Shot, take: Take, reporter: Reporter, options: GenerateOptions, seed: int) -> Take:
    """Writes the take's `generated` frames that are missing; returns the take with the run in its record.

    Finished windows wait in the take's folder `latents` until all frames are there.

    Raises:
        Ex4dError: `model_missing`, `model_invalid`, `out_of_memory`, `cancelled`, `disk_full`.
    """
    from .diffusion_run import DiffusionJob, run_job

    if unused := options.unused(preset):
        reporter.log(f"The model of preset {preset} knows no text: it has no use for {', '.join(unused)}.")
    chosen = options.resolved(preset)
    models = preset_models(preset, options)
    checksums = model_checksums(preset, models, options, reporter)
    before = lead_in(shot, take, reporter)
    own = [(take.file("color", number), take.file("mask", number)) for number in take.numbers]
    job = DiffusionJob(take, (*before, *own), len(before), chosen, seed, models.paths(), checksums)
    take = run_job(job, reporter)
    for name in (LATENTS_NAME, FOLDER_NAME):
        shutil.rmtree(take.root / name, ignore_errors=True)
    return take


def has_finished_windows(take: Take) -> bool:
    """Whether an interrupted run has left windows to go on from."""
    folder = take.root / LATENTS_NAME
    return folder.is_dir() and any(folder.iterdir())


def model_checksums(
    preset: str, models: PresetModels, options: GenerateOptions, reporter: Reporter
) -> dict[str, dict[str, str]]:
    """SHA-256 of every file that a run reads, by the model's name."""
    if preset == "draft":
        files = {BUNDLED: store.file_checksums(folder_files(models.folder), reporter)}
        own_adapter = models.adapter
        return files if own_adapter is None else {**files, ADAPTER: store.checksums(ADAPTER, reporter, own_adapter)}
    places: dict[str, Path | None] = {
        BASE: models.folder,
        ADAPTER: models.adapter,
        FAST_LORA: models.fast_lora,
    }
    own: dict[str, Any] = {BASE: options.model, ADAPTER: options.adapter}
    return {
        name: store.checksums(name, reporter, place if own.get(name) else None)
        for name in MODELS_OF[preset]
        if (place := places[name]) is not None
    }


def folder_files(folder: Path) -> dict[str, Path]:
    """What a run may read of a model folder, by name relative to it, with `/`."""
    kinds = (".json", ".safetensors")
    files = sorted(path for path in folder.rglob("*") if path.suffix in kinds and path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in files}
