# SPDX-License-Identifier: GPL-3.0-or-later
"""The model that ships with the engine: small enough for the repository, of the size that is told, and alive."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ex4d_engine.bundled_model import PARAMETERS, bundled_folder, has_bundled_model
from ex4d_engine.diffusion.folder_adapter import folder_adapter
from ex4d_engine.synthetic import random_clips
from ex4d_engine.training.bundled_parts import load_codec
from ex4d_engine.training.depth_clips import HELD_OUT_SEED

MEGABYTE = 10**6
FOLDER = bundled_folder()
SCENE, FRAMES, HEIGHT, WIDTH = 3, 9, 64, 96  # a held-out scene of few leaves, which take long to draw

pytestmark = pytest.mark.skipif(not has_bundled_model(), reason="this checkout ships without the model")


def weights(folder: Path) -> dict[str, tuple[str, int]]:
    """Type and number of values of every tensor in a folder's files, by its name."""
    found = {}
    for path in sorted(folder.rglob("*.safetensors") if folder.is_dir() else [folder]):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                tensor = file.get_slice(name)
                found[f"{path.name}/{name}"] = (tensor.get_dtype(), math.prod(tensor.get_shape()))
    return found


def test_it_fits_into_a_repository_that_takes_no_large_files() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 80 * MEGABYTE
    assert max(sizes.values()) <= 16 * MEGABYTE, max(sizes, key=lambda name: sizes[name])


def test_weights_are_in_half_precision() -> None:
    """All but the few that are added to others and have to be exact: norms and shifts."""
    values = {"F16": 0, "F32": 0}
    for kind, count in weights(FOLDER).values():
        values[kind] += count
    assert values["F32"] < values["F16"] / 100


def test_the_transformer_is_of_the_size_that_is_told() -> None:
    parameters = sum(count for _, count in weights(FOLDER / "transformer").values())
    assert 20e6 <= parameters <= 30e6
    assert parameters == pytest.approx(PARAMETERS, rel=0.05)


def test_it_has_an_adapter_and_its_card_names_every_stage() -> None:
    assert folder_adapter(FOLDER) is not None
    card = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    for stage in ("vae", "base", "adapter"):
        assert f"| `{stage}`" in card and f"--stage {stage}" in card, stage


def test_the_codec_gives_back_a_clip_it_has_never_seen() -> None:
    device = torch.device("cpu")
    video = random_clips(HELD_OUT_SEED + SCENE, 1, FRAMES, HEIGHT, WIDTH, device).images.movedim(1, 2)
    codec = load_codec(FOLDER, device)
    with torch.no_grad():
        back = codec.video_of(codec.latents_of(video * 2 - 1)).clamp(-1, 1) / 2 + 0.5
    psnr = -10 * math.log10(float((back - video).square().mean()))
    assert psnr > 28, f"{psnr:.1f} dB"
