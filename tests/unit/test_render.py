# SPDX-License-Identifier: GPL-3.0-or-later
"""The second stage: what a take's cameras see, and that what is there stays."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from ex4d_engine import files
from ex4d_engine.camera_frame import CameraFrame
from ex4d_engine.cameras import as_matrix
from ex4d_engine.dwmesh.walls import CLOSED
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.image_files import read_exr, read_png, write_png
from ex4d_engine.progress import Silent
from ex4d_engine.shot import Shot
from ex4d_engine.stages import reconstruct, render, take_along
from ex4d_engine.take import Take, list_takes, load_take, new_take
from ex4d_engine.trajectories import along, preset
from tests.tiny_shot import FAR, Listener, contents, depth_map, orbit_take, picture, settings, times


@pytest.fixture
def shot(tmp_path: Path) -> Shot:
    folder = tmp_path / "Ünï 作業 shot"
    folder.mkdir()
    return reconstruct(settings(folder), folder / "shot", Silent())


def test_the_first_frame_is_the_plate_and_later_ones_have_holes(shot: Shot) -> None:
    take = render(shot, orbit_take(shot), Silent())
    first, last = take.numbers[0], take.numbers[-1]
    assert (read_png(take.file("mask", first)) == 255).all()
    assert np.abs(read_png(take.file("color", first)).astype(int) - picture(0)).max() <= 1
    np.testing.assert_allclose(read_exr(take.file("depth", first)), depth_map(0), rtol=1e-3)
    mask, color = read_png(take.file("mask", last)), read_png(take.file("color", last))
    assert set(np.unique(mask)) == {0, 255}
    assert 0.01 < (mask == 0).mean() < 0.5
    assert (color[mask == 0] == 0).all()
    assert load_take(shot, take.name) == take
    assert take.conditioning == "engine"
    assert take.record["raster"] == "opengl" and take.record["seconds"]["render"] > 0
    assert take.record["reconstruction"] == shot.settings


@pytest.mark.parametrize("count", [1, 3, 9])
def test_paths_shorter_and_longer_than_the_clip(shot: Shot, count: int) -> None:
    take = render(shot, orbit_take(shot, 0.0, count), Silent())
    assert len(take.frames) == count
    last = read_png(take.file("color", take.numbers[-1]))
    assert np.abs(last.astype(int) - picture(min(count, 6) - 1)).max() <= 1  # a longer path holds the last frame


def test_a_frozen_moment(shot: Shot) -> None:
    take = render(shot, orbit_take(shot, 0.0, 4, frozen=1003), Silent())
    shown = [read_png(take.file("color", number)) for number in take.numbers]
    assert all((image == shown[0]).all() for image in shown)
    assert np.abs(shown[0].astype(int) - picture(2)).max() <= 1


@pytest.mark.parametrize("size", [(32, 24), (33, 47), (128, 48), (1, 1), (2, 2)])
def test_other_sizes_and_shapes_keep_the_whole_view(shot: Shot, size: tuple[int, int]) -> None:
    take = render(shot, orbit_take(shot, 0.0, 1, size=size), Silent())
    color, mask = read_png(take.file("color", take.first)), read_png(take.file("mask", take.first))
    assert color.shape == (size[1], size[0], 3)
    seen = min(size[0] / 64, size[1] / 48) ** 2 * 64 * 48 / (size[0] * size[1])
    assert abs((mask > 0).mean() - seen) <= 0.02 + 0.5 / min(size)  # bars where the shape differs, nothing squashed


def test_the_reference_s_first_frame_is_the_plate(shot: Shot, tmp_path: Path) -> None:
    made = reconstruct(settings(tmp_path / "other", compat="reference"), tmp_path / "reference", Silent())
    take = render(made, orbit_take(made), Silent())
    assert (read_png(take.file("color", take.first)) == picture(0)).all()
    assert (read_png(take.file("mask", take.first)) == 255).all()
    assert (read_png(take.file("mask", take.first + 1)) == 0).any()


def test_tiny_clips(tmp_path: Path) -> None:
    for size in ((1, 1), (1, 9), (2, 2)):
        folder = tmp_path / f"{size[0]} x {size[1]}"
        made = reconstruct(settings(folder, 2, *size), folder / "shot", Silent())
        take = render(made, orbit_take(made, 0.0), Silent())
        assert (read_png(take.file("mask", take.first)) == 255).all()


# ---------------------------------------------------------------------------------- interrupted and again


@pytest.mark.parametrize("after", [0, 2, 4])
def test_a_cancelled_render_goes_on_where_it_stopped(shot: Shot, after: int) -> None:
    take = orbit_take(shot)
    with pytest.raises(Cancelled):
        render(shot, take, Listener(stop_in="render", after=after))
    before = times(take.root)
    resumed = render(shot, load_take(shot, take.name), Silent())
    whole = render(shot, orbit_take(shot), Silent())
    assert contents(resumed.root) == contents(whole.root)
    later = times(take.root)
    assert {name: later[name] for name in before} == before


def test_conditioning_that_is_whole_is_never_drawn_again(shot: Shot) -> None:
    take = render(shot, orbit_take(shot), Silent())
    record, before = take.record, times(take.root)
    assert render(shot, take, Silent()).record == record
    assert times(take.root) == before
    for number in take.numbers:  # Blender's conditioning comes without depth
        take.file("depth", number).unlink()
        write_png(take.file("color", number), np.zeros((48, 64, 3), np.uint8))
    blender = dataclasses.replace(take, conditioning="blender")
    before = times(take.root)
    assert render(shot, blender, Silent()) == blender
    assert times(take.root) == before


def test_what_was_drawn_of_another_reconstruction_is_drawn_again(shot: Shot) -> None:
    take = orbit_take(shot)
    with pytest.raises(Cancelled):
        render(shot, take, Listener(stop_in="render", after=3))
    other = dataclasses.replace(settings(shot.root.parent), fov_deg=80.0)
    shot = reconstruct(other, shot.root, Silent())
    resumed = render(shot, load_take(shot, take.name), Silent())
    whole = render(shot, new_take(shot, take.frames, (64, 48), first=take.first, fps=take.fps), Silent())
    assert contents(resumed.root) == contents(whole.root)


def test_the_same_path_again_goes_on_in_the_take_that_was_begun(shot: Shot) -> None:
    path = along(shot, preset("orbit", 10.0, 6, 4.0))
    begun = take_along(shot, path, "a")
    assert take_along(shot, path, "a") == begun
    assert take_along(shot, path, "b").name == "take_0002"
    assert take_along(shot, along(shot, preset("orbit", 11.0, 6, 4.0)), "a").name == "take_0003"
    drawn = render(shot, begun, Silent())
    assert take_along(shot, path, "a").name == "take_0004"  # its conditioning is done
    wanted = {"preset": "preview", "seed": 0}
    assert take_along(shot, path, "a", wanted).name in ("take_0004", drawn.name)


def test_how_deep_walls_are_is_the_take_s(shot: Shot) -> None:
    path = along(shot, preset("orbit", 25.0, 3, 4.0))
    closed, short = (take_along(shot, path, "", wall_share=share) for share in (CLOSED, 0.2))
    assert closed.name != short.name and take_along(shot, path, "", wall_share=0.2) == short
    assert "wall_share" not in closed.record and load_take(shot, short.name).wall_share == 0.2
    seen = [read_png(render(shot, take, Silent()).file("mask", closed.numbers[-1])) > 0 for take in (closed, short)]
    assert seen[1][seen[0]].all() and seen[1].sum() > seen[0].sum()


def test_the_reference_s_mesh_has_closed_walls(shot: Shot, tmp_path: Path) -> None:
    reference = reconstruct(
        dataclasses.replace(settings(shot.root.parent), compat="reference"), tmp_path / "r", Silent()
    )
    path = along(reference, preset("orbit", 25.0, 3, 4.0))
    take = take_along(reference, path, "", wall_share=0.2)
    assert load_take(reference, take.name).wall_share == CLOSED
    assert take_along(reference, path, "", wall_share=0.2) == take


def test_an_impossible_depth_of_walls_makes_no_take(shot: Shot) -> None:
    path = along(shot, preset("orbit", 25.0, 3, 4.0))
    for share in (0.0, -1.0, float("nan")):
        with pytest.raises(Ex4dError, match="wall share"):
            take_along(shot, path, "", wall_share=share)
    assert list_takes(shot) == []


# ------------------------------------------------------------------------------------------- refused


def with_camera(take: Take, **changes: object) -> Take:
    frames = (*take.frames[:-1], dataclasses.replace(take.frames[-1], **changes))  # type: ignore[arg-type]
    return dataclasses.replace(take, frames=frames)


@pytest.mark.parametrize(
    "changes",
    [
        {"source": 1007},
        {"intrinsics": as_matrix(np.zeros((3, 3)))},
        {"camera_to_world": as_matrix(np.zeros((4, 4)))},
        {"camera_to_world": as_matrix(np.diag([1.0, 1.0, -1.0, 1.0]))},
    ],
)
def test_a_camera_that_cannot_be_drawn(shot: Shot, changes: dict[str, object]) -> None:
    take = with_camera(orbit_take(shot), **changes)
    with pytest.raises(Ex4dError) as error:
        render(shot, take, Silent())
    assert error.value.code == "camera_invalid"
    assert contents(take.root) == {}


@pytest.mark.parametrize("part", ["depth", "mesh", "rays"])
def test_a_shot_whose_files_are_gone_says_which(shot: Shot, part: str) -> None:
    file = {"depth": shot.depth_file(1003), "mesh": shot.seen_file(1004), "rays": shot.rays_file}[part]
    file.unlink()
    with pytest.raises(Ex4dError, match=file.name) as error:
        render(shot, orbit_take(shot), Silent())
    assert error.value.code == "shot_missing"
    assert "econstruct" in error.value.hint


def test_a_shot_that_is_not_reconstructed(shot: Shot) -> None:
    with pytest.raises(Ex4dError) as error:
        render(dataclasses.replace(shot, geometry=None), orbit_take(shot), Silent())
    assert error.value.code == "shot_missing"


def test_a_full_disk_is_noticed_before_work_starts(shot: Shot, monkeypatch: pytest.MonkeyPatch) -> None:
    take = orbit_take(shot)
    usage = shutil.disk_usage(take.root)._replace(free=1000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(Ex4dError) as error:
        render(shot, take, Silent())
    assert error.value.code == "disk_full"
    assert contents(take.root) == {}


def test_an_unknown_raster(shot: Shot) -> None:
    with pytest.raises(Ex4dError, match="no raster 'magic'"):
        render(shot, orbit_take(shot), Silent(), raster="magic")


def test_a_camera_inside_the_scene_and_one_that_looks_away(shot: Shot) -> None:
    lens = shot.require_geometry().intrinsics
    inside, away = np.eye(4), np.diag([-1.0, 1.0, -1.0, 1.0])
    inside[2, 3] = (FAR + 4) / 2
    frames = tuple(CameraFrame(1001, lens, as_matrix(pose)) for pose in (inside, away))
    take = render(shot, new_take(shot, frames, (64, 48), first=1, fps=shot.require_plate().fps), Silent())
    for number in take.numbers:  # in the shadow of the square, and behind everything: nothing there was seen
        assert (read_png(take.file("mask", number)) == 0).all()
    assert (read_exr(take.file("depth", take.first)) > 0).all()  # but the mesh is closed
