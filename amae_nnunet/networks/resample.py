"""Linear interpolation of volumes, an axis at a time, as matrices (not in the paper).

Sample i of the new axis lies at place ``(i + 1/2) * step - 1/2`` of the old one, with ``step`` the
width of a new sample in old ones. Between two old samples their values are mixed; beyond the first
and the last one theirs are held.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def interpolation_matrix(old: int, new: int, step: float) -> Tensor:
    """The weights of the old samples in each new one, (new, old), in float64."""
    samples = torch.arange(max(old, new), dtype=torch.float64)
    place = ((samples[:new] + 0.5) * step - 0.5).clamp(0, old - 1)
    return (1 - (place[:, None] - samples[:old]).abs()).clamp(min=0)


def along_axes(volumes: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Apply a matrix (new, old) along each axis of volumes (..., Z, Y, X)."""
    z, y, x = (matrix.to(volumes) for matrix in matrices)
    return torch.einsum("az,by,cx,...zyx->...abc", z, y, x, volumes)
