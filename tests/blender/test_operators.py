# SPDX-License-Identifier: GPL-3.0-or-later
"""The user's way through the add-on by its operators, with the real engine, in the extension as it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")

REPOSITORY = Path(__file__).resolve().parents[2]
ADDON = "bl_ext.user_default.ex4d"
FRAMES, WIDTH, HEIGHT = 6, 96, 64

MAKE_CLIP = """
import sys
from fractions import Fraction
import av, numpy as np
path, frames, width, height = sys.argv[1], *map(int, sys.argv[2:])
noise = np.random.default_rng(3).integers(0, 40, (height, width, 3), dtype=np.uint8)
with av.open(path, "w") as container:
    stream = container.add_stream("ffv1", rate=Fraction(24000, 1001))
    stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
    for index in range(frames):
        image = noise + np.linspace(40, 140, width, dtype=np.uint8)[None, :, None]
        image[20:50, 20 + 4 * index : 44 + 4 * index] = (230, 120, 40)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
    container.mux(stream.encode(None))
"""


@pytest.fixture(scope="session")
def engine_python() -> Path:
    scripts = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
    python = Path(os.environ.get("EX4D_ENGINE_PYTHON", REPOSITORY / ".venv" / scripts))
    if not python.is_file():
        pytest.skip(f"no engine Python at {python}: set EX4D_ENGINE_PYTHON")
    return python


@pytest.fixture(scope="session")
def made_clip(engine_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mkv"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    arguments = [str(path), str(FRAMES), str(WIDTH), str(HEIGHT)]
    subprocess.run([str(engine_python), "-c", MAKE_CLIP, *arguments], env=environment, check=True, timeout=60)
    return path


@pytest.fixture
def scene(addon: Callable[[str], Any], engine_python: Path, made_clip: Path, tmp_path: Path) -> Iterator[Any]:
    """An empty scene whose clip lies in a folder with a hard name; the engine is set in the preferences."""
    folder = tmp_path / "Ünï 作業 shot"
    folder.mkdir()
    bpy.context.preferences.addons[ADDON].preferences.engine_python = str(engine_python)
    scene = bpy.context.scene
    scene.ex4d.clip_path = str(shutil.copy(made_clip, folder / "Flug 飛 é.mkv"))
    yield scene
    # looked up again: a test may have switched the add-on off and on, and the former ones are freed memory
    bpy.context.preferences.addons[ADDON].preferences.engine_python = ""


@pytest.fixture
def imported(scene: Any, addon: Callable[[str], Any], new_shot: Callable[..., Any]) -> Any:
    """The scene with a shot made beforehand (4 frames from 1001) imported."""
    scene.ex4d.shot_folder = str(new_shot().root)
    assert bpy.ops.ex4d.import_shot() == {"FINISHED"}
    return scene


def refusal(operator: Any, **settings: Any) -> str:
    """What the user reads when the operator refuses or fails; one or two sentences on one line."""
    with pytest.raises(RuntimeError) as failed:
        operator(**settings)
    text = str(failed.value).removeprefix("Error: ").strip()
    assert "Traceback" not in text
    assert len(text.splitlines()) == 1
    return text


def strip_files(scene: Any) -> list[str]:
    editor = scene.sequence_editor
    if editor is None:
        return []
    strips = editor.strips_all if hasattr(editor, "strips_all") else editor.sequences_all
    return [Path(bpy.path.abspath(getattr(strip, "filepath", ""))).name for strip in strips]


def takes_of(scene: Any) -> list[tuple[str, str, bool]]:
    return [(row.name, row.preset, row.is_finished) for row in scene.ex4d.takes]


# --------------------------------------------------------------------------------------- the whole way


def test_clip_to_result_and_a_second_take_beside_the_first(scene: Any) -> None:
    settings = scene.ex4d
    assert bpy.ops.ex4d.reconstruct() == {"FINISHED"}
    root = Path(bpy.path.abspath(settings.shot_folder))
    assert root == Path(settings.clip_path).with_name("Flug 飛 é_ex4d")
    assert json.loads((root / "shot.json").read_text("utf-8"))["plate"]["count"] == FRAMES
    assert len([item for item in scene.objects if item.type == "MESH"]) == 1

    settings.move, settings.take_label = "orbit", "right"
    assert bpy.ops.ex4d.add_camera_move() == {"FINISHED"}
    assert scene.camera is not None
    assert bpy.ops.ex4d.coverage() == {"FINISHED"}
    assert "seen on average" in settings.coverage_text

    assert bpy.ops.ex4d.generate() == {"FINISHED"}
    first = root / "takes" / "take_0001"
    for layer in ("color", "mask", "generated", "composite", "matte"):
        assert len(list(first.glob(f"{layer}.????.png"))) == FRAMES, layer
    assert (first / "result.mp4").stat().st_size > 0
    assert takes_of(scene) == [("take_0001", "preview", True)]
    assert settings.takes[0].label == "right"
    assert strip_files(scene), "the result is in the sequencer"

    result = (first / "result.mp4").read_bytes()
    settings.orbit_angle, settings.take_label = -settings.orbit_angle, "left"
    assert bpy.ops.ex4d.add_camera_move() == {"FINISHED"}
    assert bpy.ops.ex4d.generate() == {"FINISHED"}
    assert [name for name, _, finished in takes_of(scene) if finished] == ["take_0001", "take_0002"]
    assert (first / "result.mp4").read_bytes() == result
    assert settings.active_take == 1, "the new take is selected"
    assert (root / "takes" / "take_0002" / "result.mp4").read_bytes() != result


def test_reconstructing_again_with_the_same_settings_keeps_the_import(scene: Any) -> None:
    bpy.ops.ex4d.reconstruct()
    mesh = next(item for item in scene.objects if item.type == "MESH")
    mesh["mine"] = 1
    bpy.ops.ex4d.reconstruct()
    assert [item.get("mine") for item in scene.objects if item.type == "MESH"] == [1]

    scene.ex4d.use_range, scene.ex4d.range_first, scene.ex4d.range_last = True, 2, 4
    bpy.ops.ex4d.reconstruct()
    meshes = [item for item in scene.objects if item.type == "MESH"]
    assert len(meshes) == 2, "the former import is kept, as the user may have worked on it"
    hidden = [collection.hide_render for collection in scene.collection.children]
    assert sorted(hidden) == [False, True]


def test_another_preset_on_the_same_camera_makes_a_take_of_its_own(imported: Any) -> None:
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    bpy.ops.ex4d.generate()
    bpy.ops.ex4d.generate(take="take_0001", preset="preview")
    assert [name for name, _, finished in takes_of(imported) if finished] == ["take_0001", "take_0002"]
    cameras = [
        json.loads((Path(imported.ex4d.shot_folder) / "takes" / name / "take.json").read_text("utf-8"))["camera"]
        for name in ("take_0001", "take_0002")
    ]
    assert cameras[0] == cameras[1]


def test_blender_draws_the_conditioning_when_the_mesh_was_edited(imported: Any) -> None:
    mesh = next(item for item in imported.objects if item.type == "MESH")
    mesh.data.vertices[500].co.z *= 1.1
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    assert bpy.ops.ex4d.generate() == {"FINISHED"}
    take = json.loads((Path(imported.ex4d.shot_folder) / "takes/take_0001/take.json").read_text("utf-8"))
    assert take["conditioning"] == "blender"
    assert takes_of(imported) == [("take_0001", "preview", True)]
    assert [scene.name for scene in bpy.data.scenes] == [imported.name], "no scene is left behind"


def test_a_take_of_the_scene_s_size_and_range_with_other_objects(imported: Any) -> None:
    bpy.ops.mesh.primitive_cube_add(size=0.3, location=(0, 2, 0))
    settings = imported.ex4d
    settings.frame_range, settings.output_size, settings.include_cg = "SCENE", "SCENE", True
    imported.render.resolution_x, imported.render.resolution_y, imported.render.resolution_percentage = 160, 100, 50
    imported.render.engine = "CYCLES"  # a new scene's is EEVEE, which needs minutes without a graphics card
    imported.frame_start, imported.frame_end, imported.cycles.samples = 1003, 1006, 1
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    assert bpy.ops.ex4d.generate() == {"FINISHED"}
    take = json.loads((Path(settings.shot_folder) / "takes/take_0001/take.json").read_text("utf-8"))
    assert (take["size"], take["first"], take["conditioning"]) == ([80, 50], 1003, "blender")
    assert [frame["source"] for frame in take["camera"]] == [1003, 1004, 1004, 1004], "the last frame stands still"
    assert take["record"]["blender"]["include_cg"] is True


def test_a_moved_camera_is_covered_less_than_the_source_view(imported: Any) -> None:
    path_coverage = sys.modules[f"{ADDON}.ex4d_blender.path_coverage"]
    current = sys.modules[f"{ADDON}.ex4d_blender.current_shot"]
    shot = current.open_shot(imported)
    shot_in_scene = current.open_imported(imported, shot)
    bpy.ops.ex4d.add_camera_move(move="orbit", amount=40)
    imported.frame_set(1003)
    shares = path_coverage.path_coverage(imported, shot, shot_in_scene, imported.camera)
    assert list(shares) == [1001, 1002, 1003, 1004]
    # at this tiny size the faces along the edges in depth are a good part of the picture
    assert shares[1001] > 0.75 > shares[1001] - 0.1 > shares[1004]
    assert imported.frame_current == 1003


def test_snapping_puts_the_camera_where_the_clip_was_filmed_from(imported: Any) -> None:
    camera = bpy.data.objects.new("Mine", bpy.data.cameras.new("Mine"))
    imported.collection.objects.link(camera)
    imported.camera = camera
    camera.location = (3, 1, 2)
    camera.keyframe_insert("location", frame=1004)
    assert bpy.ops.ex4d.snap_camera() == {"FINISHED"}
    imported.frame_set(1001)
    source = next(item for item in imported.objects if item.get("ex4d_role") == "source_camera")
    assert np.abs(np.array(camera.matrix_world) - np.array(source.matrix_world)).max() < 1e-5
    imported.frame_set(1004)
    assert tuple(camera.location) == pytest.approx((3, 1, 2)), "the other keys stay"


def test_takes_made_elsewhere_appear_when_the_file_opens(imported: Any, tmp_path: Path) -> None:
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    bpy.ops.ex4d.generate()
    root = Path(imported.ex4d.shot_folder)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "mine.blend"))
    shutil.copytree(root / "takes" / "take_0001", root / "takes" / "take_0007")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "mine.blend"))
    assert [row.name for row in bpy.context.scene.ex4d.takes] == ["take_0001", "take_0007"]
    assert bpy.ops.ex4d.load_take(take="take_0007") == {"FINISHED"}


# ---------------------------------------------------------------------------- greyed out, and refused


def test_every_greyed_out_button_says_why(addon: Callable[[str], Any], tmp_path: Path) -> None:
    addon("ex4d_blender.jobs")
    settings = bpy.context.scene.ex4d
    assert "Choose a clip first" in refusal(bpy.ops.ex4d.reconstruct)
    for name in ("import_shot", "generate", "snap_camera", "add_camera_move", "coverage", "load_take"):
        assert "Choose a shot folder" in refusal(getattr(bpy.ops.ex4d, name)), name
    settings.shot_folder = str(tmp_path)
    for name in ("import_shot", "bake_mesh_cache", "refresh_takes", "open_take_folder"):
        assert "holds no shot yet" in refusal(getattr(bpy.ops.ex4d, name)), name
    settings.clip_path, settings.depth_source = str(tmp_path / "clip.mov"), "file"
    assert "depth files" in refusal(bpy.ops.ex4d.reconstruct)
    assert "Nothing is running" in refusal(bpy.ops.ex4d.cancel)


def test_what_needs_an_import_or_a_camera_says_so(scene: Any, new_shot: Callable[..., Any]) -> None:
    scene.ex4d.shot_folder = str(new_shot().root)
    assert "import it first" in refusal(bpy.ops.ex4d.generate)
    bpy.ops.ex4d.import_shot()
    scene.camera = None
    assert "no camera" in refusal(bpy.ops.ex4d.generate)
    assert "no takes yet" in refusal(bpy.ops.ex4d.load_take)


def test_a_camera_without_keys_is_refused_before_a_take_is_made(imported: Any) -> None:
    imported.camera = bpy.data.objects.new("Still", bpy.data.cameras.new("Still"))
    imported.collection.objects.link(imported.camera)
    assert "no keys" in refusal(bpy.ops.ex4d.generate)
    assert not (Path(imported.ex4d.shot_folder) / "takes").exists()


def test_an_orthographic_camera_is_refused_with_the_reason(imported: Any) -> None:
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    imported.camera.data.type = "ORTHO"
    assert "orthographic" in refusal(bpy.ops.ex4d.generate)
    assert not (Path(imported.ex4d.shot_folder) / "takes").exists()


def test_a_clip_that_is_no_video_is_named(scene: Any, tmp_path: Path) -> None:
    clip = tmp_path / "letter.mov"
    clip.write_text("Dear all")
    scene.ex4d.clip_path = str(clip)
    assert "letter.mov" in refusal(bpy.ops.ex4d.reconstruct)
    assert not [item for item in scene.objects if item.type == "MESH"]


def test_a_folder_that_cannot_be_written_is_refused_before_the_engine_starts(scene: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    scene.ex4d.shot_folder = str(tmp_path / "taken")
    stop_engine()
    assert "a file is in the way" in refusal(bpy.ops.ex4d.reconstruct)
    assert "not running" in refusal(bpy.ops.ex4d.stop_engine)


def test_the_shot_of_another_clip_is_not_overwritten(scene: Any) -> None:
    bpy.ops.ex4d.reconstruct()
    root = Path(scene.ex4d.shot_folder)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    other = Path(scene.ex4d.clip_path).with_name("other.mkv")
    shutil.copy(scene.ex4d.clip_path, other)
    scene.ex4d.clip_path = str(other)
    assert "another clip, Flug 飛 é.mkv" in refusal(bpy.ops.ex4d.reconstruct)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    scene.ex4d.shot_folder = ""
    assert bpy.ops.ex4d.reconstruct() == {"FINISHED"}
    assert Path(scene.ex4d.shot_folder).name == "other_ex4d"


def test_a_shot_of_a_newer_version_is_refused_and_stays_as_it_is(imported: Any) -> None:
    path = Path(imported.ex4d.shot_folder) / "shot.json"
    document = json.loads(path.read_text("utf-8")) | {"schema": 99}
    path.write_text(json.dumps(document), "utf-8")
    files = sorted(path.parent.rglob("*"))
    for operator in (bpy.ops.ex4d.reconstruct, bpy.ops.ex4d.import_shot, bpy.ops.ex4d.refresh_takes):
        assert "newer EX-4D" in refusal(operator)
    assert json.loads(path.read_text("utf-8")) == document
    assert sorted(path.parent.rglob("*")) == files


def test_files_that_are_missing_are_named(imported: Any) -> None:
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    bpy.ops.ex4d.generate()
    take = Path(imported.ex4d.shot_folder) / "takes" / "take_0001"
    (take / "result.mp4").unlink()
    for file in take.glob("composite.*.png"):
        file.unlink()
    assert "take_0001" in refusal(bpy.ops.ex4d.load_take)
    shutil.rmtree(take)
    assert "take_0001" in refusal(bpy.ops.ex4d.load_take)
    assert bpy.ops.ex4d.refresh_takes() == {"FINISHED"}
    assert not takes_of(imported)


@pytest.mark.parametrize("preset", ["draft", "final", "fast"])
def test_a_preset_that_cannot_run_is_refused_before_a_take_is_made(imported: Any, preset: str) -> None:
    jobs = sys.modules[f"{ADDON}.ex4d_blender.jobs"]
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    imported.ex4d.preset = preset
    assert preset in refusal(bpy.ops.ex4d.generate)
    title, error = jobs.last_failure()
    assert (title, error.code, error.action) == ("Render & Generate", "model_missing", "preset:preview")
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


def retry_button() -> tuple[str, str]:
    """(preset, take) of the button that the failure's message offers."""
    return next((button.preset, button.take) for button in failure_buttons() if hasattr(button, "preset"))


def failure_buttons() -> list[Any]:
    """The buttons of the failure's message, with what they were given."""
    buttons: list[Any] = []

    class Recorded(Layout):
        def operator(self, name: str, **settings: Any) -> Any:
            buttons.append(super().operator(name, **settings))
            return buttons[-1]

    panel = SimpleNamespace(layout=Recorded(set()))
    status = sys.modules[f"{ADDON}.ex4d_blender.panels"].Status
    status.draw(panel, SimpleNamespace(scene=bpy.context.scene, region=SimpleNamespace(width=300)))
    return buttons


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
    assert generate_request()["options"] == {"tier": "24"}
    settings.tier, settings.detail, settings.steps = "AUTO", "full", 12
    assert generate_request()["options"] == {"detail": "full", "steps": 12}
    assert generate_request(tier="16")["options"] == {"tier": "16", "detail": "full", "steps": 12}
    assert "options" not in generate_request(preset="preview")
    assert settings.tier == "AUTO", "a button's tier is for once"


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


# --------------------------------------------------------------------------- pivot, bullet time, frame rate


def moved_to(scene: Any, frame: int) -> Any:
    """The scene camera's view at a frame, as the engine sees it."""
    sampling = sys.modules[f"{ADDON}.ex4d_blender.camera_sampling"]
    shot = sys.modules[f"{ADDON}.ex4d_blender.current_shot"].open_shot(scene)
    return sampling.camera_frames(scene, scene.camera, shot, [frame], (96, 64))[0]


def distance_to_axis_crossing(scene: Any) -> float:
    """Depth at which the move's first and last line of sight meet: what it turned about."""
    first, last = (np.array(moved_to(scene, frame).camera_to_world) for frame in (1001, 1004))
    side, travelled = last[:3, 2], first[:3, 3] - last[:3, 3]
    lines = np.stack([first[:3, 2], -side], axis=1)
    return -float(np.linalg.lstsq(lines, travelled, rcond=None)[0][0])


@pytest.mark.parametrize("move", ["orbit", "crane"])
def test_a_move_turns_about_the_pivot_that_was_chosen(imported: Any, move: str) -> None:
    settings = imported.ex4d
    settings.move = move
    assert bpy.ops.ex4d.add_camera_move() == {"FINISHED"}
    subject = sys.modules[f"{ADDON}.ex4d_blender.current_shot"].open_shot(imported).require_geometry().subject
    assert distance_to_axis_crossing(imported) == pytest.approx(subject, rel=1e-4)

    settings.pivot, settings.pivot_distance = "DISTANCE", 7.5
    assert bpy.ops.ex4d.add_camera_move() == {"FINISHED"}
    assert distance_to_axis_crossing(imported) == pytest.approx(7.5, rel=1e-4)

    source = next(item for item in imported.objects if item.get("ex4d_role") == "source_camera")
    imported.frame_set(1001)
    imported.cursor.location = source.matrix_world @ vector(0.7, -0.4, -4.25)
    settings.pivot = "CURSOR"
    assert bpy.ops.ex4d.add_camera_move() == {"FINISHED"}
    assert distance_to_axis_crossing(imported) == pytest.approx(4.25, rel=1e-4)


def test_a_cursor_behind_the_source_camera_is_no_pivot(imported: Any) -> None:
    jobs = sys.modules[f"{ADDON}.ex4d_blender.jobs"]
    source = next(item for item in imported.objects if item.get("ex4d_role") == "source_camera")
    imported.cursor.location = source.matrix_world @ vector(0.0, 0.0, 2.0)
    imported.ex4d.pivot = "CURSOR"
    cameras = len(bpy.data.cameras)
    assert "3D cursor" in refusal(bpy.ops.ex4d.add_camera_move)
    assert jobs.last_failure()[1].code == "camera_invalid"
    assert len(bpy.data.cameras) == cameras
    assert bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1) == {"FINISHED"}, "which turns about nothing"


def vector(*values: float) -> Any:
    from mathutils import Vector

    return Vector(values)


@pytest.mark.parametrize("drawn_by", ["AUTO", "CYCLES"])
def test_a_frozen_moment_seen_by_a_still_camera_is_the_same_in_all_frames(imported: Any, drawn_by: str) -> None:
    settings = imported.ex4d
    settings.use_freeze, settings.freeze_frame, settings.conditioning = True, 1003, drawn_by
    bpy.ops.ex4d.add_camera_move(move="dolly", amount=0.0)
    assert bpy.ops.ex4d.generate() == {"FINISHED"}
    root = Path(settings.shot_folder)
    take = root / "takes" / "take_0001"
    document = json.loads((take / "take.json").read_text("utf-8"))
    assert document["conditioning"] == {"AUTO": "engine", "CYCLES": "blender"}[drawn_by]
    assert [frame["source"] for frame in document["camera"]] == [1003] * 4
    for layer in ("color", "mask"):
        pictures = [pixels(take / f"{layer}.{number}.png") for number in range(1001, 1005)]
        assert all(np.array_equal(picture, pictures[0]) for picture in pictures), layer
    plate = root / "plate"
    frozen, other = (pixels(next(plate.glob(f"*{number}.png"))).astype(int) for number in (1003, 1001))
    color = pixels(take / "color.1001.png").astype(int)
    assert abs(color - frozen).max() <= 1 < abs(color - other).max()


def pixels(path: Path) -> Any:
    return sys.modules[f"{ADDON}.ex4d_blender.pixel_files"].read_rgba(path)[..., :3]


def test_other_objects_stand_still_in_a_frozen_moment_beyond_the_shot_too(imported: Any) -> None:
    """Without the freeze they move on there, over the last frame of the clip."""
    settings = imported.ex4d
    bpy.ops.mesh.primitive_cube_add(size=0.4, location=(-0.3, 1.5, 0))
    cube = bpy.context.object
    cube.keyframe_insert("location", frame=1004)
    cube.location.x = 0.3
    cube.keyframe_insert("location", frame=1006)
    imported.render.engine, imported.cycles.samples = "CYCLES", 1
    imported.frame_start, imported.frame_end, settings.frame_range = 1004, 1006, "SCENE"
    settings.include_cg, settings.conditioning = True, "CYCLES"
    bpy.ops.ex4d.add_camera_move(move="dolly", amount=0.0)
    same = []
    for settings.use_freeze in (False, True):
        settings.freeze_frame = 1004
        assert bpy.ops.ex4d.generate() == {"FINISHED"}
        take = Path(settings.shot_folder) / "takes" / settings.takes[settings.active_take].name
        first, last = (pixels(take / f"color.{number}.png").astype(int) for number in (1004, 1006))
        same.append(abs(first - last).max() <= 8)
    assert same == [False, True]


def test_bullet_time_starts_at_the_source_view_of_the_frozen_frame(
    scene: Any, addon: Callable[[str], Any], new_shot: Callable[..., Any]
) -> None:
    shot = new_shot("poses")
    scene.ex4d.shot_folder = str(shot.root)
    bpy.ops.ex4d.import_shot()
    scene.ex4d.use_freeze, scene.ex4d.freeze_frame = True, 1003
    bpy.ops.ex4d.add_camera_move(move="orbit", amount=20)
    wanted = np.array(shot.source_pose(1003))
    assert abs(np.array(moved_to(scene, 1001).camera_to_world) - wanted).max() < 1e-5
    scene.camera.location.x += 1
    assert bpy.ops.ex4d.snap_camera() == {"FINISHED"}
    assert abs(np.array(moved_to(scene, 1001).camera_to_world) - wanted).max() < 1e-5


def test_the_coverage_of_a_frozen_moment_is_that_of_the_frozen_frame(imported: Any) -> None:
    path_coverage = sys.modules[f"{ADDON}.ex4d_blender.path_coverage"]
    current = sys.modules[f"{ADDON}.ex4d_blender.current_shot"]
    shot = current.open_shot(imported)
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.4)
    imported.camera.animation_data_clear()  # it stands beside the source camera
    imported.frame_set(1001)
    imported.camera.location.x += 0.8
    arguments = (imported, shot, current.open_imported(imported, shot), imported.camera)
    running, frozen = (path_coverage.path_coverage(*arguments, frozen=frame) for frame in (None, 1003))
    assert len(set(running.values())) > 1
    assert frozen == dict.fromkeys(running, running[1003])


def test_a_frame_that_the_shot_lacks_cannot_be_frozen(imported: Any) -> None:
    jobs = sys.modules[f"{ADDON}.ex4d_blender.jobs"]
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    imported.ex4d.use_freeze, imported.ex4d.freeze_frame = True, 1005
    for operator in (
        bpy.ops.ex4d.generate,
        bpy.ops.ex4d.coverage,
        bpy.ops.ex4d.add_camera_move,
        bpy.ops.ex4d.snap_camera,
    ):
        assert "Frame 1005 cannot be frozen: the shot holds 1001 to 1004" in refusal(operator)
        assert jobs.last_failure()[1].code == "camera_invalid"
    assert not (Path(imported.ex4d.shot_folder) / "takes").exists()


def test_an_image_sequence_gets_the_frame_rate_that_was_set(scene: Any, made_clip: Path) -> None:
    reconstruct = sys.modules[f"{ADDON}.ex4d_blender.operators.reconstruct"]
    settings = scene.ex4d
    scene.render.fps, scene.render.fps_base = 24, 1.001

    def passed() -> Any:
        return reconstruct.reconstruct_params(scene, Path(settings.clip_path).parent)["fps"]

    settings.frame_rate = "25"
    assert passed() is None, "not ticked: the clip's own"
    settings.use_frame_rate = True
    assert passed() == "25"
    settings.frame_rate = " 30000/1001 "
    assert passed() == "30000/1001"
    settings.frame_rate = ""
    assert passed() == "24000/1001", "the scene's"
    scene.render.fps, scene.render.fps_base = 30, 1.0
    assert passed() == "30"


def test_a_shot_of_images_has_the_frame_rate_that_was_set(
    scene: Any, tmp_path: Path, made_shots: Callable[[str], Path]
) -> None:
    settings = scene.ex4d
    frames = tmp_path / "frames"
    shutil.copytree(made_shots("none") / "plate", frames)
    settings.clip_path = str(sorted(frames.glob("*.png"))[0])
    settings.use_frame_rate, settings.frame_rate = True, "24000/1001"
    assert bpy.ops.ex4d.reconstruct() == {"FINISHED"}
    shot = json.loads((Path(bpy.path.abspath(settings.shot_folder)) / "shot.json").read_text("utf-8"))
    assert shot["plate"]["fps"] == "24000/1001"

    settings.shot_folder, settings.frame_rate = str(tmp_path / "other"), "many"
    assert "many" in refusal(bpy.ops.ex4d.reconstruct)


# ------------------------------------------------------------------------------------- undo, and small ones


def test_undo_takes_back_an_import_and_a_camera_move(scene: Any, new_shot: Callable[..., Any]) -> None:
    scene.ex4d.shot_folder = str(new_shot().root)

    def counts() -> tuple[int, ...]:
        scene = bpy.context.scene
        return len(scene.objects), len(bpy.data.objects), len(bpy.data.cameras), len(bpy.data.collections)

    bpy.ops.ed.undo_push(message="start")
    stages = [counts()]
    for operator in (bpy.ops.ex4d.import_shot, bpy.ops.ex4d.add_camera_move):
        assert operator() == {"FINISHED"}
        bpy.ops.ed.undo_push(message=operator.idname())
        stages.append(counts())
    assert len(set(stages)) == 3
    for stage in stages[-2::-1]:
        assert bpy.ops.ed.undo() == {"FINISHED"}
        assert counts() == stage
    assert "import it first" in refusal(bpy.ops.ex4d.add_camera_move)
    assert bpy.ops.ex4d.import_shot() == {"FINISHED"}
    assert bpy.ops.ex4d.add_camera_move() == {"FINISHED"}


def test_the_mesh_is_baked_into_the_shot_folder(imported: Any) -> None:
    assert bpy.ops.ex4d.bake_mesh_cache() == {"FINISHED"}
    assert list((Path(imported.ex4d.shot_folder) / "mesh").glob("*.pc2"))
    assert [item.get("ex4d_role") for item in imported.objects if item.type == "MESH"].count("baked") == 1
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    assert bpy.ops.ex4d.coverage() == {"FINISHED"}


def test_a_take_s_folder_is_shown(imported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    takes = sys.modules[f"{ADDON}.ex4d_blender.operators.takes"]
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    bpy.ops.ex4d.generate()
    opened: list[Path] = []

    def path_open(filepath: str) -> None:
        opened.append(Path(filepath))

    monkeypatch.setattr(takes, "bpy", SimpleNamespace(ops=SimpleNamespace(wm=SimpleNamespace(path_open=path_open))))
    assert bpy.ops.ex4d.open_take_folder() == {"FINISHED"}
    assert opened == [Path(imported.ex4d.shot_folder) / "takes" / "take_0001"]


def test_preferences_need_a_window(scene: Any) -> None:
    assert "needs a window" in refusal(bpy.ops.ex4d.open_preferences)


# ---------------------------------------------------------------------------------------- the engine


def stop_engine() -> None:
    if bpy.ops.ex4d.stop_engine.poll():
        bpy.ops.ex4d.stop_engine()


def test_the_engine_is_checked_and_stopped(scene: Any) -> None:
    session = sys.modules[f"{ADDON}.ex4d_blender.engine_session"]
    assert bpy.ops.ex4d.check_engine() == {"FINISHED"}
    engine = session.current_engine()
    assert engine.is_alive and engine.hello.presets
    assert bpy.ops.ex4d.stop_engine() == {"FINISHED"}
    assert not engine.is_alive
    assert bpy.ops.ex4d.check_engine() == {"FINISHED"}, "it starts again"


def test_an_engine_that_is_not_there_is_explained(scene: Any, tmp_path: Path) -> None:
    stop_engine()
    jobs = sys.modules[f"{ADDON}.ex4d_blender.jobs"]
    bpy.context.preferences.addons[ADDON].preferences.engine_python = str(tmp_path / "nowhere" / "python")
    assert "does not exist" in refusal(bpy.ops.ex4d.check_engine)
    assert jobs.last_failure()[1].action == "ex4d.open_preferences"
    assert jobs.current_job() is None
    assert "engine_missing" in jobs.report_text()


@pytest.mark.skipif(os.name != "posix", reason="needs a named pipe")
def test_a_running_job_is_shown_cancelled_and_leaves_nothing_behind(imported: Any) -> None:
    """The job is driven as the modal operator's timer does it, which a module without windows cannot run."""
    jobs = sys.modules[f"{ADDON}.ex4d_blender.jobs"]
    job_run = sys.modules[f"{ADDON}.ex4d_blender.job_run"]
    session = sys.modules[f"{ADDON}.ex4d_blender.engine_session"]
    cleaned: list[str] = []

    def steps(run: Any) -> Any:
        try:
            run.progress("Render in Cycles", 1, 4)
            yield None
            while True:
                yield job_run.EngineRequest("ping")
        finally:
            cleaned.append("yes")

    run = jobs._run = job_run.JobRun("Long Job", steps, session.start_engine)
    run.advance()
    shown = bpy.context.window_manager.ex4d_job
    assert (shown.is_running, shown.title, shown.text) == (True, "Long Job", "Render in cycles 1/4")
    assert shown.factor == pytest.approx(0.25)
    assert "Long Job is running" in refusal(bpy.ops.ex4d.generate)
    assert bpy.ops.ex4d.cancel() == {"FINISHED"}
    assert shown.text == "Cancelling"
    while not run.advance():
        pass
    assert run.error.code == "cancelled"
    assert cleaned == ["yes"]
    assert not shown.is_running


def test_a_job_whose_engine_is_killed_says_so_and_the_next_one_works(scene: Any) -> None:
    job_run = sys.modules[f"{ADDON}.ex4d_blender.job_run"]
    session = sys.modules[f"{ADDON}.ex4d_blender.engine_session"]

    def steps(run: Any) -> Any:
        yield job_run.EngineRequest("ping")
        engine = session.current_engine()
        os.kill(engine.pid, 9)
        while engine.is_alive:
            pass
        yield job_run.EngineRequest("ping")
        return "recovered"

    run = job_run.JobRun("Job", steps, session.start_engine)
    while not run.advance():
        pass
    assert (run.error, run.message) == (None, "recovered"), "a dead engine is started again for the next request"
    assert bpy.ops.ex4d.check_engine() == {"FINISHED"}


def test_the_add_on_can_be_switched_off_and_on_again_and_takes_the_engine_along(scene: Any) -> None:
    assert bpy.ops.ex4d.check_engine() == {"FINISHED"}
    engine = sys.modules[f"{ADDON}.ex4d_blender.engine_session"].current_engine()
    handlers = our_handlers()
    assert handlers
    python = bpy.context.preferences.addons[ADDON].preferences.engine_python
    for _ in range(2):
        bpy.ops.preferences.addon_disable(module=ADDON)
        assert not engine.is_alive
        assert not hasattr(bpy.types.Scene, "ex4d")
        assert not hasattr(bpy.types, "EX4D_OT_generate")
        assert not our_handlers()
        bpy.ops.preferences.addon_enable(module=ADDON)
        assert our_handlers() == handlers
    bpy.context.preferences.addons[ADDON].preferences.engine_python = python
    assert bpy.ops.ex4d.check_engine() == {"FINISHED"}


def our_handlers() -> list[str]:
    """What the add-on has hung onto Blender's events."""
    lists = {name: getattr(bpy.app.handlers, name) for name in dir(bpy.app.handlers) if not name.startswith("_")}
    hung = [(name, each) for name, found in lists.items() if isinstance(found, list) for each in found]
    return sorted(f"{name} {each.__name__}" for name, each in hung if each.__module__.startswith(ADDON))


def test_all_operators_and_panels_are_there_and_described(scene: Any) -> None:
    names = [name for name in dir(bpy.types) if name.startswith("EX4D_OT_")]
    wanted = (
        "reconstruct import_shot snap_camera add_camera_move coverage generate load_take open_take_folder "
        "refresh_takes bake_mesh_cache cancel check_engine stop_engine copy_report"
    )
    assert {f"EX4D_OT_{name}" for name in wanted.split()} <= set(names)
    for name in names:
        description = getattr(bpy.ops.ex4d, name.removeprefix("EX4D_OT_")).get_rna_type().description
        assert description and not description.endswith("."), name  # Blender adds the full stop
    for space in ("VIEW_3D", "SEQUENCE_EDITOR"):
        panels = {
            panel.bl_label
            for panel in bpy.types.Panel.__subclasses__()
            if getattr(panel, "bl_category", "") == "EX-4D" and panel.bl_space_type == space and panel.is_registered
        }
        assert panels == {"EX-4D", "Source", "Reconstruct", "Camera", "Render & Generate", "Takes"}


class Layout:
    """Stands in for Blender's, which only a window has: takes every call, and checks what it is about."""

    def __init__(self, seen: set[str], is_open: bool = True) -> None:
        self.seen = seen
        self.is_open = is_open  # panels within

    def prop(self, data: Any, name: str, **_: Any) -> None:
        assert name in data.bl_rna.properties, name
        self.seen.add(name)

    def operator(self, name: str, **settings: Any) -> Any:
        self.seen |= {name, settings.get("text", "")}
        properties = getattr(bpy.ops.ex4d, name.removeprefix("ex4d.")).get_rna_type().properties
        return SimpleNamespace(**{entry.identifier: None for entry in properties})

    def label(self, text: str = "", icon: str = "NONE") -> None:
        self.seen.add(text)

    def progress(self, factor: float, text: str) -> None:
        self.seen.add(text)

    def template_list(
        self, kind: str, identifier: str, data: Any, name: str, active_data: Any, active_name: str, **_: Any
    ) -> None:
        assert hasattr(bpy.types, kind)
        self.prop(data, name)
        self.prop(active_data, active_name)

    def panel(self, identifier: str, *, default_closed: bool = False) -> tuple[Layout, Layout | None]:
        assert {"idname", "default_closed"} <= set(bpy.types.UILayout.bl_rna.functions["panel"].parameters.keys())
        return self, self if self.is_open else None

    def template_icon(self, icon: int, scale: float) -> None:
        self.seen.add("picture")

    def row(self, **_: Any) -> Layout:
        return self

    box = column = row


def drawn(*, is_open: bool = True, **context: Any) -> set[str]:
    """Every property, operator and text that the sidebar shows now."""
    panels = sys.modules[f"{ADDON}.ex4d_blender.panels"]
    seen: set[str] = set()
    for section in (panels.Status, *panels.SECTIONS):
        panel = SimpleNamespace(layout=Layout(seen, is_open))
        section.draw(panel, SimpleNamespace(scene=bpy.context.scene, region=SimpleNamespace(width=300), **context))
    return seen


def test_the_sidebar_shows_what_there_is_to_set_and_to_do(imported: Any) -> None:
    seen = drawn()
    assert {"ex4d.reconstruct", "ex4d.generate", "ex4d.coverage", "orbit_angle", "takes"} <= seen
    assert "depth_path" not in seen and "range_first" not in seen
    settings = imported.ex4d
    settings.depth_source, settings.depth_meaning = "file", "normalised_disparity"
    settings.use_range = settings.use_field_of_view = settings.use_freeze = settings.use_frame_rate = True
    assert not {"pivot_distance", "freeze_frame", "frame_rate"} & seen and "pivot" in seen
    settings.move = "dolly"
    assert "pivot" not in drawn()
    settings.move, settings.pivot = "crane", "DISTANCE"
    diffusion = {"Diffusion", "tier", "detail", "steps"}
    assert not diffusion & seen, "the preview has nothing to set"
    settings.preset = "final"
    assert diffusion & drawn(is_open=False) == {"Diffusion"}
    assert diffusion <= drawn()
    row = settings.takes.add()
    row.name = "take_0001"
    seen = drawn()
    assert {"depth_path", "depth_near", "range_first", "field_of_view", "move_amount", "frame_rate"} <= seen
    every = {entry.identifier for entry in settings.bl_rna.properties} - {"rna_type", "name", "orbit_angle"}
    assert every - {"coverage_text"} <= seen, "no setting is out of reach"


def test_the_sidebar_shows_a_running_job_and_a_failure_with_what_helps(imported: Any, tmp_path: Path) -> None:
    jobs = sys.modules[f"{ADDON}.ex4d_blender.jobs"]
    job_run = sys.modules[f"{ADDON}.ex4d_blender.job_run"]

    def steps(run: Any) -> Any:
        run.progress("composite", 3, 4)
        run.preview = str(tmp_path / "composite.0001.png")
        yield None

    run = jobs._run = job_run.JobRun("Job", steps, lambda: None)
    run.advance()
    seen = drawn()
    assert {"Job", "Composite 3/4", "ex4d.cancel", "picture"} <= seen
    run.abandon()

    for settings, button in (({"preset": "final"}, "ex4d.generate"), ({"take": "take_0099"}, "ex4d.copy_report")):
        if imported.camera is None:
            bpy.ops.ex4d.add_camera_move()
        refusal(bpy.ops.ex4d.generate, **settings)
        seen = drawn()
        assert {"Render & Generate failed", button, "ex4d.copy_report", "ex4d.dismiss"} <= seen
    assert bpy.ops.ex4d.dismiss() == {"FINISHED"}
    assert "Render & Generate failed" not in drawn()
