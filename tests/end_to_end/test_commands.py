# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command as a user types it, on clips of a few small frames."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import trimesh

from ex4d_engine import __version__, cli
from ex4d_engine.dwmesh.walls import WALL_SHARE
from ex4d_engine.image_files import read_png, write_exr_depth, write_png
from ex4d_engine.progress import Silent
from ex4d_engine.shot import load_shot
from ex4d_engine.stages import generate, reconstruct, render
from ex4d_engine.take import list_takes, load_take
from ex4d_engine.trajectories import along, preset, save_reference_npz, save_trajectory
from ex4d_engine.video import probe, read_frames
from tests.conftest import REPOSITORY, SHARED
from tests.tiny_shot import (
    NTSC_FILM,
    contents,
    depth_map,
    orbit_take,
    picture,
    settings,
    times,
    write_clip,
    write_depth,
    write_sequence,
)

pytestmark = pytest.mark.end_to_end

EX4D = [sys.executable, str(REPOSITORY / "ex4d_engine")]
RECON = [sys.executable, str(REPOSITORY / "tools" / "recon.py")]
GENERATE = [sys.executable, str(REPOSITORY / "tools" / "generate.py")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "Ünï 作業 shot"
    path.mkdir()
    return path


def run(
    command: list[str], *arguments: object, cwd: Path, status: int = 0, encoding: str = ""
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PYTHONIOENCODING": encoding} if encoding else {})}
    ended = subprocess.run(
        [*command, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
        check=False,
    )
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended


def refused(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command says when it refuses: one sentence and advice, status 1, no traceback."""
    capfd.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 1
    out, err = capfd.readouterr()
    assert out == "" and "Traceback" not in err
    said = [line for line in err.splitlines() if line.startswith("ex4d: ")]
    assert len(said) == 1 and re.fullmatch(r"ex4d: \S.*\.", said[0])
    return said[0]


# ------------------------------------------------------------------------------------------- the way


@pytest.mark.parametrize("size", [(64, 48), (63, 49)])
def test_run_makes_a_movie_of_the_plate_s_rate_and_size(folder: Path, size: tuple[int, int]) -> None:
    clip = write_clip(folder / "clip 作.mp4", 6, *size)
    depth = write_depth(folder / "depth maps", 6, *size)
    answer = run(EX4D, "run", clip.name, "--orbit", 15, "--out", "shot", "--depth-file", depth.name, cwd=folder)
    said = json.loads(answer.stdout)
    assert said["take"] == "take_0001"
    info = probe(folder / said["result"])
    assert (info.width, info.height, info.fps, info.frame_count) == (*size, NTSC_FILM, 6)
    take = load_take(load_shot(folder / "shot"), 1)
    for number in take.numbers:
        matte = read_png(take.file("matte", number)) == 255
        assert (read_png(take.file("composite", number))[matte] == read_png(take.file("color", number))[matte]).all()


def test_the_stages_one_by_one_with_estimated_depth(folder: Path) -> None:
    clip = write_clip(folder / "clip.mp4")
    said = json.loads(run(EX4D, "reconstruct", clip, "--shot", folder / "shot", "--fov", 40, cwd=folder).stdout)
    assert (said["frames"], said["size"]) == (6, [64, 48])
    shot = load_shot(folder / "shot")
    path = along(shot, preset("truck", 0.1, 4, shot.require_geometry().subject))
    save_trajectory(path, folder / "camera.json")
    said = json.loads(run(EX4D, "render", "shot", "--camera", "camera.json", cwd=folder).stdout)
    assert (said["take"], said["frames"]) == ("take_0001", 4)
    before = times(folder / "shot" / "takes")
    for expected in ("take_0001", "take_0002"):
        said = json.loads(run(EX4D, "generate", "shot", "--take", 1, "--preset", "preview", cwd=folder).stdout)
        assert said["take"] == expected and (folder / said["result"]).is_file()
    after = times(folder / "shot" / "takes")
    assert {name: after[name] for name in before} == before


def test_version_help_and_doctor(folder: Path) -> None:
    assert run(EX4D, "--version", cwd=folder).stdout == f"ex4d {__version__}\n"
    # a pipe that knows ASCII only gets the help all the same
    assert "--orbit DEGREES" in run(EX4D, "run", "--help", cwd=folder, encoding="ascii").stdout
    said = run(EX4D, "doctor", cwd=folder, encoding="ascii").stdout
    assert f"EX-4D {__version__}" in said and "OpenGL" in said and "rough-pictorial" in said
    assert "missing" not in said


def test_a_killed_run_resumes_to_the_same_bytes(folder: Path) -> None:
    write_sequence(folder / "clip", 24)
    write_depth(folder / "maps", 24)
    command = [*EX4D, "run", "clip", "--orbit", "15", "--depth-file", "maps", "--seed", "3", "--out"]
    take = folder / "shot" / "takes" / "take_0001"
    for sign in ("depth", "seen"):
        pattern = folder / "shot"
        process = subprocess.Popen([*command, "shot"], cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and not any(pattern.rglob(f"{sign}.100[3-9]*")):
            pass
        process.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
        process.wait()
    process = subprocess.Popen([*command, "shot"], cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (take / "generated.1002.png").is_file():
        pass
    process.kill()
    process.wait()
    run(command, "shot", cwd=folder)
    run(command, "whole", cwd=folder)
    hidden = [name for name in contents(folder / "shot") if Path(name).name.startswith(".")]
    done = {name: digest for name, digest in contents(folder / "shot").items() if name not in hidden}
    assert done == contents(folder / "whole")
    assert list_takes(load_shot(folder / "shot")) == ["take_0001"]


def test_memory_does_not_grow_with_the_clip(folder: Path) -> None:
    def peak(count: int) -> int:
        wanted = settings(folder / str(count), count, 160, 120)
        tracemalloc.start()
        shot = reconstruct(wanted, folder / str(count) / "shot", Silent())
        generate(shot, render(shot, orbit_take(shot), Silent()), "preview", Silent())
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(4)  # modules that are imported on demand
    frame = 160 * 120 * (4 + 4)  # one frame's plate and depth in memory
    # both longer than the seconds of small frames that are kept to tell a dissolve
    assert peak(110) - peak(80) < 8 * frame


# ------------------------------------------------------------------------------------- camera options


@pytest.fixture
def shot_folder(folder: Path) -> Path:
    reconstruct(settings(folder), folder / "shot", Silent())
    return folder / "shot"


def rendered(capfd: pytest.CaptureFixture[str], root: Path, *arguments: object) -> dict[str, object]:
    capfd.readouterr()
    assert cli.main(["render", str(root), *map(str, arguments)]) == 0
    answer: dict[str, object] = json.loads(capfd.readouterr().out)
    return answer


def test_camera_options(shot_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = rendered(capfd, shot_folder, "--orbit", -10, "--frames", 9, "--size", "40x40", "--label", "längs")
    assert (said["frames"], said["size"]) == (9, [40, 40])
    assert rendered(capfd, shot_folder, "--move", "dolly", "--amount", 0.1, "--frames", 2)["frames"] == 2
    rendered(capfd, shot_folder, "--orbit", 5, "--freeze", 1003, "--pivot", 6, "--linear")
    shot = load_shot(shot_folder)
    assert load_take(shot, 1).label == "längs"
    assert {frame.source for frame in load_take(shot, 3).frames} == {1003}
    path = along(shot, preset("orbit", 5, 6, 4.0))
    save_reference_npz(path, shot_folder.parent / "camera.npz")
    rendered(capfd, shot_folder, "--camera", shot_folder.parent / "camera.npz")
    take = load_take(shot, 4)
    for frame, ours in zip(take.frames, path.frames, strict=True):
        np.testing.assert_allclose(frame.camera_to_world, ours.camera_to_world, atol=1e-5)


def test_walls_are_as_deep_as_is_said_or_as_suits_the_preset(
    shot_folder: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number, walls in enumerate((("--walls", "closed"), ("--walls", "0.5"), ()), 1):
        rendered(capfd, shot_folder, "--orbit", 5, *walls)
        assert load_take(load_shot(shot_folder), number).wall_share == (math.inf, 0.5, WALL_SHARE)[number - 1]
    for walls in ("0", "-1", "nan", "open"):
        with pytest.raises(SystemExit):
            cli.main(["render", str(shot_folder), "--orbit", "5", "--walls", walls])
        assert "neither a positive share nor closed" in capfd.readouterr().err
    clip = write_sequence(folder / "another clip", 2, first=1)
    for compat, share in (("none", WALL_SHARE), ("reference", math.inf)):
        shot = folder / compat
        options = ["--orbit", "5", "--preset", "preview", "--depth", "rough-pictorial", "--compat", compat]
        assert cli.main(["run", str(clip), "--out", str(shot), *options]) == 0
        assert load_take(load_shot(shot), 1).wall_share == share


# ------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--orbit", "91"), "91"),
        (("--orbit", "nan"), "nan"),
        (("--move", "truck", "--amount", "inf"), "inf"),
        (("--orbit", "5", "--pivot", "-1"), "pivot"),
        (("--orbit", "5", "--frames", "0"), "0 frames"),
        (("--orbit", "5", "--size", "64"), "64"),
        (("--orbit", "5", "--size", "²x4"), "²x4"),
        (("--orbit", "5", "--size", "0x4"), "0x4"),
        (("--camera", "nowhere.json"), "nowhere.json"),
        (("--orbit", "5", "--preset", "magic"), "magic"),
        (("--orbit", "5", "--preset", "final"), "needs an NVIDIA graphics card"),
        (("--orbit", "5", "--depth", "file"), "depth"),
        (("--orbit", "5", "--depth", "magic"), "magic"),
        (("--orbit", "5", "--depth-near", "2"), "depth"),
        (("--orbit", "5", "--depth", "rough-pictorial", "--depth-file", "x"), "--depth-file"),
        (("--orbit", "5", "--first", "99"), "99"),
        (("--orbit", "5", "--stride", "0"), "stride"),
        (("--orbit", "5", "--fov", "200"), "200"),
    ],
)
def test_what_cannot_be_is_said_before_work_starts(
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # no card, on a machine that has one too
    clip = write_sequence(folder / "clip", 2, first=1)
    assert said in refused(capfd, "run", clip, "--out", folder / "shot", *arguments)
    assert not (folder / "shot").exists()


def test_clips_that_are_none(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no movie")
    (folder / "folder").mkdir()
    write_tone(folder / "sound.mp4")
    for name in ("nowhere.mp4", "empty.mp4", "text.mp4", "folder", "sound.mp4", "nothing.####.png"):
        assert name in refused(capfd, "reconstruct", folder / name, "--shot", folder / "shot")
    assert not (folder / "shot").exists()


def write_tone(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_depth_that_does_not_fit(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = write_sequence(folder / "clip")
    short, broken = write_depth(folder / "short", 5), write_depth(folder / "broken")
    write_exr_depth(broken / "depth.0004.exr", np.full((48, 64), np.nan, np.float32))
    command = ("reconstruct", clip, "--shot", folder / "shot", "--depth-file")
    assert "5 depth maps" in refused(capfd, *command, short)
    assert "depth.0004.exr" in refused(capfd, *command, broken)
    assert "nowhere" in refused(capfd, *command, folder / "nowhere.exr")
    # another size is resampled, and said
    small = write_depth(folder / "small", 6, 32, 24)
    capfd.readouterr()
    assert cli.main([str(argument) for argument in (*command, small)]) == 0
    assert "32×24" in capfd.readouterr().err


def test_shots_and_takes_that_are_none(shot_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = shot_folder.parent
    assert "shot.json" in refused(capfd, "render", folder / "nowhere", "--orbit", 5)
    assert "take_0007" in refused(capfd, "generate", shot_folder, "--take", 7)
    assert "x/../y" in refused(capfd, "generate", shot_folder, "--take", "x/../y")
    rendered(capfd, shot_folder, "--orbit", 5)
    take = load_take(load_shot(shot_folder), 1)
    take.file("mask", 1004).unlink()
    assert "mask.1004.png" in refused(capfd, "generate", shot_folder, "--take", 1)
    (folder / "camera.json").write_text('{"schema": "ex4d.trajectory/1", "size": [64, 48], "fps": "24", "frames": []}')
    assert "camera.json" in refused(capfd, "render", shot_folder, "--camera", folder / "camera.json")
    document = json.loads((shot_folder / "shot.json").read_text(encoding="utf-8"))
    (shot_folder / "shot.json").write_text(json.dumps({**document, "schema": 99}), encoding="utf-8")
    before = times(shot_folder)
    for command in (("render", shot_folder, "--orbit", 5), ("generate", shot_folder, "--take", 1)):
        assert "newer" in refused(capfd, *command)
    assert "newer" in refused(capfd, "reconstruct", folder / "clip", "--shot", shot_folder)
    assert times(shot_folder) == before


def test_a_file_where_the_folder_should_be(folder: Path) -> None:
    clip = write_sequence(folder / "clip", 2)
    (folder / "file").write_bytes(b"")
    for place in ("file", "file/shot"):
        said = run(EX4D, "reconstruct", clip, "--shot", folder / place, cwd=folder, status=1)
        assert "file is in the way" in said.stderr


def test_an_error_nobody_foresaw_is_one_sentence_too(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Path.mkdir

    def mkdir(path: Path, *arguments: Any, **named: Any) -> None:
        if path.name == "plate":
            raise PermissionError(13, "Permission denied", str(path))
        usual(path, *arguments, **named)

    wanted = write_sequence(folder / "clip", 2)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert "plate" in refused(capfd, "reconstruct", wanted, "--shot", folder / "shot")


# -------------------------------------------------------------------------------- the reference's commands


def test_recon_then_generate(folder: Path) -> None:
    clip = write_clip(folder / "clip.mp4")
    depth = write_depth(folder / "maps")
    said = run(
        RECON, "--input_video", clip, "--cam", "180", "--output_dir", "out", "--save_mesh", "--depth", depth,
        cwd=folder, encoding="ascii",
    ).stdout  # fmt: skip
    out = folder / "out"
    names = ["DW-Mesh.ply", "camera_180.npz", "color_180.mp4", "mask_180.mp4"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert len(said.splitlines()) == 4
    for name in names[2:]:
        info = probe(out / name)
        assert (info.width, info.height, info.fps, info.frame_count) == (64, 48, NTSC_FILM, 6)
    with np.load(out / "camera_180.npz") as camera:
        assert camera["extrinsics"].shape == (6, 4, 4) and camera["extrinsics"].dtype == np.float32
        assert camera["intrinsics"].shape == (3, 3)
        np.testing.assert_allclose(camera["extrinsics"][0], np.diag([1, -1, -1, 1]), atol=1e-6)
    mesh = trimesh.load_mesh(out / "DW-Mesh.ply")
    assert mesh.is_watertight and mesh.euler_number == 2
    assert np.ravel(mesh.metadata["_ply_raw"]["face"]["data"]["occluded"]).any()

    command = [*GENERATE, "--color_video", "out/color_180.mp4", "--mask_video", "out/mask_180.mp4", "--output_video"]
    run(command, "filled.mp4", "--preset", "preview", cwd=folder)
    info = probe(folder / "filled.mp4")
    assert (info.width, info.height, info.fps, info.frame_count) == (64, 48, NTSC_FILM, 6)
    for frame in read_frames(folder / "filled.mp4"):
        assert (frame.image.sum(axis=-1) > 60).all()  # no hole stays black
    assert not list(folder.rglob(".*"))

    write_clip(folder / "short.mp4", 4)
    (folder / "filled.mp4").write_bytes(b"mine")
    command = [*GENERATE, "--color_video", "out/color_180.mp4", "--output_video", "filled.mp4", "--mask_video"]
    assert "ends after 4 frames" in run(command, "short.mp4", cwd=folder, status=1).stderr
    assert "nowhere.mp4" in run(command, "nowhere.mp4", cwd=folder, status=1).stderr
    assert (folder / "filled.mp4").read_bytes() == b"mine"
    assert not list(folder.rglob(".*"))


def test_recon_with_estimated_depth_of_any_source(folder: Path) -> None:
    write_sequence(folder / "clip", 2)
    run(RECON, "--input_video", "clip", "--cam", "30", "--output_dir", "out", cwd=folder)
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["camera_30.npz", "color_30.mp4", "mask_30.mp4"]
    assert "nowhere" in run(RECON, "--input_video", "nowhere.mp4", cwd=folder, status=1).stderr


@pytest.fixture
def flower() -> Path:
    path = SHARED / "data" / "flower"
    if not path.is_dir():
        pytest.skip("the flower clip is not here (../shared/data/flower)")
    return path


def test_recon_repeats_the_reference_s_camera_file(folder: Path, flower: Path) -> None:
    with np.load(flower / "camera_180.npz") as camera:
        extrinsics, intrinsics = camera["extrinsics"], camera["intrinsics"]
    radius = float((-extrinsics[12, :3, :3].T @ extrinsics[12, :3, 3])[0])  # a quarter of the way round
    for index in range(49):
        (folder / "clip").mkdir(exist_ok=True)
        write_png(folder / "clip" / f"plate.{index:04d}.png", picture(index % 5, 16, 16))
    np.save(folder / "depth.npy", np.full((49, 16, 16), radius - 0.15, np.float32))
    arguments = ("--input_video", "clip", "--compat", "reference", "--depth", "depth.npy", "--output_dir", "out")
    run(RECON, *arguments, "--cam", "180", cwd=folder)
    with np.load(folder / "out" / "camera_180.npz") as camera:
        assert camera["extrinsics"].dtype == extrinsics.dtype and camera["intrinsics"].dtype == intrinsics.dtype
        np.testing.assert_allclose(camera["extrinsics"], extrinsics, atol=2e-5)
        assert camera["intrinsics"].tolist() == [[500, 0, 8], [0, 500, 8], [0, 0, 1]]
    assert intrinsics.tolist() == [[500, 0, 256], [0, 500, 256], [0, 0, 1]]


def test_recon_compat_begins_with_the_source_frame(folder: Path, flower: Path) -> None:
    source = [frame.image for frame in read_frames(flower / "input.mp4", last=2)]
    (folder / "clip").mkdir()
    for index, image in enumerate(source):
        write_png(folder / "clip" / f"plate.{index:04d}.png", image)
    depth = np.repeat(np.repeat(depth_map(0, 32, 32), 16, axis=0), 16, axis=1)
    np.save(folder / "depth.npy", np.stack([depth, depth]))
    arguments = ("--input_video", "clip", "--compat", "reference", "--depth", "depth.npy", "--output_dir", "out")
    run(RECON, *arguments, "--cam", "180", "--save_mesh", cwd=folder)
    colour = next(iter(read_frames(folder / "out" / "color_180.mp4"))).image
    theirs = next(iter(read_frames(flower / "render_180.mp4"))).image
    mask = next(iter(read_frames(folder / "out" / "mask_180.mp4"))).image
    assert np.abs(colour.astype(int) - source[0]).mean() < 2
    assert np.abs(colour.astype(int) - theirs).mean() < 3
    assert mask.min() >= 253
    mesh = trimesh.load_mesh(folder / "out" / "DW-Mesh.ply")
    assert mesh.is_watertight and mesh.euler_number == 2


# ---------------------------------------------------------------------------- other paths and rates


@pytest.fixture
def made(folder: Path) -> Path:
    root = folder / "shot"
    reconstruct(settings(folder), root, Silent())
    return root


def test_a_sequence_gets_the_rate_that_it_cannot_say(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_sequence(folder / "plate")
    write_depth(folder / "maps", 3)
    arguments = ["run", folder / "plate", "--depth-file", folder / "maps", "--orbit", 5, "--out", folder / "shot"]
    assert cli.main([str(item) for item in [*arguments, "--fps", "24000/1001", "--stride", 2]]) == 0
    result = json.loads(capfd.readouterr().out)["result"]
    assert probe(result).fps == NTSC_FILM / 2
    for wrong in ("0", "-24", "fast", "1/0", "1e9999999999"):
        assert "frame rate" in refused(capfd, *arguments, "--fps=" + wrong)


def test_a_path_through_keys_passes_them(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    poses = preset("truck", 0.2, 3, 4.0)
    entries = [{"time": time, "camera_to_world": pose.tolist()} for time, pose in zip((0, 1, 3), poses, strict=True)]
    file = made.parent / "keys.json"
    file.write_text(json.dumps({"schema": "ex4d.keys/1", "keys": entries}))
    assert cli.main(["render", str(made), "--keys", str(file), "--frames", "7"]) == 0
    frames = load_take(load_shot(made), 1).frames
    assert len(frames) == 7
    for index, key in ((0, 0), (2, 1), (6, 2)):
        np.testing.assert_allclose(frames[index].camera_to_world, poses[key], atol=1e-9)
    capfd.readouterr()
    for text in (
        '{"schema": "ex4d.keys/1", "keys": []}',
        "{}",
        "[",
        '{"schema": "ex4d.keys/1", "keys": [{"time": 1}]}',
    ):
        file.write_text(text)
        refused(capfd, "render", made, "--keys", file)
    assert list_takes(load_shot(made)) == ["take_0001"]


@pytest.mark.parametrize("cam", ["30", "180", "zoom_in", "zoom_out"])
def test_the_reference_s_presets_and_a_take_s_camera_as_a_file(
    made: Path, cam: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from ex4d_engine.reference_paths import reference_path

    assert cli.main(["render", str(made), "--reference-path", cam, "--pivot", "4"]) == 0
    take = load_take(load_shot(made), 1)
    wanted = reference_path(cam, 6, 4.0)
    np.testing.assert_allclose([frame.camera_to_world for frame in take.frames], wanted, atol=1e-12)
    for name in ("camera.json", "camera.npz"):
        file = made.parent / name
        assert cli.main(["camera", str(made), "--take", "1", "--out", str(file)]) == 0
        assert cli.main(["render", str(made), "--camera", str(file)]) == 0
        again = load_take(load_shot(made), list_takes(load_shot(made))[-1])
        np.testing.assert_allclose([frame.camera_to_world for frame in again.frames], wanted, atol=1e-5)
    capfd.readouterr()


def test_a_damaged_file_of_the_shot_s_own_is_named_with_what_helps(
    made: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = load_shot(made).depth_file(1003)
    broken.write_bytes(b"rubbish")
    assert "depth.1003.exr" in refused(capfd, "render", made, "--orbit", 5)
    broken.unlink()
    reconstruct(settings(made.parent), made, Silent())
    assert cli.main(["render", str(made), "--orbit", "5"]) == 0
    capfd.readouterr()


def test_previews_come_while_holes_are_filled(made: Path) -> None:
    from tests.tiny_shot import Listener

    listener = Listener()
    shot = load_shot(made)
    take = generate(shot, render(shot, orbit_take(shot), Silent()), "preview", listener)
    assert {path.name.split(".")[0] for path in listener.previews} == {"generated", "composite"}
    assert take.record["versions"].keys() >= {"ex4d", "av", "OpenEXR", "moderngl", "opengl", "system"}
