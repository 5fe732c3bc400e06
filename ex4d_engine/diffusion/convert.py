# SPDX-License-Identifier: GPL-3.0-or-later
"""Original Wan files, and an EX-4D checkpoint, made into a folder that `loading.load_pipeline` reads directly.

The folder has diffusers' stock layout in the files' own precision, so stock diffusers reads it too. An EX-4D adapter
lies in it as one file, `folder_adapter.ADAPTER_FILE`, with the names of the published checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import diffusers
from torch import nn
from transformers import AutoTokenizer

from ..errors import Ex4dError
from ..files import explain_os_error, prepare_folder
from ..library_talk import hide_library_bars
from ..progress import Reporter
from ..tensor_saving import save_tensors
from .checkpoints import (
    WAN_I2V_14B,
    load_adapter,
    load_image_encoder,
    load_text_encoder,
    load_transformer,
    load_vae,
)
from .folder_adapter import ADAPTER_FILE
from .scheduler import FLOW_SHIFT, euler_scheduler
from .tensor_files import read_tensors
from .transformer import Ex4dTransformer3DModel

Configs = Mapping[str, Mapping[str, Any]]

CONFIGS_14B: Final[Configs] = {
    "WanTransformer3DModel": WAN_I2V_14B,
    "AutoencoderKLWan": {},  # its defaults are Wan2.1's
    "CLIPVisionModel": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": 1024,
    },
    "UMT5EncoderModel": {
        "vocab_size": 256384,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_heads": 64,
        "num_layers": 24,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "is_encoder_decoder": False,
    },
}
"""Configurations of Wan2.1-I2V-14B-480P's parts, by class: OpenCLIP's ViT-H/14 and UMT5-XXL's encoder."""

_SHARDS: Final = "diffusion_pytorch_model*.safetensors"
_NAMES: Final = {
    "vae": "Wan2.1_VAE.pth",
    "image_encoder": "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
    "tokenizer": "google/umt5-xxl",
}
_SHARD_SIZE: Final = "5GB"


@dataclass(frozen=True)
class OriginalFiles:
    """What to convert.

    Attributes:
        transformer: a file, or a folder of shards.
        vae, image_encoder, text_encoder: files.
        tokenizer: a folder.
        adapter: an EX-4D file, or None to leave the folder a stock one.
    """

    transformer: Path
    vae: Path
    image_encoder: Path
    text_encoder: Path
    tokenizer: Path
    adapter: Path | None = None


def original_files(folder: Path | None, *, adapter: Path | None = None, **parts: Path | None) -> OriginalFiles:
    """The parts of a folder as published in Wan-AI/Wan2.1-I2V-14B-480P; those in `parts` are taken instead.

    Args:
        folder: None if every part is given.
        adapter: as of `OriginalFiles`.
        parts: paths by the names of `OriginalFiles`' other fields; None for those to be found in `folder`.

    Raises:
        Ex4dError: `model_missing`, with all that is not there.
    """
    found = {name: path for name, path in parts.items() if path is not None}
    if folder is not None:
        found = {"transformer": folder, **{name: folder / place for name, place in _NAMES.items()}, **found}
    needed = ("transformer", *_NAMES)
    lacking = [f"{name} ({found[name]})" if name in found else name for name in needed if not _there(found.get(name))]
    if found.get("transformer") == folder and folder is not None and not any(folder.glob(_SHARDS)):
        lacking[:0] = [f"transformer ({folder / _SHARDS})"]
    if adapter is not None and not adapter.is_file():
        lacking.append(f"adapter ({adapter})")
    if lacking:
        raise Ex4dError(
            "model_missing",
            f"These parts of the model are not there: {', '.join(lacking)}.",
            "Name a folder as published in Wan-AI/Wan2.1-I2V-14B-480P, or each part by its own option.",
        )
    return OriginalFiles(**{name: found[name] for name in needed}, adapter=adapter)


def _there(path: Path | None) -> bool:
    return path is not None and path.exists()


def read_configs(path: Path) -> Configs:
    """Configurations by class, as `CONFIGS_14B`, from a JSON file; `scheduler` may give another `shift`.

    Raises:
        Ex4dError: `no_such_file`; `model_invalid` if it has not all parts.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise explain_os_error(error, path) from error
    except ValueError as error:
        raise Ex4dError("model_invalid", f"{path} is no JSON ({error}).", "Correct the file.") from error
    entries = document if isinstance(document, dict) else {}
    lacking = [name for name in CONFIGS_14B if not isinstance(entries.get(name), dict)]
    if lacking:
        raise Ex4dError(
            "model_invalid", f"{path} has no configuration of {', '.join(lacking)}.", "Add an object for each."
        )
    return {name: entry for name, entry in entries.items() if isinstance(entry, dict)}


def convert(
    files: OriginalFiles, target: Path, reporter: Reporter, *, configs: Configs | None = None
) -> dict[str, int]:
    """Writes the folder `target`, all of it or nothing, and returns the number of tensors by part.

    One part is in memory at a time, its tensors mapped from the original file where the format allows.

    Args:
        files: what to convert.
        target: a folder that does not exist yet, or is empty.
        reporter: told of each part; its `check` is called between them.
        configs: of the parts, by class; Wan2.1-I2V-14B's if None.

    Raises:
        Ex4dError: `bad_request` if `target` holds something; `disk_full` or `read_only`; `model_missing`;
            `model_invalid` for files that are damaged or do not fit, with the tensors; `cancelled`.
    """
    configs = CONFIGS_14B if configs is None else configs
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise Ex4dError("bad_request", f"{target} exists already.", "Choose the name of a new folder.")
    prepare_folder(target.absolute().parent, _total_size(files))
    counts: dict[str, int] = {}
    small: tuple[tuple[str, Callable[[], nn.Module]], ...] = (
        ("vae", lambda: load_vae(files.vae, configs["AutoencoderKLWan"])),
        ("image_encoder", lambda: load_image_encoder(files.image_encoder, configs["CLIPVisionModel"])),
        ("text_encoder", lambda: load_text_encoder(files.text_encoder, configs["UMT5EncoderModel"])),
    )
    total = len(small) + 2
    hide_library_bars()
    with _new_folder(target) as folder:
        reporter.progress("convert model", 0, total)
        tokenizer_class = _save_tokenizer(files.tokenizer, folder / "tokenizer")
        for done, (name, load) in enumerate(small, start=1):
            reporter.check()
            counts[name] = _save(load(), folder / name)
            reporter.progress("convert model", done, total)
        reporter.check()
        transformer = load_transformer(files.transformer, configs["WanTransformer3DModel"])
        counts["transformer"] = _save(transformer, folder / "transformer")
        _call_stock(folder / "transformer" / "config.json")
        reporter.progress("convert model", total - 1, total)
        reporter.check()
        if files.adapter is not None:
            counts["adapter"] = _save_adapter(files.adapter, transformer, folder / ADAPTER_FILE)
        euler_scheduler(configs.get("scheduler", {}).get("shift", FLOW_SHIFT)).save_pretrained(folder / "scheduler")
        _save_index(folder, tokenizer_class)
        reporter.check()
    reporter.progress("convert model", total, total)
    return counts


# --- parts --------------------------------------------------------------------------------------------------------


def _save(model: Any, folder: Path) -> int:
    model.save_pretrained(folder, safe_serialization=True, max_shard_size=_SHARD_SIZE)
    return len(model.state_dict())


def _save_tokenizer(source: Path, folder: Path) -> str:
    """Copies a tokenizer's files and returns its class: whether it can be read is found out before hours of work."""
    try:
        kind = type(AutoTokenizer.from_pretrained(source, local_files_only=True)).__name__
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Ex4dError(
            "model_invalid", f"{source} is no readable tokenizer ({error}).", "Download this folder again."
        ) from error
    folder.mkdir()
    for file in sorted(source.iterdir()):
        if file.suffix in {".json", ".model"} and file.is_file():
            shutil.copyfile(file, folder / file.name)
    return kind


def _save_adapter(source: Path, transformer: Ex4dTransformer3DModel, path: Path) -> int:
    """Writes the tensors of an EX-4D file as they are, after attaching them has shown that they fit."""
    load_adapter(source, transformer)
    tensors = read_tensors(source)
    # a copy each: safetensors refuses tensors that share memory, as parts of one torch file may
    save_tensors(path, {name: value.clone() for name, value in tensors.items()})
    return len(tensors)


def _call_stock(path: Path) -> None:
    """Names the class that stock diffusers has in a transformer's configuration: the parameters are the same."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["_class_name"] = "WanTransformer3DModel"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _save_index(folder: Path, tokenizer_class: str) -> None:
    index = {
        "_class_name": "WanImageToVideoPipeline",
        "_diffusers_version": diffusers.__version__,
        "image_encoder": ["transformers", "CLIPVisionModel"],
        "image_processor": [None, None],  # the pipeline prepares images itself
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", tokenizer_class],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


# --- folder -------------------------------------------------------------------------------------------------------


def _total_size(files: OriginalFiles) -> int:
    """Bytes of the weight files, which the new ones equal in precision and so in size."""
    paths = [path for path in dataclasses.asdict(files).values() if path is not None]
    shards = [file for path in paths if path.is_dir() for file in path.glob("*.safetensors")]
    return sum(path.stat().st_size for path in (*paths, *shards) if path.is_file())


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, given its name at the end, and removed on any failure."""
    target = target.absolute()
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir()
        yield temporary
        with suppress(FileNotFoundError):
            target.rmdir()  # Windows does not rename onto a folder, not even an empty one
        temporary.replace(target)
    except OSError as error:
        raise explain_os_error(error, target) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
