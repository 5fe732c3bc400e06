# SPDX-License-Identifier: GPL-3.0-or-later
"""`ex4d models`: the command line of this package, thin."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Ex4dError
from ..progress import Terminal

if TYPE_CHECKING:
    from .registry import Model

# Imports stand inside the commands, so that --help and errors in the arguments come at once.


def add_parser(commands: Any) -> None:
    """Adds `models` and its own commands to the sub-parsers of `ex4d`."""
    parser = commands.add_parser("models", help="weights of presets and depth sources: list, download, verify, convert")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    _action(actions, "list", "which models there are, and which are here", _list)

    action = _action(actions, "download", "fetch a model, or the rest of one", _download)
    action.add_argument("name", metavar="NAME")
    action.add_argument("--accept-licence", action="store_true", help="you accept the model's licence, which is shown")
    action.add_argument("--offline", action="store_true", help="do not use the network")

    action = _action(actions, "verify", "compare models' files with their published checksums", _verify)
    action.add_argument("name", metavar="NAME", nargs="?", help="default: all that are here")
    action.add_argument("--repair", action="store_true", help="fetch damaged and missing files again")

    action = _action(actions, "path", "print where a model lies", _path)
    action.add_argument("name", metavar="NAME")

    action = _action(actions, "register", "use a folder or file of your own as a model", _register)
    action.add_argument("name", metavar="NAME")
    action.add_argument("path", type=Path, metavar="PATH")

    action = _action(actions, "unregister", "forget a folder or file of your own; it stays where it is", _unregister)
    action.add_argument("name", metavar="NAME")

    action = _action(actions, "convert", "original Wan files, and an EX-4D file → a folder for diffusers", _convert)
    action.add_argument(
        "original", type=Path, nargs="?", metavar="DIR", help="a folder as published in Wan-AI/Wan2.1-I2V-14B-480P"
    )
    action.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    action.add_argument("--config", type=Path, metavar="FILE", help=".json with the parts' configurations, if not 14B")
    action.add_argument("--adapter", type=Path, metavar="FILE", help="EX-4D's ex4d.ckpt, to lie in the folder")
    group = action.add_argument_group("single parts, instead of those found in DIR")
    group.add_argument("--transformer", type=Path, metavar="PATH", help="file, or folder of shards")
    group.add_argument("--vae", type=Path, metavar="FILE")
    group.add_argument("--image-encoder", type=Path, metavar="FILE")
    group.add_argument("--text-encoder", type=Path, metavar="FILE")
    group.add_argument("--tokenizer", type=Path, metavar="DIR")


def _action(
    actions: Any, name: str, help_text: str, run: Callable[[argparse.Namespace, Terminal], int]
) -> argparse.ArgumentParser:
    action: argparse.ArgumentParser = actions.add_parser(name, help=help_text)
    action.set_defaults(run=run)
    return action


def _list(options: argparse.Namespace, reporter: Terminal) -> int:
    from . import store
    from .registry import MODELS

    own, width = store.registrations(), max(map(len, MODELS))
    for name, model in MODELS.items():
        try:
            state = f"{'registered' if name in own else 'installed'}: {store.find(name)}"
        except Ex4dError as error:
            state = "not installed" if error.code == "model_missing" and name not in own else error.message
        needed_by = ", ".join(model.presets) or model.kind
        print(f"{name:<{width}} {store.gigabytes(model.size_bytes):>8}  {model.licence:<12}  {needed_by}")
        print(f"{'':<{width}} {model.title}")
        print(f"{'':<{width}} {state}")
    return 0


def _download(options: argparse.Namespace, reporter: Terminal) -> int:
    from .download import download

    path = download(
        options.name, reporter, accept_licence=options.accept_licence, agree=_agreed, offline=options.offline
    )
    _print(model=options.name, path=path)
    return 0


def _agreed(model: Model) -> bool:
    """Asks in the terminal; False where there is none, as in a script, which says --accept-licence."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"Do you accept the licence of {model.title}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _verify(options: argparse.Namespace, reporter: Terminal) -> int:
    from . import store
    from .download import repair
    from .verify import verify

    names = [options.name] if options.name else [entry.model.name for entry in store.installed()]
    if not names:
        print("ex4d: No model is installed.", file=sys.stderr)
    whole = True
    for name in names:
        if options.repair:
            repair(name, reporter)
        result = verify(name, reporter)
        whole = whole and result.whole
        _print(
            model=name,
            whole=result.whole,
            intact=len(result.intact),
            missing=list(result.missing),
            damaged=list(result.damaged),
            without_checksum=list(result.unknown),
        )
    return 0 if whole else 1


def _path(options: argparse.Namespace, reporter: Terminal) -> int:
    from .store import find

    print(find(options.name))
    return 0


def _register(options: argparse.Namespace, reporter: Terminal) -> int:
    from .store import register

    _print(model=options.name, path=register(options.name, options.path))
    return 0


def _unregister(options: argparse.Namespace, reporter: Terminal) -> int:
    from .store import unregister

    _print(model=options.name, unregistered=unregister(options.name))
    return 0


def _convert(options: argparse.Namespace, reporter: Terminal) -> int:
    from ..diffusion.convert import convert, original_files, read_configs

    files = original_files(
        options.original,
        transformer=options.transformer,
        vae=options.vae,
        image_encoder=options.image_encoder,
        text_encoder=options.text_encoder,
        tokenizer=options.tokenizer,
        adapter=options.adapter,
    )
    configs = read_configs(options.config) if options.config else None
    tensors = convert(files, options.out, reporter, configs=configs)
    _print(path=options.out, tensors=tensors)
    return 0


def _print(**entries: Any) -> None:
    print(json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in entries.items()}, ensure_ascii=False))
