# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest
import torch

from ex4d_engine.diffusion import preprocess


def test_frame_pick_keeps_both_ends_and_cuts_fractions_off() -> None:
    assert preprocess.evenly_spaced_frames(11, 9).tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10]
    assert preprocess.evenly_spaced_frames(5, 9).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4]


def test_erosion_is_steady_by_default_and_repeatable_when_random() -> None:
    assert set(preprocess.fixed_erosion(20)) == {preprocess.EROSION_KERNEL} == {9}
    assert preprocess.no_erosion(2) == [1, 1]
    drawn = preprocess.random_erosion(200, seed=3)
    assert drawn == preprocess.random_erosion(200, seed=3) != preprocess.random_erosion(200, seed=4)
    assert set(drawn) == set(range(2, 9))


def test_eroded_mask_loses_half_a_kernel_at_a_hole() -> None:
    mask = np.full((20, 20), 255, np.uint8)
    mask[10, 10] = 0

    eroded = preprocess.eroded_mask(mask, 5)

    assert (eroded == 0).sum() == 25
    assert not eroded[8:13, 8:13].any()
    assert np.array_equal(preprocess.eroded_mask(mask, 1), mask)


def test_unseen_pixels_are_black_and_seen_ones_keep_their_colour() -> None:
    colour = np.full((1, 4, 6, 3), (255, 51, 0), np.uint8)
    masks = np.zeros((1, 4, 6), np.uint8)
    masks[0, :, :3] = 128
    masks[0, :, 3:] = 127

    video, mask = preprocess.conditioning_videos(colour, masks, [1])

    assert video.shape == mask.shape == (1, 3, 1, 4, 6)
    torch.testing.assert_close(video[0, :, 0, 0, 0], torch.tensor([1.0, -0.6, -1.0]))
    assert (video[..., 3:] == -1).all()
    assert (mask[..., :3] == 1).all() and (mask[..., 3:] == -1).all()


def test_colours_without_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        preprocess.conditioning_videos(np.zeros((2, 4, 4, 3), np.uint8), np.zeros((1, 4, 4), np.uint8), [1, 1])


def test_first_frame_survives_a_round_trip_within_one_level() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(16, 16, 1).expand(-1, -1, 3)
    video = preprocess.image_tensor(levels)[:, :, None]

    back = preprocess.first_frame(video)

    # Truncation, as the weights were trained with, may lose one level and gains none.
    assert set((levels.int() - back.int()).unique().tolist()) <= {0, 1}


def test_uint8_frames_truncates_and_clips() -> None:
    video = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 2.0]).view(1, 1, 1, 1, 6).expand(1, 3, 1, 1, 6)
    assert preprocess.uint8_frames(video)[0, 0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]


@pytest.mark.parametrize(
    ("size", "padded"), [((9, 32, 48), (9, 32, 48)), ((1, 16, 16), (1, 16, 16)), ((6, 33, 47), (9, 48, 48))]
)
def test_padding_repeats_the_last_frame_row_and_column(
    size: tuple[int, int, int], padded: tuple[int, int, int]
) -> None:
    frames, height, width = size
    video = torch.rand(1, 3, *size)

    result = preprocess.padded_video(video, 4, 16)

    assert result.shape == (1, 3, *padded)
    assert torch.equal(result[:, :, :frames, :height, :width], video)
    assert torch.equal(result[:, :, -1, :height, :width], video[:, :, -1])
    assert torch.equal(result[:, :, 0, -1, :width], video[:, :, 0, -1])
    assert torch.equal(result[:, :, 0, :height, -1], video[:, :, 0, :, -1])
