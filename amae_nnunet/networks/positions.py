"""Positional embedding (section 2.2: sinusoidal or learnable, the same for all contrasts).

The sinusoidal one is a fixed function of the token's centre in the patch in millimetres (not in
the paper, which has one grid): the same place has the same embedding on any grid. With c the
centre and K = E // 6 periods from 32 mm, two tokens of 16 voxels at 1 mm, up to 512 mm, twice a
head, each axis contributes::

    sin(2 pi c / p_k), cos(2 pi c / p_k)          p_k = 32 mm * 16^(k / K),  k = 0..K-1

and what E leaves over is zero. The transformer's own periods (Vaswani et al. 2017: from 2 pi to
10000 * 2 pi tokens) would leave three of four numbers the same all over a head, and neighbouring
tokens all but equal; what that costs a short pre-training is in ``docs/results.md``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amae_nnunet.config import Axes, ModelConfig
from amae_nnunet.networks.resample import along_axes, interpolation_matrix

SHORTEST_MM, LONGEST_MM = 32.0, 512.0


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
    number = embed_dim // 6
    steps = torch.arange(number, dtype=torch.float64) / max(1, number)
    periods = SHORTEST_MM * (LONGEST_MM / SHORTEST_MM) ** steps
    centres = torch.meshgrid(
        *(
            (torch.arange(n, dtype=torch.float64) + 0.5) * mm
            for n, mm in zip(grid_size, token_mm, strict=True)
        ),
        indexing="ij",
    )
    angles = [2 * math.pi * centre.reshape(-1, 1) / periods for centre in centres]  # (L, K) an axis
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
