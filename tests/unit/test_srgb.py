# SPDX-License-Identifier: GPL-3.0-or-later
"""The sRGB curve, against the values of its standard."""

from __future__ import annotations

import numpy as np

from ex4d_engine.srgb import decode_srgb, encode_srgb


def test_known_values() -> None:
    # IEC 61966-2-1: 18 % grey is code 118, half light is 188; the straight part ends at 0.0031308.
    light = np.array([0, 0.0031308, 0.18, 0.5, 1], np.float32)
    assert encode_srgb(light).tolist() == [0, 10, 118, 188, 255]


def test_clipped_and_never_not_a_number() -> None:
    light = np.array([-1, 7, np.inf, -np.inf, np.nan], np.float32)
    assert encode_srgb(light).tolist() == [0, 255, 255, 0, 0]


def test_every_code_survives_both_ways() -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(encode_srgb(decode_srgb(codes)), codes)
    deep = np.arange(256, dtype=np.uint16) * 257
    assert np.allclose(decode_srgb(deep), decode_srgb(codes).ravel(), atol=1e-7)
