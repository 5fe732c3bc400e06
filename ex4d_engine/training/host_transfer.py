# SPDX-License-Identifier: GPL-3.0-or-later
"""Small values on their way to a graphics card, which must not have to finish its work before it takes them."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """`values` of the CPU on the device, without waiting for it: a copy from ordinary memory would empty its queue."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
