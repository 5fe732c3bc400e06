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
        Ex4dError: `bad_request` for a device that this machine or this torch does not have.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if with_mps and torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise Ex4dError("bad_request", f"There is no device {name!r} here.", "Use auto, cpu or cuda.") from error
    return device
