"""From the CPU to a device, which is not waited for (not in the paper)."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device.

    A GPU takes it from pinned memory when it comes to it, and PyTorch keeps that memory until then.
    It keeps no other, so on other devices (Apple's) a copy in the background could read what is
    freed by then: there the copy is waited for.
    """
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
