"""Keep absent contrasts zero through nnU-Net's augmentation.

An all-zero channel is an absent contrast (see ``networks.masking.present_contrasts``). Stock
Gaussian noise breaks that in about one sample of ten. Not in the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class KeepAbsentZero:
    """Wraps a transform: channels of the image that were all zero before it are zero after it."""

    def __init__(self, transform: Callable[..., dict[str, Any]]) -> None:
        self.transform = transform

    def __call__(self, **data: Any) -> dict[str, Any]:
        """``data["image"]`` is (C, Z, Y, X); everything else passes through."""
        absent = (data["image"] == 0).flatten(1).all(dim=1)
        data = self.transform(**data)
        data["image"][absent] = 0
        return data
