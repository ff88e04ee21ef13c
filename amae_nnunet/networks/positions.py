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

from amae_nnunet.config import Axes, ModelConfig
from amae_nnunet.networks.resample import along_axes, interpolation_matrix

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


def resize_positions(table: Tensor, config: ModelConfig, new_config: ModelConfig) -> Tensor:
    """A learned table (L, E) for another grid or other tokens (not in the paper).

    A learned table starts as the fixed one. What it has learnt on top of that is read at the same
    place in mm, linearly, and held beyond the old grid; the fixed part is computed anew.
    """
    old, new = ((c.grid_size, c.token_mm) for c in (config, new_config))
    if old == new:
        return table
    matrices = [
        interpolation_matrix(n, new_n, new_mm / mm)
        for n, mm, new_n, new_mm in zip(*old, *new, strict=True)
    ]
    fixed, new_fixed = (sincos_positions(*grid, table.shape[1]).to(table) for grid in (old, new))
    learnt = (table - fixed).T.unflatten(1, config.grid_size)  # (E, z, y, x)
    return new_fixed + along_axes(learnt, matrices).flatten(1).T


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
