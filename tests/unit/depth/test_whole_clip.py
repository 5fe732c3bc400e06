# SPDX-License-Identifier: GPL-3.0-or-later
"""What a network that sees frames together is shown of a clip."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ex4d_engine.depth.network_frames import resized
from ex4d_engine.depth.whole_clip import over_clip, shown_frames
from ex4d_engine.errors import Cancelled
from ex4d_engine.progress import Silent
from tests.tiny_shot import Listener, picture

SIZE = (32, 24)


def frames(kinds: str) -> list[np.ndarray]:
    """A frame a letter: a digit is a picture of its own, others are of one colour."""
    colours = {"b": 0, "w": 255, "g": 90}
    return [picture(int(kind)) if kind.isdigit() else np.full_like(picture(0), colours[kind]) for kind in kinds]


def seen(kinds: str, reporter: Silent | None = None) -> tuple[str, list[bool]]:
    """The digits of the frames that a network is shown ("." for blank ones), and which count."""
    counted: list[bool] = []
    shown = list(shown_frames(lambda: iter(frames(kinds)), SIZE, counted, reporter or Silent()))
    assert all(frame.shape == (SIZE[1], SIZE[0], 3) for frame in shown)
    known = {resized(picture(index), SIZE).tobytes(): str(index) for index in range(10)}
    return "".join(known.get(frame.tobytes(), ".") for frame in shown), counted


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        ("0123", "0123"),
        ("0b2", "002"),
        ("0bw3", "0033"),
        ("0bbb4", "00044"),
        ("bb2b4", "22224"),
        ("01wwww", "011111"),
        ("b1b3b5b", "1113355"),  # of two that are as near, the earlier one
        ("b", "."),
        ("bwg", "..."),
        ("", ""),
    ],
)
def test_a_blank_frame_is_its_nearest_neighbour_that_shows_something(kinds: str, wanted: str) -> None:
    shown, counted = seen(kinds)
    assert shown == wanted
    assert counted == [kind.isdigit() for kind in kinds]


def test_it_is_said_once_with_the_first_numbers() -> None:
    reporter = Listener()
    seen("b1bwbbbbb9", reporter)
    (line,) = reporter.logs
    assert line.startswith("8 frames show nothing (1, 3, 4, 5, 6, … of the clip)")
    reporter = Listener()
    seen("0b2", reporter)
    (line,) = reporter.logs
    assert line.startswith("1 frame shows nothing (2 of the clip)")
    for kinds in ("012", "bwb"):  # in a clip of nothing there is no neighbour to take
        reporter = Listener()
        seen(kinds, reporter)
        assert not reporter.logs


def test_frames_come_as_soon_as_it_is_known_what_they_are() -> None:
    read = 0

    def plate() -> Iterator[np.ndarray]:
        nonlocal read
        for frame in frames("01bb45"):
            read += 1
            yield frame

    reads = []
    for _ in shown_frames(plate, SIZE, [], Silent()):
        reads.append(read)
    assert reads == [1, 2, 5, 5, 5, 6]


def test_a_long_run_of_nothing_can_be_stopped() -> None:
    with pytest.raises(Cancelled):
        reporter = Silent()
        reporter.cancelled.set()
        next(shown_frames(lambda: iter(frames("bbb3")), SIZE, [], reporter))


def test_every_frame_has_its_map_and_its_number() -> None:
    def brightness(images: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        return (np.full((2, 2), image.mean(), np.float32) for image in images)

    maps, counted = over_clip(lambda: iter(frames("b1w3")), 4, SIZE, brightness, "Net", Silent())
    assert len(maps) == 4 and counted == [False, True, False, True]
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[2], maps[1])
    assert not np.array_equal(maps[3], maps[1])
