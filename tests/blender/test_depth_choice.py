# SPDX-License-Identifier: GPL-3.0-or-later
"""Variants of depth sources: offered as the engine knows them, passed on, and their licences said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ex4d_engine.models.registry import MODELS
from tests.blender.sidebar import drawn

bpy = pytest.importorskip("bpy")


def variants(name: str) -> list[str]:
    return [item.identifier for item in bpy.context.scene.ex4d.bl_rna.properties[name].enum_items]


def test_each_variant_is_a_model_of_the_engine(addon: Callable[[str], Any]) -> None:
    choice = addon("ex4d_blender.depth_choice")
    for source, name in choice.VARIANT_PROPERTIES.items():
        known = {model.removeprefix(f"{source}-") for model in MODELS if model.startswith(f"{source}-")}
        assert set(variants(name)) == known


def test_the_variant_is_shown_and_passed_on_where_there_is_one(addon: Callable[[str], Any], tmp_path: Path) -> None:
    params = addon("ex4d_blender.operators.reconstruct").reconstruct_params
    scene, settings = bpy.context.scene, bpy.context.scene.ex4d
    settings.depth_source = "depth-anything-v2"
    assert params(scene, tmp_path)["depth_options"] == {"variant": "small"}
    settings.depth_anything_v2_variant = "base-metric-outdoor"
    assert "depth_anything_v2_variant" in drawn() and "depth_anything_3_variant" not in drawn()
    assert params(scene, tmp_path)["depth_options"] == {"variant": "base-metric-outdoor"}
    settings.depth_source = "depth-anything-3"
    assert params(scene, tmp_path)["depth_options"] == {"variant": "base"}
    settings.depth_source = "depth-pro"
    assert params(scene, tmp_path)["depth_options"] == {}
    assert not {name for name in drawn() if name.endswith("_variant")}


def test_what_has_to_be_accepted_is_said_and_nothing_else(addon: Callable[[str], Any]) -> None:
    choice = addon("ex4d_blender.depth_choice")
    settings = bpy.context.scene.ex4d

    def is_said() -> bool:
        return any("accept when downloading" in text for text in drawn())

    for source, name in choice.VARIANT_PROPERTIES.items():
        settings.depth_source = source
        for variant in variants(name):
            setattr(settings, name, variant)
            assert is_said() == MODELS[f"{source}-{variant}"].needs_acceptance, variant
    for source in ("depth-pro", "depthcrafter"):
        settings.depth_source = source
        assert MODELS[source].needs_acceptance and is_said()
    for source in ("file", "rough-pictorial", "video-depth-anything"):
        settings.depth_source = source
        assert not is_said()
