# SPDX-License-Identifier: GPL-3.0-or-later
"""Presets and their settings in Blender: what is sent, what is refused, and the buttons that help."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.blender.add_on import ADDON, refusal, takes_of
from tests.blender.sidebar import drawn, failure_buttons
from tests.conftest import REPOSITORY

bpy = pytest.importorskip("bpy")


@pytest.mark.parametrize(
    ("preset", "code", "said"),
    [
        ("draft", "model_missing", "Preset draft needs"),
        ("final", "out_of_memory", "needs an NVIDIA graphics card"),
        ("fast", "out_of_memory", "needs an NVIDIA graphics card"),
    ],
)
def test_a_preset_that_cannot_run_is_refused_before_a_take_is_made(
    imported: Any, preset: str, code: str, said: str
) -> None:
    jobs = sys.modules[f"{ADDON}.ex4d_blender.jobs"]
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    imported.ex4d.preset = preset
    assert said in refusal(bpy.ops.ex4d.generate)
    title, error = jobs.last_failure()
    assert (title, error.code, error.action) == ("Render & Generate", code, "preset:preview")
    assert "download" not in str(error)
    assert not (Path(imported.ex4d.shot_folder) / "takes").exists()
    assert not takes_of(imported)
    assert bpy.ops.ex4d.generate(preset="preview") == {"FINISHED"}
    assert jobs.last_failure() is None
    assert takes_of(imported) == [("take_0001", "preview", True)]


def test_the_button_for_another_preset_goes_on_with_the_take_that_failed(imported: Any) -> None:
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    bpy.ops.ex4d.generate()
    refusal(bpy.ops.ex4d.generate, preset="final")
    assert retry_button() == ("preview", ""), "nothing was begun: the camera as it is now counts"
    refusal(bpy.ops.ex4d.generate, preset="final", take="take_0001")
    assert retry_button() == ("preview", "take_0001")


def test_the_button_for_draft_generates_with_draft(imported: Any) -> None:
    jobs = sys.modules[f"{ADDON}.ex4d_blender.jobs"]
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    bpy.ops.ex4d.generate()
    refusal(bpy.ops.ex4d.generate, preset="final", take="take_0001")
    fail_with_action("preset:draft")
    assert "Use Preset Draft" in drawn()
    assert retry_button() == ("draft", "take_0001")
    request = generate_request(preset="draft", take="take_0001")
    assert (request["preset"], request["take"]) == ("draft", "take_0001")
    jobs.clear_failure()


def retry_button() -> tuple[str, str]:
    """(preset, take) of the button that the failure's message offers."""
    return next((button.preset, button.take) for button in failure_buttons() if hasattr(button, "preset"))


def fail_with_action(action: str) -> None:
    """The state after a failure of the engine whose error carries `action`."""
    jobs = sys.modules[f"{ADDON}.ex4d_blender.jobs"]
    errors = sys.modules[f"{ADDON}.ex4d_engine.errors"]
    jobs._failure = ("Render & Generate", errors.Ex4dError("internal", "It did not work.", "Try again.", action))


def begun_generation(**settings: str) -> tuple[Any, Any]:
    """(run, steps) of the operator's job, to be answered in the engine's place."""
    generate = sys.modules[f"{ADDON}.ex4d_blender.operators.generate"]
    run = SimpleNamespace(take="", preset="")
    operator = SimpleNamespace(**{"preset": "", "take": "", "tier": "", **settings})
    return run, generate.EX4D_OT_generate.steps(operator, bpy.context, run)


def generate_request(**settings: str) -> dict[str, Any]:
    """What the operator asks of the engine's `generate`."""
    run, steps = begun_generation(**settings)
    request = next(steps)
    while request.method != "generate":
        request = steps.send({})
    steps.close()
    assert run.preset == request.params["preset"]
    return dict(request.params)


@pytest.mark.parametrize("preset", ["draft", "final", "fast"])
def test_of_the_diffusion_settings_only_those_that_were_changed_are_sent(imported: Any, preset: str) -> None:
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    settings = imported.ex4d
    settings.preset = preset
    assert "options" not in generate_request(), "the preset's own, as in an engine that knows no options"
    settings.tier = "24"
    first = next(begun_generation()[1])
    assert (first.method, first.params["options"]) == ("check_preset", {"tier": "24"}), "before anything is drawn"
    assert generate_request()["options"] == {"tier": "24"}
    settings.tier, settings.detail, settings.steps = "AUTO", "full", 12
    assert generate_request()["options"] == {"detail": "full", "steps": 12}
    assert generate_request(tier="16")["options"] == {"tier": "16", "detail": "full", "steps": 12}
    assert "options" not in generate_request(preset="preview")
    assert settings.tier == "AUTO", "a button's tier is for once"


@pytest.mark.parametrize(
    ("walls", "preset", "recorded"),
    [
        ("AUTO", "preview", 0.15),
        ("AUTO", "draft", 0.15),
        ("AUTO", "final", None),
        ("AUTO", "fast", None),
        ("CLOSED", "preview", None),
        ("SHORT", "final", 0.4),
    ],
)
def test_a_new_take_s_walls_are_as_chosen_or_as_suits_its_preset(
    imported: Any, addon: Callable[[str], Any], walls: str, preset: str, recorded: float | None
) -> None:
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    imported.ex4d.walls, imported.ex4d.wall_depth = walls, 0.4
    run, steps = begun_generation(preset=preset)
    next(steps)
    render = steps.send({})
    shots, takes = addon("ex4d_engine.shot"), addon("ex4d_engine.take")
    shot = shots.load_shot(Path(imported.ex4d.shot_folder))
    assert (render.method, render.params) == ("render", {"shot": str(shot.root), "take": run.take})
    assert takes.load_take(shot, run.take).record.get("wall_share") == recorded
    steps.close()
    imported.ex4d.wall_depth = 0.1
    generate_request(preset="preview", take=run.take)
    assert takes.load_take(shot, run.take).record.get("wall_share") == recorded, "a take keeps its own"


def test_short_walls_leave_smaller_holes(imported: Any, addon: Callable[[str], Any]) -> None:
    bpy.ops.ex4d.add_camera_move(move="orbit", amount=30)
    shots, takes = addon("ex4d_engine.shot"), addon("ex4d_engine.take")
    pixels = addon("ex4d_blender.pixel_files")
    seen = []
    for imported.ex4d.walls in ("CLOSED", "SHORT"):
        bpy.ops.ex4d.generate()
        shot = shots.load_shot(Path(imported.ex4d.shot_folder))
        take = takes.load_take(shot, takes.list_takes(shot)[-1])
        seen.append((pixels.read_rgba(take.file("mask", 1004))[..., 0] > 127).mean())
    assert seen[1] > 1.2 * seen[0]


def test_the_memory_tiers_to_choose_from_are_the_engine_s(addon: Callable[[str], Any], engine_python: Path) -> None:
    ask = "from ex4d_engine.diffusion import tiers; print(*(tier.name for tier in tiers.TIERS))"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    answer = subprocess.run(
        [str(engine_python), "-c", ask], cwd=REPOSITORY, env=environment, capture_output=True, check=True, timeout=60
    )
    assert ["AUTO", *answer.stdout.decode().split()] == [name for name, *_ in addon("ex4d_blender.properties").TIERS]


def test_a_smaller_memory_tier_goes_on_with_the_preset_and_the_take_that_failed(imported: Any) -> None:
    jobs = sys.modules[f"{ADDON}.ex4d_blender.jobs"]
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    bpy.ops.ex4d.generate()
    refusal(bpy.ops.ex4d.generate, preset="final", take="take_0001")
    fail_with_action("tier:16")
    assert imported.ex4d.preset == "preview", "the failed job's preset counts, not the panel's"
    button = next(button for button in failure_buttons() if hasattr(button, "tier"))
    assert (button.tier, button.preset, button.take) == ("16", "final", "take_0001")
    assert "Use Memory Tier 16 GB" in drawn()
    request = generate_request(tier=button.tier, preset=button.preset, take=button.take)
    assert (request["take"], request["preset"], request["options"]) == ("take_0001", "final", {"tier": "16"})
    jobs.clear_failure()


def test_a_missing_model_shows_the_command_that_downloads_it(imported: Any) -> None:
    jobs = sys.modules[f"{ADDON}.ex4d_blender.jobs"]
    operators = sys.modules[f"{ADDON}.ex4d_blender.operators.engine"]
    fail_with_action("models:ex4d-lora")
    assert {"ex4d models download ex4d-lora", "ex4d.copy_download_command"} <= drawn()
    button = next(button for button in failure_buttons() if hasattr(button, "model"))
    manager = SimpleNamespace(clipboard="")  # without a window there is no clipboard
    operator = SimpleNamespace(model=button.model, report=lambda *_: None)
    copied = operators.EX4D_OT_copy_download_command.execute(operator, SimpleNamespace(window_manager=manager))
    assert (copied, manager.clipboard) == ({"FINISHED"}, "ex4d models download ex4d-lora")
    assert bpy.ops.ex4d.copy_download_command(model="ex4d-lora") == {"FINISHED"}
    for action in ("", "frobnicate:7"):
        fail_with_action(action)
        assert [hasattr(button, "tier") or hasattr(button, "model") for button in failure_buttons()] == [False] * 2
    jobs.clear_failure()


def test_a_new_scene_has_the_preset_that_is_the_engines_default(addon: Any) -> None:
    assert bpy.context.scene.ex4d.preset == addon("ex4d_engine.bundled_model").DEFAULT_PRESET
