# SPDX-License-Identifier: GPL-3.0-or-later
"""From rendered colour and mask frames to the tensors the model is conditioned on.

Video tensors are (1, 3, F, H, W) float32 in [−1, 1]. A mask is 255 where the plate saw the surface.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import torch
from torch.nn import functional

# Mean and deviation of the images CLIP was trained on, RGB in [0, 1] (OpenAI CLIP, also OpenCLIP ViT-H).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

EROSION_RADIUS = 4
"""How far the seen region shrinks by default, pixels at the working size."""
EROSION_KERNEL = 2 * EROSION_RADIUS + 1
"""Side of the default erosion, pixels: one more than the largest of the 2…8 the weights were trained with."""


def evenly_spaced_frames(available: int, wanted: int) -> np.ndarray:
    """(wanted,) indices into `available` frames, first and last included; fractions are cut off, not rounded."""
    return np.linspace(0, available - 1, wanted, dtype=int)


def fixed_erosion(num_frames: int, kernel: int = EROSION_KERNEL) -> list[int]:
    """The same erosion for every frame: the edge of the seen region does not flicker."""
    return [kernel] * num_frames


def no_erosion(num_frames: int) -> list[int]:
    """Kernels that leave masks as they are, for masks that are eroded already."""
    return [1] * num_frames


def random_erosion(num_frames: int, seed: int) -> list[int]:
    """A kernel of 2…8 pixels drawn for each frame: the reference's augmentation, made repeatable by `seed`."""
    draw = random.Random(seed)  # noqa: S311 - the generator the reference draws from
    return [draw.randint(2, 8) for _ in range(num_frames)]


def eroded_mask(mask: np.ndarray, kernel: int) -> np.ndarray:
    """(H, W) uint8 mask with the seen region shrunk by a square of `kernel` pixels; edge pixels mix both sides.

    An even square reaches one pixel further to the top left, as in the reference. 1 leaves the mask as it is.
    """
    return cv2.erode(mask, np.ones((kernel, kernel), np.uint8))


def conditioning_videos(
    colours: Iterable[np.ndarray],
    masks: Iterable[np.ndarray],
    kernels: Sequence[int],
    size: tuple[int, int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two videos the pipeline takes.

    Args:
        colours: F frames (H, W, 3) uint8 RGB.
        masks: F frames (H, W) uint8, seen above 127.
        kernels: F erosion kernels, pixels at the output size.
        size: (height, width) to resample to bilinearly, aspect ratio not kept; the frames' own size if None.

    Returns:
        colour (1, 3, F, H, W) = RGB·M·2 − 1, so that unseen pixels are −1, and mask (1, 3, F, H, W) in {−1, 1}.

    Raises:
        ValueError: not as many colours as masks as kernels.
    """
    colour_frames, mask_frames = [], []
    for colour, mask, kernel in zip(colours, masks, kernels, strict=True):
        if size is not None:
            height, width = size
            colour, mask = cv2.resize(colour, (width, height)), cv2.resize(mask, (width, height))
        seen = torch.from_numpy(eroded_mask(mask, kernel) > 127)
        rgb = torch.from_numpy(np.ascontiguousarray(colour)).permute(2, 0, 1).float() / 255
        colour_frames.append(rgb * seen * 2 - 1)
        mask_frames.append(seen.float().expand(3, -1, -1) * 2 - 1)
    return torch.stack(colour_frames, dim=1)[None], torch.stack(mask_frames, dim=1)[None]


def first_frame(video: torch.Tensor) -> torch.Tensor:
    """The first frame (H, W, 3) uint8 of a (1, 3, F, H, W) video in [−1, 1].

    Truncated, not rounded: the weights were trained on images made so, and rounding moves the prediction by 6e-3.
    """
    return ((video[0, :, 0].float() * 0.5 + 0.5) * 255).to(torch.uint8).permute(1, 2, 0)


def image_tensor(image: torch.Tensor) -> torch.Tensor:
    """(1, 3, H, W) float32 in [−1, 1] of an (H, W, 3) uint8 image."""
    return image.permute(2, 0, 1)[None].float() * (2 / 255) - 1


def clip_pixel_values(image: torch.Tensor, size: int = 224) -> torch.Tensor:
    """CLIP's input (1, 3, size, size) float32 for an (H, W, 3) uint8 image.

    Bicubic, without antialiasing or crop, aspect ratio not kept: how the weights saw their images. CLIP's own
    image processor differs by up to 4.4 in the features.
    """
    pixels = functional.interpolate(image_tensor(image), size=(size, size), mode="bicubic", align_corners=False)
    mean = pixels.new_tensor(CLIP_MEAN).view(1, 3, 1, 1)
    std = pixels.new_tensor(CLIP_STD).view(1, 3, 1, 1)
    return (pixels * 0.5 + 0.5 - mean) / std


def uint8_frames(video: torch.Tensor) -> np.ndarray:
    """(F, H, W, 3) uint8 of a (1, 3, F, H, W) video in [−1, 1], truncated as in the reference."""
    frames = ((video[0].float() + 1) * 127.5).clip(0, 255).to(torch.uint8)
    return frames.permute(1, 2, 3, 0).cpu().numpy()


def padded_video(video: torch.Tensor, frame_step: int, multiple: int) -> torch.Tensor:
    """A (1, C, F, H, W) video extended to a length and size that the model takes.

    Frames become frame_step·k + 1 by repeating the last; height and width become multiples of `multiple` by
    repeating the bottom row and right column. Cut the result back to (F, H, W) with a plain slice.
    """
    frames, height, width = video.shape[2:]
    pads = (0, -width % multiple, 0, -height % multiple, 0, -(frames - 1) % frame_step)
    return functional.pad(video, pads, mode="replicate")
