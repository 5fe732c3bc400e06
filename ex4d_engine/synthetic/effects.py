# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lens, a shutter, a sensor and a codec do to a picture. All on (I, 3, H, W), I = B·F, frame by frame."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch.nn.functional import avg_pool2d, conv2d, grid_sample, interpolate, pad

from .draw import Draw

# pixels, of the discs between which defocus is mixed: close enough that a point of light looks like one disc, not two
BLUR_RADII: Final = tuple(2 ** (step / 2) for step in range(11))
HIGHLIGHT: Final = 4.0  # light of a sharp pixel that is kept, in units of white
SHUTTER_SAMPLES: Final = 7


def encode_display(linear: torch.Tensor) -> torch.Tensor:
    """Linear light to sRGB in [0, 1], highlights clipped."""
    light = linear.clamp(0, 1)
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp_min(1e-8) ** (1 / 2.4) - 0.055)


def defocus(light: torch.Tensor, depth: torch.Tensor, focus: torch.Tensor, aperture: torch.Tensor) -> torch.Tensor:
    """Blurs what lies before or behind the plane in focus.

    The picture is taken apart into layers of like blur, each is spread by its disc, and they are laid over each
    other from far to near: near things spread over what is behind them, far ones stay behind sharp edges.

    Args:
        light: (I, 3, H, W) linear RGB.
        depth: (I, H, W) metres, inf for sky.
        focus: (I,) metres.
        aperture: (I,) pixels, the blur's radius at infinity.
    """
    signed = blur_radius(depth, focus, aperture)
    # ±1 at 1 px, then one more for each disc, ±11 at 32 px; 0 is sharp
    size = signed.abs()
    position = signed.sign() * torch.where(size < 1, (2 * size - 1).clamp_min(0), 1 + 2 * torch.log2(size.clamp_min(1)))
    total = torch.zeros_like(light)
    covered = torch.zeros_like(light[:, :1])
    ends = torch.stack(position.flatten(1).aminmax(dim=1), 1)
    nearest, farthest = torch.stack([ends[:, 0].floor(), ends[:, 1].ceil()]).long().cpu()
    for layer in range(int(farthest.max()), int(nearest.min()) - 1, -1):
        # only the pictures that have something at this layer: most have few of them
        some = ((nearest <= layer) & (layer <= farthest)).nonzero()[:, 0].to(light.device)
        share = (1 - (position[some] - layer).abs()).clamp_min(0)[:, None]
        here = torch.cat([light[some] * share, share], 1)
        if layer:
            here = _disc(here, BLUR_RADII[abs(layer) - 1])
        # what lies behind is covered; shares of neighbouring layers add up to one, so this is exact inside a surface
        opaque = here[:, 3:].clamp(0, 1)
        total[some] = here[:, :3] + total[some] * (1 - opaque)
        covered[some] = opaque + covered[some] * (1 - opaque)
    return total / covered.clamp_min(1e-3)


def blur_radius(depth: torch.Tensor, focus: torch.Tensor, aperture: torch.Tensor) -> torch.Tensor:
    """Radius of a point's disc in pixels, negative before the plane in focus: (I, H, W), arguments as for `defocus`."""
    signed = aperture[:, None, None] * (1 - focus[:, None, None] / depth)
    return signed.clamp(-BLUR_RADII[-1], BLUR_RADII[-1])


def tame_highlights(light: torch.Tensor, radius: torch.Tensor | float) -> torch.Tensor:
    """Limits points much brighter than white, which would make a whole pixel white though they fill a part of it.

    What is out of focus spreads over its disc, and may be as much brighter as the disc is larger than a pixel.

    Args:
        light: (I, 3, H, W).
        radius: (I, H, W) pixels of the disc, or 0 where nothing is blurred.
    """
    limit = HIGHLIGHT * (1 + torch.as_tensor(radius, device=light.device).square())
    return torch.minimum(light, limit.unsqueeze(-3) if limit.dim() else limit)


def _disc(image: torch.Tensor, radius: float) -> torch.Tensor:
    """The mean over a disc; large ones at reduced size."""
    factor = max(1, int(radius / 4))
    small = avg_pool2d(image, factor, ceil_mode=True, count_include_pad=False) if factor > 1 else image
    reach = radius / factor
    size = math.ceil(reach + (factor > 1))
    grid = torch.arange(-size, size + 1, device=image.device).float()
    # a reduced disc's rim is softer, or its steps would show when it is enlarged
    rim = 1.0 if factor == 1 else 1.6
    kernel = ((reach - torch.hypot(grid[:, None], grid[None])) / rim + 0.5).clamp(0, 1)
    kernel = (kernel / kernel.sum())[None, None]
    images, channels, height, width = small.shape
    padded = (
        pad(small, (size, size, size, size), mode="replicate") if min(height, width) > size else pad(small, (size,) * 4)
    )
    blurred = conv2d(padded.view(images * channels, 1, height + 2 * size, width + 2 * size), kernel)
    blurred = blurred.view(images, channels, height, width)
    if factor == 1:
        return blurred
    full = interpolate(blurred, scale_factor=factor, mode="bilinear", align_corners=False)
    return full[:, :, : image.shape[2], : image.shape[3]]


def motion_blur(light: torch.Tensor, flow: torch.Tensor, shutter: torch.Tensor) -> torch.Tensor:
    """The mean along each pixel's path while the shutter is open, centred on the exposure.

    Args:
        light: (I, 3, H, W).
        flow: (I, 2, H, W) pixels a frame.
        shutter: (I,) share of a frame.
    """
    height, width = light.shape[-2:]
    longest = 0.06 * width
    path = (flow * shutter[:, None, None, None]).clamp(-longest, longest)
    x = torch.arange(width, device=light.device) + 0.5
    y = torch.arange(height, device=light.device)[:, None] + 0.5
    total = torch.zeros_like(light)
    for step in range(SHUTTER_SAMPLES):
        share = (step + 0.5) / SHUTTER_SAMPLES - 0.5
        grid = torch.stack([(x + path[:, 0] * share) * 2 / width - 1, (y + path[:, 1] * share) * 2 / height - 1], -1)
        total += grid_sample(light, grid, padding_mode="border", align_corners=False)
    return total / SHUTTER_SAMPLES


def develop(light: torch.Tensor, draw: Draw, batch: int, generator: torch.Generator) -> torch.Tensor:
    """Sensor, tone and codec: linear light to a display-referred picture in [0, 1].

    Args:
        light: (I, 3, H, W), I = batch · frames, the frames of a clip in a row.
        draw: for what belongs to a camera, on the CPU.
        generator: for the noise, on the pictures' device.
    """
    images, _, height, width = light.shape
    frames, device = images // batch, light.device
    one = (batch, 1)

    def each(values: torch.Tensor) -> torch.Tensor:
        """(B, F or 1, …) to (I, …, 1, 1)."""
        spread = values.expand(batch, frames, *values.shape[2:]).reshape(images, *values.shape[2:])
        return spread.to(device).reshape(images, -1, 1, 1)

    # exposure by the clip's own brightness as a camera meters it, a little off, and drifting; white balance likewise
    t = torch.linspace(-0.5, 0.5, frames)[None] if frames > 1 else torch.zeros(1, 1)
    metered = light.reshape(batch, -1).pow(0.5).mean(1).clamp_min(0.02).square()
    aim = torch.exp(draw.normal((batch,), 0.55)) * 0.17
    gain = (aim.to(device) / metered).clamp(0.25, 6.0)
    drift = torch.exp(draw.normal(one, 0.12) * draw.coin(one, 0.4) * t)
    balance = torch.exp(
        draw.normal((batch, 1, 3), 0.07)
        + draw.normal((batch, 1, 3), 0.04) * draw.coin((batch, 1, 1), 0.3) * t[..., None]
    )
    light = light * (gain.repeat_interleave(frames)[:, None, None, None] * each(drift) * each(balance))

    x = (torch.arange(width, device=device) + 0.5) / width * 2 - 1
    y = ((torch.arange(height, device=device) + 0.5) / height * 2 - 1)[:, None]
    light = light * (1 - each(draw.uniform(one, 0.0, 0.3) * draw.coin(one, 0.6)) * (x * x + y * y) / 2)
    # veiling glare lifts the blacks
    glare = each(draw.uniform(one, 0.0, 0.08) * draw.coin(one, 0.5))
    light = light + glare * (
        avg_pool2d(light, (min(64, height), min(64, width)), ceil_mode=True).mean((2, 3), keepdim=True) - light
    )

    # in little light a sensor's gain is turned up, and its noise with it
    dim = torch.where(draw.coin(one, 0.08), draw.uniform(one, 2.0, 4.0), 1.0)
    strength = each(draw.log_uniform(one, 0.001, 0.03) * dim * draw.coin(one, 0.85))
    grain = torch.randn(light.shape, generator=generator, device=device)
    coarse = interpolate(
        avg_pool2d(grain, 2, ceil_mode=True) * 1.5, size=(height, width), mode="bilinear", align_corners=False
    )
    soft = each(draw.uniform(one))
    light = light + strength * (grain + soft * (coarse - grain)) * (light.clamp_min(0) * 0.9 + 0.03).sqrt()

    # a shoulder for the highlights, more or less of it, then contrast and saturation as cameras add them
    shoulder = each(draw.uniform(one, 0.0, 0.9))
    light = light.clamp_min(0)
    light = light * (1 - shoulder) + shoulder * (1 - torch.exp(-1.35 * light))
    picture = encode_display(light)
    picture = picture + each(draw.uniform(one, -0.15, 0.5)) * (picture * picture * (3 - 2 * picture) - picture)
    grey = picture.mean(1, keepdim=True)
    colourful = torch.where(draw.coin(one, 0.04), 0.0, draw.uniform(one, 0.8, 1.5))
    picture = (grey + (picture - grey) * each(colourful)).clamp(0, 1)
    picture = _sharpen(picture, each(draw.uniform(one, -0.5, 0.7)))
    quality = torch.where(draw.coin(one, 0.75), draw.log_uniform(one, 0.12, 2.5), 0.0)
    return _compress(picture, each(quality))


def _sharpen(picture: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    """Negative amounts soften, as a resized or cheap lens's picture is soft."""
    tap = torch.tensor([0.25, 0.5, 0.25], device=picture.device)
    kernel = (tap[:, None] * tap[None])[None, None].expand(3, 1, 3, 3)
    soft = conv2d(pad(picture, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    return (picture + amount * (picture - soft)).clamp(0, 1)


def _compress(picture: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Rounds the 8 × 8 cosine coefficients of luma and half-size chroma, as JPEG and video codecs do. 0 = untouched."""
    height, width = picture.shape[-2:]
    padded = pad(picture, (0, -width % 16, 0, -height % 16), mode="replicate")
    r, g, b = padded.unbind(1)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    chroma = avg_pool2d(torch.stack([(b - luma) * 0.564, (r - luma) * 0.713], 1), 2)
    frequency = torch.arange(8, device=picture.device).float()
    step = (frequency[:, None] + frequency[None] + 1) * 0.011  # coarser with frequency, like the standard's tables
    step = step * strength.clamp_min(1e-3).view(-1, 1, 1, 1, 1, 1)
    luma = _rounded(luma[:, None], step)[:, 0]
    chroma = interpolate(_rounded(chroma, step * 1.6), scale_factor=2.0, mode="bilinear", align_corners=False)
    blue, red = luma + chroma[:, 0] / 0.564, luma + chroma[:, 1] / 0.713
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    coded = torch.stack([red, green, blue], 1)[..., :height, :width].clamp(0, 1)
    return torch.where(strength > 0, coded, picture)


def _rounded(planes: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Quantised and back: (I, C, H, W) in multiples of 8, steps (I, 1, 1, 1, 8, 8)."""
    k = torch.arange(8, device=planes.device).float()
    basis = torch.cos((2 * k[None] + 1) * k[:, None] * (math.pi / 16)) * 0.5
    basis[0] *= math.sqrt(0.5)
    images, channels, height, width = planes.shape
    blocks = planes.view(images, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    coefficients = basis @ blocks @ basis.T
    back = basis.T @ (torch.round(coefficients / step) * step) @ basis
    return back.transpose(3, 4).reshape(images, channels, height, width)
