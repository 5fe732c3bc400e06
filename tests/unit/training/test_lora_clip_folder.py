# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder of clips: all kinds are found, bad ones are left out and named, windows are where they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.training import clip_folder
from ex4d_engine.training.clip_folder import (
    INDEX_NAME,
    Clip,
    Skips,
    Window,
    caption,
    covering,
    list_clips,
    read_window,
    windows,
)
from ex4d_engine.video import probe
from tests.unit.training.lora_material import picture, save_images, save_movie


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two movies, an image sequence, and things that are none."""
    folder = tmp_path / "Aufnahmen ü"
    save_movie(folder / "b.mp4", 9, seed=1)
    save_movie(folder / "tief" / "c lang.mp4", 30, seed=2)
    save_images(folder / "a folge", 5)
    (folder / "torn.mp4").write_bytes((folder / "b.mp4").read_bytes()[:200])
    (folder / "empty.mov").write_bytes(b"")
    (folder / "b.txt").write_text("a  man\nwalks ü", encoding="utf-8")
    (folder / ".hidden.mp4").write_bytes(b"x")
    save_images(folder / "gap", 3)
    (folder / "gap" / "shot.0002.png").unlink()
    return folder


def test_clips_are_found_and_bad_ones_left_out(folder: Path, tmp_path: Path) -> None:
    skips = Skips()
    clips = list_clips(folder, tmp_path, skips, Silent())
    assert [(clip.path.name, clip.frame_count) for clip in clips] == [("a folge", 5), ("b.mp4", 9), ("c lang.mp4", 30)]
    assert sorted(name for name, _ in skips.problems) == ["empty.mov", "gap", "torn.mp4"]
    report = "\n".join(skips.report())
    assert "could not be used and were left out: 3" in report and "Frame 2 is missing" in report
    assert Skips().report() == []


def test_what_is_known_of_a_clip_is_not_found_out_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = list_clips(folder, tmp_path, Skips(), Silent())
    probed: list[str] = []
    probe = clip_folder.probe
    monkeypatch.setattr(clip_folder, "probe", lambda path: probed.append(path.name) or probe(path))
    assert list_clips(folder, tmp_path, Skips(), Silent()) == first
    assert sorted(probed) == ["empty.mov", "torn.mp4"], "only what could not be read is tried again"

    save_movie(folder / "b.mp4", 12, seed=5)
    changed = list_clips(folder, tmp_path, Skips(), Silent())[1]
    assert changed.frame_count == 12 and changed.digest != first[1].digest

    (tmp_path / INDEX_NAME).write_bytes(b"{torn")
    assert [clip.frame_count for clip in list_clips(folder, tmp_path, Skips(), Silent())] == [5, 12, 30]


def test_content_tells_clips_apart_and_not_their_place(folder: Path, tmp_path: Path) -> None:
    (folder / "b.mp4").rename(folder / "z.mp4")
    save_images(folder / "x", 5)
    clips = {clip.path.name: clip.digest for clip in list_clips(folder, tmp_path, Skips(), Silent())}
    assert clips["x"] == clips["a folge"] and clips["z.mp4"] != clips["c lang.mp4"]


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(Ex4dError, match="There is no folder") as caught:
        list_clips(tmp_path / "none", tmp_path, Skips(), Silent())
    assert caught.value.code == "no_such_file"
    with pytest.raises(Ex4dError, match="no movies and no images") as caught:
        list_clips(tmp_path, tmp_path, Skips(), Silent())
    assert caught.value.code == "no_frames"
    (tmp_path / "torn.mp4").write_bytes(b"x" * 50)
    with pytest.raises(Ex4dError, match="None of the 1 movies"):
        list_clips(tmp_path, tmp_path, Skips(), Silent())


def test_a_cancel_is_no_bad_clip(folder: Path, tmp_path: Path) -> None:
    reporter = Silent()
    reporter.cancelled.set()
    with pytest.raises(Cancelled):
        list_clips(folder, tmp_path, Skips(), reporter)


def test_windows_are_spread_over_a_clip() -> None:
    def starts(count: int, per_clip: int, keep_short: bool = True) -> list[tuple[int, bool]]:
        found = windows([Clip(Path("a.mp4"), "0", count)], 9, per_clip, keep_short, skips)
        return [(window.first, window.is_padded) for window in found]

    skips = Skips()
    assert starts(9, 3) == [(0, False)]
    assert starts(30, 1) == [(0, False)]
    assert starts(30, 2) == [(0, False), (21, False)]
    assert starts(30, 10) == [(0, False), (10, False), (21, False)], "no more than need not overlap"
    assert starts(8, 1) == [(0, True)]
    assert skips.report() == []
    assert starts(8, 1, keep_short=False) == []
    assert skips.report() == ["Clips that are shorter than a window and were left out: 1", "  a.mp4"]


def test_a_window_holds_its_frames(folder: Path) -> None:
    clip = Clip(folder / "a folge", "", 5)
    frames = read_window(Window(clip, 2, 2), 32, 48, Silent())
    np.testing.assert_array_equal(frames, np.stack([picture(3, 0), picture(4, 0)]))
    padded = read_window(Window(clip, 3, 4), 32, 48, Silent())
    np.testing.assert_array_equal(padded, np.stack([picture(n, 0) for n in (4, 5, 5, 5)]))

    movie = read_window(Window(Clip(folder / "b.mp4", "", 9), 4, 3), 32, 48, Silent())
    wanted = np.stack([picture(n, 1) for n in (4, 5, 6)])
    assert np.abs(movie.astype(int) - wanted).mean() < 8  # it was compressed


def test_a_window_with_lost_frames_is_left_out_and_the_others_of_its_clip_are_used(tmp_path: Path) -> None:
    """Decoders repeat the last good frame instead: a clip that stands still would be learned."""
    whole = save_movie(tmp_path / "whole.mp4", 120, height=128, width=192).read_bytes()
    torn, hole = int(0.35 * len(whole)), int(0.3 * len(whole))
    path = tmp_path / "torn ü.mp4"
    path.write_bytes(whole[:torn] + bytes(hole) + whole[torn + hole :])
    clip = Clip(path, "", probe(path).frame_count or 0)
    assert len(read_window(Window(clip, 0, 25), 32, 48, Silent())) == 25
    skips = Skips()
    with skips.leaving_out("torn"):
        read_window(Window(clip, 44, 33), 32, 48, Silent())
    (line,) = skips.report()[1:]
    assert "torn ü.mp4 is damaged" in line and "cannot be decoded" in line


def test_a_folder_that_is_the_clip_has_a_name(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "eine Folge ü", 5)
    (folder / "shot.0002.png").unlink()
    skips = Skips()
    with pytest.raises(Ex4dError):
        list_clips(folder, tmp_path, skips, Silent())
    assert [name for name, _ in skips.problems] == ["eine Folge ü"]


def test_pictures_cover_the_size_and_keep_their_shape() -> None:
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 30:70] = 255  # a white square in the middle
    half = covering(image, 20, 20)
    assert half.shape == (20, 20, 3) and half.min() > 250
    double = covering(image, 80, 100)
    assert double.shape == (80, 100, 3) and double[40, 50].min() > 250 and double[40, 2].max() < 5
    assert covering(image, 40, 100) is not None and (covering(image, 40, 100) == image).all()


def test_a_caption_lies_beside_its_clip(folder: Path) -> None:
    assert caption(folder / "b.mp4") == "a man walks ü"
    assert caption(folder / "a folge") is None
    (folder / "a folge.txt").write_text("\n", encoding="utf-8")
    assert caption(folder / "a folge") is None
