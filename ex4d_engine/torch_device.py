# SPDX-License-Identifier: GPL-3.0-or-later
"""The device that a user names, or the best one there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import Ex4dError

if TYPE_CHECKING:
    import torch


def torch_device(name: str, *, with_mps: bool = True) -> torch.device:
    """The device called `name`; "auto" is the first graphics card, else the CPU.

    Args:
        name: "auto", or torch's name of a device.
        with_mps: whether "auto" may be Apple's graphics processor; not for work that was never tried on it.

    Raises:
        Ex4dError: `bad_request` for a device that this machine or this torch does not have; `out_of_memory` for one
            that others fill.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if with_mps and torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except torch.OutOfMemoryError as error:
        raise Ex4dError(
            "out_of_memory", f"The memory of device {name} is full.", "Close other programs that use it, or choose cpu."
        ) from error
    except (RuntimeError, AssertionError, ImportError) as error:  # torch imports a rare device's module, if it is there
        raise Ex4dError("bad_request", f"There is no device {name!r} here.", "Use auto, cpu or cuda.") from error
    return device
