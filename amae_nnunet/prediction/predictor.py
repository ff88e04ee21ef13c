"""nnU-Net's predictor, which on a GPU predicts the mirrored copies of a window together.

Stock nnU-Net shows a window and its up to seven mirrored copies to the network one after the other.
All have the same contrasts, so they pack into one batch that pays for these alone. The sum is taken
in stock nnU-Net's order, but a batch may round otherwise than a window by itself. On a CPU, where a
window of usual size fills the processor, copies stay one by one, and results are stock nnU-Net's
bit for bit. Not in the paper.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor


class MirrorBatchPredictor(nnUNetPredictor):
    """Predicts up to ``copies`` mirrored copies of a window as one batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.copies = 8 if self.device.type == "cuda" else 1

    @torch.inference_mode()
    def _internal_maybe_mirror_and_predict(self, x: Tensor) -> Tensor:
        """Logits of a window (1, C, Z, Y, X), the mean over its mirrored copies.

        Where memory is short, it halves the number of copies in a batch, for good.
        """
        while self.copies > 1 and self.use_mirroring and self.allowed_mirroring_axes:
            try:
                return self._mirrored(x)
            except torch.cuda.OutOfMemoryError:
                self.copies //= 2
        return super()._internal_maybe_mirror_and_predict(x)

    def _mirrored(self, x: Tensor) -> Tensor:
        axes = [axis + 2 for axis in self.allowed_mirroring_axes]
        flips = [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]
        total: Tensor | None = None
        for first in range(0, len(flips), self.copies):
            group = flips[first : first + self.copies]
            logits = self.network(torch.cat([torch.flip(x, flip) for flip in group]))
            for one, flip in zip(logits.split(1), group, strict=True):
                total = one.clone() if total is None else total.add_(torch.flip(one, flip))
        assert total is not None
        return total.div_(len(flips))
