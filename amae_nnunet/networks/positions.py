"""Positional embedding (section 2.2: sinusoidal or learnable, the same for all contrasts).

The sinusoidal one is a fixed function of the token's centre in the patch in millimetres (not in
the paper, which has one grid): the same place has the same embedding on any grid. With c the
centre in units of 16 mm and K = E // 6 frequencies, each axis contributes::

    sin(c * w_k), cos(c * w_k)          w_k = 10000^(-k / K),  k = 0..K-1

and what E leaves over is zero. At 1 mm and tokens of 16 voxels a unit is one token, as in ViT.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amae_nnunet.config import Axes

UNIT_MM = 16.0


def sincos_positions(
    grid_size: Axes, token_mm: tuple[float, float, float], embed_dim: int
) -> Tensor:
    """The fixed embedding.

    Args:
        grid_size: tokens along (z, y, x).
        token_mm: size of a token in mm along (z, y, x).
        embed_dim: E, at least 6.

    Returns:
        (L, E) in the default dtype, tokens in (z, y, x) order.
    """
    frequencies = embed_dim // 6
    omega = 10000.0 ** (-torch.arange(frequencies, dtype=torch.float64) / max(1, frequencies))
    centres = torch.meshgrid(
        *(
            (torch.arange(n, dtype=torch.float64) + 0.5) * mm / UNIT_MM
            for n, mm in zip(grid_size, token_mm, strict=True)
        ),
        indexing="ij",
    )
    angles = [centre.reshape(-1, 1) * omega for centre in centres]  # (L, K) an axis
    table = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return F.pad(table, (0, embed_dim - table.shape[1])).to(torch.get_default_dtype())


def resize_positions(table: Tensor, grid_size: Axes, new_grid_size: Axes) -> Tensor:
    """Resize a learned table (L, E) to another grid, trilinearly (not in the paper)."""
    if grid_size == new_grid_size:
        return table
    volume = table.T.reshape(1, -1, *grid_size)
    volume = F.interpolate(volume, size=new_grid_size, mode="trilinear", align_corners=False)
    return volume.flatten(2)[0].T


class PositionEmbedding(nn.Module):
    """The table of positions of one grid; ``learned`` makes it a parameter that starts there."""

    def __init__(
        self,
        grid_size: Axes,
        token_mm: tuple[float, float, float],
        embed_dim: int,
        learned: bool = False,
    ) -> None:
        super().__init__()
        table = sincos_positions(grid_size, token_mm, embed_dim)
        if learned:
            self.weight = nn.Parameter(table)
        else:
            self.register_buffer("weight", table, persistent=False)

    def forward(self, position: Tensor) -> Tensor:
        """Embeddings (..., E) of token positions (...), each in 0..L-1."""
        return self.weight[position]
