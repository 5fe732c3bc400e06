# SPDX-License-Identifier: GPL-3.0-or-later
"""The `depth-pro` source: sharp depth in metres and the lens, one frame at a time, through transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from ...errors import Ex4dError
from ...models.store import find
from ...progress import Reporter
from ...torch_device import torch_device
from ..network_frames import as_tensor, counted_values, enlarged, per_frame
from ..network_loading import invalid, load_library_model, running
from ..registry import DepthClip, PlatePass

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

MODEL: Final = "depth-pro"
_NORMALISED_BY: Final = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_INVERSE_LIMITS: Final = (1e-4, 1e4)
"""1 / metres: as its authors limit it."""
_FOV_LIMITS: Final = (1.0, 175.0)
_ZOOM: Final = 1.15


class DepthPro:
    """The `depth-pro` source. It always sees the frame as one square of the size it was trained with.

    Args:
        device: "auto", "cpu", "cuda", …
    """

    name = "depth-pro"
    title = "Depth Pro"
    licence = "Apple Machine Learning Research Model (research only)"
    needs_download = True

    def __init__(self, device: str = "auto") -> None:
        self._place = find(MODEL)
        self._device = device

    def estimate(self, plate: PlatePass, frame_count: int, size: tuple[int, int], reporter: Reporter) -> DepthClip:
        """Runs the network over the clip now, holding one frame at a time; enlarges each frame when asked.

        The network's map is inverse depth for a lens as long as the frame is wide. One lens is taken for the clip,
        the median of what the frames say, so that neither the depth nor the camera breathes.

        Raises:
            Ex4dError: `model_invalid`, `bad_request`, `out_of_memory`; `depth_invalid` for a frame of which nothing
                is a number; `cancelled`.
        """
        fields: list[float] = []
        predict, side = self._network(fields)
        with running(self.title):
            maps, counted = per_frame(plate, frame_count, (side, side), predict, self.title, reporter)
        fov = clip_fov(counted_values(fields, counted), self.title, reporter)
        width_per_focal = 2.0 * np.tan(np.radians(fov) / 2.0)

        def inverse_z(_: int, values: Array) -> Array:
            return np.clip(values * np.float32(width_per_focal), *_INVERSE_LIMITS)

        focal = size[0] / width_per_focal
        return DepthClip(
            frames=enlarged(plate, maps, inverse_z, reporter),
            intrinsics=np.array([[focal, 0.0, size[0] / 2], [0.0, focal, size[1] / 2], [0.0, 0.0, 1.0]]),
            camera_to_world=None,
            scale="metric",
            note=f"Depth is from Depth Pro, in metres, with a horizontal field of view of {fov:.1f}°.",
            lens_is_estimate=True,
        )

    def _network(self, fields: list[float]) -> tuple[Callable[[Image], Array], int]:
        """A frame → the network's map; the side it wants. Each call adds the frame's field of view in degrees."""
        import torch
        from transformers import DepthProForDepthEstimation

        device = torch_device(self._device)
        network = load_library_model(DepthProForDepthEstimation, self._place, torch.float32).to(device)
        if not network.config.use_fov_model:
            raise invalid(self._place, self.title, "they have no part for the field of view")
        side = round(network.config.patch_size / min(network.config.scaled_images_ratios))

        def predict(image: Image) -> Array:
            said = network(pixel_values=as_tensor([image], _NORMALISED_BY).to(device))
            fields.append(float(said.field_of_view.flatten()[0]))
            result: Array = said.predicted_depth[0].float().cpu().numpy()
            return result

        return predict, side


def clip_fov(fields: list[float], title: str, reporter: Reporter) -> float:
    """One field of view in degrees for a clip: the median of its frames' usable ones.

    Raises:
        Ex4dError: `depth_invalid` if no frame has a usable one.
    """
    low, high = _FOV_LIMITS
    known = np.array([value for value in fields if low < value < high])
    if not known.size:
        raise Ex4dError(
            "depth_invalid",
            f"{title} found no lens for any frame of the clip.",
            "Choose another depth source.",
        )
    least, middle, most = np.quantile(known, (0.05, 0.5, 0.95))
    if np.tan(np.radians(most) / 2) > _ZOOM * np.tan(np.radians(least) / 2):
        reporter.log(
            f"The lens seems to zoom (field of view {least:.0f}° to {most:.0f}°); one of {middle:.0f}° is taken for "
            "the whole clip. Split a clip that zooms."
        )
    return float(middle)
