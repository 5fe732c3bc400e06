# SPDX-License-Identifier: GPL-3.0-or-later
"""The third stage: what a take becomes, that no result is ever overwritten, and that a killed run resumes."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import shutil
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from ex4d_engine import __version__, bundled_model, files
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.image_files import read_exr, read_png, write_exr_depth, write_png
from ex4d_engine.preview_fill import FILL_VERSION
from ex4d_engine.progress import Silent
from ex4d_engine.shot import Shot
from ex4d_engine.stages import PRESETS, generate, reconstruct, render, require_preset
from ex4d_engine.stages.generate import other_moments
from ex4d_engine.take import Take, list_takes, load_take, new_take, save_take
from ex4d_engine.video import probe, read_frames
from tests.tiny_shot import Listener, contents, orbit_take, settings, times, write_clip


@pytest.fixture
def shot(tmp_path: Path) -> Shot:
    folder = tmp_path / "Ünï 作業 shot"
    folder.mkdir()
    return reconstruct(settings(folder), folder / "shot", Silent())


@pytest.fixture
def take(shot: Shot) -> Take:
    return render(shot, orbit_take(shot), Silent())


def test_layers_and_movie(shot: Shot, take: Take) -> None:
    listener = Listener()
    done = generate(shot, take, "preview", listener, seed=7)
    assert done.name == take.name and done.is_finished
    for number in done.numbers:
        color, mask = read_png(done.file("color", number)), read_png(done.file("mask", number))
        matte, result = read_png(done.file("matte", number)), read_png(done.file("composite", number))
        generated = read_png(done.file("generated", number))
        assert (result[matte == 255] == color[matte == 255]).all()  # exactly the plate
        assert (matte[mask == 0] == 0).all()
        assert (matte == 255).mean() > 0.3
        assert generated.shape == color.shape and (generated[mask == 0].sum(axis=-1) > 60).all()  # nothing stays black
    info = probe(done.result_file)
    assert (info.width, info.height, info.fps, info.frame_count) == (64, 48, take.fps, 6)
    assert listener.previews and any("no diffusion" in line for line in listener.logs)
    assert load_take(shot, done.name) == done


def test_the_record_holds_everything_to_repeat_it(shot: Shot, take: Take) -> None:
    generate(shot, take, "preview", Silent(), seed=7)
    document = json.loads((take.root / "take.json").read_text(encoding="utf-8"))
    record = document["record"]
    assert document["preset"] == "preview" and document["conditioning"] == "engine"
    assert record["generation"] == {"preset": "preview", "seed": 7, "fill": FILL_VERSION}
    assert record["reconstruction"] == shot.settings
    assert (record["versions"]["ex4d"], record["versions"]["python"]) == (__version__, platform.python_version())
    assert set(record["seconds"]) == {"render", "generate"} and min(record["seconds"].values()) > 0
    assert len(document["camera"]) == 6


@pytest.mark.parametrize("size", [(33, 47), (65, 24), (1, 1), (2, 2)])
def test_odd_and_tiny_sizes(shot: Shot, size: tuple[int, int]) -> None:
    done = generate(shot, render(shot, orbit_take(shot, size=size), Silent()), "preview", Silent())
    info = probe(done.result_file)
    assert (info.width, info.height, info.frame_count) == (*size, 6)


def test_the_clip_s_rate_is_kept_exactly(tmp_path: Path) -> None:
    wanted = settings(tmp_path, source=str(write_clip(tmp_path / "clip.mp4")))
    shot = reconstruct(wanted, tmp_path / "shot", Silent())
    done = generate(shot, render(shot, orbit_take(shot), Silent()), "preview", Silent())
    assert str(probe(done.result_file).fps) == "24000/1001"


def test_one_frame(shot: Shot) -> None:
    done = generate(shot, render(shot, orbit_take(shot, 10.0, 1), Silent()), "preview", Silent())
    assert len(list(read_frames(done.result_file))) == 1


def test_conditioning_of_blender_has_no_depth(shot: Shot, take: Take) -> None:
    whole = generate(shot, take, "preview", Silent())
    other = orbit_take(shot)
    for layer in ("color", "mask"):
        for number in take.numbers:
            shutil.copyfile(take.file(layer, number), other.file(layer, number))
    other = dataclasses.replace(other, conditioning="blender")
    done = generate(shot, other, "preview", Silent())
    assert contents(done.root) == contents(whole.root)  # its depth is drawn when it is needed


def test_other_moments_lie_all_over_the_clip(shot: Shot) -> None:
    assert other_moments(shot) == [1001, 1003, 1004, 1006]


def test_the_far_side_comes_from_other_frames(shot: Shot) -> None:
    """Behind the walking square the ground is seen in other frames: the fill is that ground, not a smear."""
    take = render(shot, orbit_take(shot, 0.0, frozen=1001, size=(64, 48)), Silent())
    hole = np.zeros((48, 64), bool)
    hole[12:36, 16:20] = True  # the square's first columns, which it leaves free later
    for number in take.numbers:
        color, mask = read_png(take.file("color", number)).copy(), read_png(take.file("mask", number)).copy()
        color[hole], mask[hole] = 0, 0
        write_png(take.file("color", number), color)
        write_png(take.file("mask", number), mask)
        write_exr_depth(take.file("depth", number), np.where(hole, np.float32(5), read_exr(take.file("depth", number))))
    done = generate(shot, take, "preview", Silent())
    ground = read_png(shot.plate_file(1006))
    filled = read_png(done.file("generated", take.first))
    inside = np.zeros_like(hole)
    inside[14:34, 17:19] = True
    assert np.abs(filled[inside].astype(int) - ground[inside]).max() <= 2


# ------------------------------------------------------------------------------------- never overwritten


def test_a_finished_take_stays_and_a_new_one_is_made(shot: Shot, take: Take) -> None:
    done = generate(shot, take, "preview", Silent())
    before, document = times(done.root), (done.root / "take.json").read_bytes()
    again = generate(shot, done, "preview", Silent(), seed=3)
    assert again.name == "take_0002" and again.is_finished
    assert (times(done.root), (done.root / "take.json").read_bytes()) == (before, document)
    assert again.frames == done.frames and again.record["conditioning_of"] == done.name
    assert again.record["reconstruction"] == shot.settings and again.record["raster"] == "opengl"
    for layer in ("color", "mask", "depth"):
        for number in done.numbers:
            assert done.file(layer, number).samefile(again.file(layer, number))  # hard links
    for number in done.numbers:
        assert not done.file("generated", number).samefile(again.file("generated", number))


def test_without_hard_links_conditioning_is_copied(shot: Shot, take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    done = generate(shot, take, "preview", Silent())

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    again = generate(shot, done, "preview", Silent())
    assert contents(again.root) == contents(done.root)


def test_walls_go_with_the_conditioning_and_a_preset_of_closed_ones_says_so(
    shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = new_take(shot, orbit_take(shot).frames, (64, 48), first=1001, fps=Fraction(24), wall_share=0.2)
    listener = Listener()
    first = generate(shot, render(shot, take, Silent()), "preview", listener)
    assert not any("short walls" in line for line in listener.logs)
    monkeypatch.setattr(sys.modules[generate.__module__], "preset_walls", lambda _: math.inf)
    again = generate(shot, first, "preview", listener, seed=1)
    assert again.name != first.name and again.wall_share == load_take(shot, again.name).wall_share == 0.2
    assert any("short walls" in line for line in listener.logs)


def test_a_finished_take_whose_movie_was_moved_away_keeps_its_layers(shot: Shot, take: Take) -> None:
    done = generate(shot, take, "preview", Silent(), seed=1)
    done.result_file.rename(shot.root / "moved.mp4")
    before = times(done.root)
    again = generate(shot, load_take(shot, done.name), "preview", Silent(), seed=2)
    assert again.name == "take_0002"
    assert times(done.root) == before


def test_a_preset_that_cannot_run_changes_nothing(
    shot: Shot, take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled_model, "FOLDER", tmp_path / "none")
    with pytest.raises(Cancelled):
        generate(shot, take, "preview", Listener(stop_in="generate", after=3))
    before, document = times(take.root), (take.root / "take.json").read_bytes()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, code in (("draft", "model_missing"), ("final", "out_of_memory"), ("fast", "out_of_memory")):
        with pytest.raises(Ex4dError) as error:
            generate(shot, load_take(shot, take.name), name, Silent())
        assert error.value.code == code
        assert "needs" in error.value.message and error.value.hint
    with pytest.raises(Ex4dError) as error:
        generate(shot, load_take(shot, take.name), "magic", Silent())
    assert error.value.code == "unknown_preset"
    assert all(name in error.value.hint for name in PRESETS)
    assert (times(take.root), (take.root / "take.json").read_bytes()) == (before, document)
    assert list_takes(shot) == [take.name]
    require_preset("preview")


# ---------------------------------------------------------------------------------- interrupted and again


@pytest.mark.parametrize(("stage", "after"), [("generate", 0), ("generate", 3), ("composite", 0), ("composite", 4)])
def test_a_cancelled_run_goes_on_where_it_stopped(shot: Shot, take: Take, stage: str, after: int) -> None:
    with pytest.raises(Cancelled):
        generate(shot, take, "preview", Listener(stop_in=stage, after=after))
    assert not take.result_file.exists()
    before = times(take.root)
    assert not [name for name in before if name.startswith(".")]
    resumed = generate(shot, load_take(shot, take.name), "preview", Silent())
    later = times(take.root)
    assert {name: later[name] for name in before} == before
    whole = generate(shot, render(shot, orbit_take(shot), Silent()), "preview", Silent())
    assert contents(resumed.root) == contents(whole.root)
    assert resumed.name == take.name


def test_an_interrupted_run_on_a_finished_take_goes_on_in_its_new_take(shot: Shot, take: Take) -> None:
    done = generate(shot, take, "preview", Silent())
    with pytest.raises(Cancelled):
        generate(shot, done, "preview", Listener(stop_in="generate", after=3), seed=5)
    assert generate(shot, done, "preview", Silent(), seed=5).name == "take_0002"
    assert generate(shot, done, "preview", Silent(), seed=5).name == "take_0003"


def test_other_settings_begin_an_interrupted_take_anew(shot: Shot, take: Take) -> None:
    with pytest.raises(Cancelled):
        generate(shot, take, "preview", Listener(stop_in="composite", after=3), seed=1)
    before = times(take.root)
    done = generate(shot, load_take(shot, take.name), "preview", Silent(), seed=2)
    assert done.name == take.name and done.record["generation"]["seed"] == 2
    later = times(take.root)
    kept = [name for name in before if name.startswith(("color", "mask", "depth"))]
    assert all(later[name] == before[name] for name in kept)
    assert all(later[name] != when for name, when in before.items() if name not in kept)


# ------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("layer", ["color", "mask", "both"])
def test_missing_conditioning_is_named(shot: Shot, take: Take, layer: str) -> None:
    for name in ("color", "mask") if layer == "both" else (layer,):
        for number in (1003, 1005):
            take.file(name, number).unlink()
    with pytest.raises(Ex4dError, match=r"1003\.png and 1 more") as error:
        generate(shot, take, "preview", Silent())
    assert error.value.code == "take_incomplete"


def test_a_shot_made_anew_since_lends_no_pixels_to_an_old_take(shot: Shot, take: Take) -> None:
    shot = reconstruct(dataclasses.replace(settings(shot.root.parent), first=1004, depth="rough-pictorial",
                                           depth_options={}), shot.root, Silent())  # fmt: skip
    done = generate(shot, take, "preview", Silent())
    assert done.is_finished and read_png(done.file("composite", 1001)).shape == (48, 64, 3)


def test_a_full_disk_is_noticed_before_work_starts(shot: Shot, take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    before, document = times(take.root), (take.root / "take.json").read_bytes()
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(Ex4dError) as error:
        generate(shot, take, "preview", Silent())
    assert error.value.code == "disk_full"
    assert (times(take.root), (take.root / "take.json").read_bytes()) == (before, document)


def test_a_damaged_conditioning_file_is_named(shot: Shot, take: Take) -> None:
    data = take.file("color", 1002).read_bytes()
    take.file("color", 1002).write_bytes(data[: len(data) // 2])
    with pytest.raises(Ex4dError, match=r"color\.1002\.png") as error:
        generate(shot, take, "preview", Silent())
    assert error.value.code == "unreadable_image"


def test_a_take_without_holes_is_its_conditioning(shot: Shot) -> None:
    still = render(shot, orbit_take(shot, 0.0), Silent())
    done = generate(shot, still, "preview", Silent())
    for number in still.numbers:
        assert (read_png(done.file("composite", number)) == read_png(still.file("color", number))).all()


def test_a_take_that_sees_nothing(shot: Shot, take: Take) -> None:
    away = dataclasses.replace(
        take.frames[0], camera_to_world=((-1, 0, 0, 0), (0, 1, 0, 0), (0, 0, -1, 0), (0, 0, 0, 1))
    )
    blind = new_take(shot, (away, away), (64, 48), first=1001, fps=take.fps)
    save_take(blind)
    assert generate(shot, render(shot, blind, Silent()), "preview", Silent()).is_finished
