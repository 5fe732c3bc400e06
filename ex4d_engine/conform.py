# SPDX-License-Identifier: GPL-3.0-or-later
"""Variable frame rate made constant, by time stamps, as a stream.

A Blender strip and a diffusion window know one rate. A phone's clip does not keep it: frames come late or are missing.
Frame k of the conformed clip shows the last source frame whose time, rounded to the constant rate, is at most k: a
hole repeats the frame before it, and of frames that fall on one tick the last is taken. For a clip of constant rate
this is the identity, which is also how such a clip is recognised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Final, TypeVar

import numpy as np

Frame = TypeVar("Frame")

STANDARD_RATES: Final[tuple[Fraction, ...]] = tuple(
    Fraction(rate)
    for rate in ("12", "15", "24000/1001", "24", "25", "30000/1001", "30", "48000/1001", "48", "50", "60000/1001", "60",
                 "90", "100", "120000/1001", "120", "240000/1001", "240")
)  # fmt: skip
MAX_RATE: Final = 1000  # containers without a rate report their time base instead, such as 90000


def tick(time: int, start: int, time_base: Fraction, fps: Fraction) -> int:
    """The frame, counted from 0 at `start`, that a time stamp in units of `time_base` seconds falls on."""
    position = (time - start) * time_base * fps
    return (2 * position.numerator + position.denominator) // (2 * position.denominator)


def ticks(times: np.ndarray, time_base: Fraction, fps: Fraction) -> np.ndarray:
    """`tick` of every one of `times` (N,) int64, counted from the earliest; (N,) int64."""
    step = time_base * fps
    return np.floor((times - times.min()).astype(np.float64) * step.numerator / step.denominator + 0.5).astype(np.int64)


def find_rate(
    times: np.ndarray, time_base: Fraction, guesses: Iterable[Fraction | None]
) -> tuple[Fraction | None, bool]:
    """The constant rate of a clip, or the one to conform it to.

    Args:
        times: (N,) int64, time stamps of all frames in display order, in units of `time_base` seconds.
        guesses: what the container and the codec say, best first; None and nonsense are passed over.

    Returns:
        (fps, True) for the first guess, or else the first standard rate, at which every frame has a tick of its own
        without a hole; (fps, False) for a clip of variable rate, with the standard rate nearest to the
        usual distance of frames; (None, True) when one frame or none gives no distance and no guess is left.
    """
    sane = [Fraction(guess) for guess in guesses if guess is not None and 0 < guess <= MAX_RATE]
    if len(times) < 2 or times.min() == times.max():
        return (sane[0] if sane else None), True
    order = np.arange(len(times))
    average = Fraction(len(times) - 1) / (int(times.max() - times.min()) * time_base)
    for rate in [*sane, *sorted(STANDARD_RATES, key=lambda rate: abs(rate - average))]:
        if np.array_equal(ticks(times, time_base, rate), order):
            return rate, True
    steps = np.diff(times)
    median = float(np.median(steps[steps > 0]))
    regular = steps[(steps > median / 2) & (steps < median * 3 / 2)]  # neither a hole nor a hurried frame
    for measured in (1 / (Fraction(float(regular.mean())) * time_base), average):
        nearest = min(STANDARD_RATES, key=lambda rate: abs(rate - measured))
        if abs(nearest - measured) <= measured / 20:
            return nearest, False
    return average.limit_denominator(1001), False


def hold_frames(frames: Iterable[tuple[int, Frame]]) -> Iterator[tuple[int, Frame]]:
    """Repeats and leaves out frames so that every tick has exactly one.

    Args:
        frames: (tick, frame) in order of decoding; a tick before one already given away is left out.

    Yields:
        (tick, frame), ticks rising by 1 from the first. Holds one frame at a time.
    """
    held: tuple[int, Frame] | None = None
    for now, frame in frames:
        if held is not None:
            if now < held[0]:
                continue
            for hole in range(held[0], now):
                yield hole, held[1]
        held = now, frame
    if held is not None:
        yield held
