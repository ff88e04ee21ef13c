"""Peers of the pre-training benchmark, written from their published descriptions.

They reproduce the *geometry* that costs time (what is computed on how many tokens, by which kind of
attention), at equal encoder width, depth, MLP, crop and mask. They are not the peers' code, and
nothing of their training recipe is here.

``BMMAE``     Robinet et al., arXiv:2505.00568: one convolution per contrast over *all* its tokens,
              then the visible ones are kept; a class token; attention that writes out its matrix;
              the decoder (384 x 4, 12 heads) puts tokens back in order and predicts all of them.
``EvaMAE``    Wald et al., nnssl: one image at a time, so contrasts never meet; rotary and learned
              positions, separate q, k, v, a gated MLP with a norm inside; a decoder as wide as the
              encoder (2 blocks); transposed convolutions up to the voxels of the whole crop.
``monai_mae`` MONAI's own ``MaskedAutoEncoderViT``, one image at a time, if MONAI is installed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amae_nnunet.networks.masking import num_visible

TOKEN = 16
MASK_RATIO = 0.7


class PlainBlock(nn.Module):
    """A pre-norm block whose attention writes out the matrix of weights."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E)."""
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, T, width of a head)
        weights = (torch.einsum("bhqd,bhkd->bhqk", q, k) * q.shape[-1] ** -0.5).softmax(dim=-1)
        x = x + self.out(torch.einsum("bhqk,bhkd->bqhd", weights, v).flatten(2))
        return x + self.mlp(self.norm2(x))


class BMMAE(nn.Module):
    """BM-MAE's geometry for one study with N of ``contrasts`` contrasts."""

    def __init__(self, contrasts: int, width: int, depth: int, grid: int) -> None:
        super().__init__()
        tokens = grid**3
        self.tokenizers = nn.ModuleList(nn.Conv3d(1, width, TOKEN, TOKEN) for _ in range(contrasts))
        self.register_buffer("position", torch.randn(tokens, width))
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(PlainBlock(width, width // 64) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        half = width // 2
        self.embed = nn.Linear(width, half)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, half))
        self.register_buffer("decoder_position", torch.randn(tokens, half))
        self.contrast = nn.Parameter(torch.zeros(contrasts, 1, half))
        self.decoder = nn.ModuleList(PlainBlock(half, width // 64) for _ in range(4))
        self.decoder_norm = nn.LayerNorm(half)
        self.head = nn.Linear(half, TOKEN**3)

    def forward(self, images: Tensor, masked: Tensor, target: Tensor) -> Tensor:
        """Loss of images (B, N, Z, Y, X) with masked (B, N, L) and all voxels (B * N, L, p)."""
        b, n = images.shape[:2]
        tokens = [
            convolution(images[:, row, None]).flatten(2).transpose(1, 2) + self.position
            for row, convolution in zip(range(n), self.tokenizers, strict=False)
        ]
        order = masked.flatten(1).to(torch.uint8).argsort(dim=1, stable=True)  # (B, N * L)
        visible = n * num_visible(masked.shape[2], MASK_RATIO)
        x = torch.cat(tokens, dim=1)
        x = x.gather(1, order[:, :visible, None].expand(-1, -1, x.shape[-1]))
        x = torch.cat([self.class_token.expand(b, -1, -1).to(x.dtype), x], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.embed(self.norm(x))
        hidden = self.mask_token.expand(b, order.shape[1] - visible, -1).to(x.dtype)
        restored = torch.cat([x[:, 1:], hidden], dim=1)
        back = order.argsort(dim=1)[:, :, None].expand(-1, -1, x.shape[-1])
        places = (self.contrast[:n] + self.decoder_position).flatten(0, 1)
        x = torch.cat([x[:, :1], restored.gather(1, back) + places], dim=1)
        for block in self.decoder:
            x = block(x)
        pred = self.head(self.decoder_norm(x))[:, 1:].reshape_as(target)
        error = (pred - target).square().mean(dim=-1)
        masked = masked.flatten(0, 1)
        return (error * masked).sum() / masked.sum()


class EvaBlock(nn.Module):
    """A block with rotary positions and a gated MLP with a norm inside (EVA-02)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        hidden = width * 8 // 3
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(n) for n in (width, width, hidden))
        self.q, self.v, self.out = (nn.Linear(width, width) for _ in range(3))
        self.k = nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        """(B, T, E) to (B, T, E); ``rotation`` (B, T, 2, width of a head) holds sines, cosines."""
        y = self.norm1(x)
        q, k, v = (layer(y).unflatten(-1, (self.heads, -1)) for layer in (self.q, self.k, self.v))
        sin, cos = rotation[:, :, None].unbind(dim=3)
        q, k = (
            (t * cos + torch.stack([-t[..., 1::2], t[..., ::2]], -1).flatten(-2) * sin).to(v.dtype)
            for t in (q, k)
        )
        y = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
        x = x + self.out(y.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(self.norm3(F.silu(self.gate(y)) * self.up(y)))


class VoxelNorm(nn.LayerNorm):
    """A layer norm over the channels of (B, C, Z, Y, X)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) to the same."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class EvaMAE(nn.Module):
    """EvaMAE's geometry; images are the batch."""

    def __init__(self, width: int, depth: int, grid: int) -> None:
        super().__init__()
        self.grid, heads = grid, max(1, width // 96)
        self.tokenizer = nn.Conv3d(1, width, TOKEN, TOKEN)
        self.position, self.decoder_position = (
            nn.Parameter(torch.randn(grid**3, width)) for _ in range(2)
        )
        self.register_buffer("rotation", torch.randn(grid**3, 2, width // heads))
        self.blocks = nn.ModuleList(EvaBlock(width, heads) for _ in range(depth))
        self.decoder = nn.ModuleList(EvaBlock(width, heads) for _ in range(2))
        self.norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        stages, channels = int(math.log2(TOKEN)), [width]
        for stage in range(1, stages):
            wide = width / (width / 2) ** (stage / stages)
            channels.append(max(8, round(wide / 8) * 8))
        steps: list[nn.Module] = []
        for before, after in zip(channels, [*channels[1:], 1], strict=True):
            steps += [nn.ConvTranspose3d(before, after, 2, 2), VoxelNorm(after), nn.GELU()]
        self.up = nn.Sequential(*steps[:-2])

    def forward(self, images: Tensor, masked: Tensor, hidden: Tensor) -> Tensor:
        """Loss of images (N, Z, Y, X) with masked (N, L), and ``hidden`` voxels (N, Z, Y, X)."""
        n, k = len(images), num_visible(masked.shape[1], MASK_RATIO)
        x = self.tokenizer(images[:, None]).flatten(2).transpose(1, 2) + self.position
        keep = masked.to(torch.uint8).argsort(dim=1, stable=True)[:, :k]  # (N, K)
        rows = torch.arange(n, device=x.device)[:, None]
        x, rotation = x[rows, keep], self.rotation[keep]
        for block in self.blocks:
            x = block(x, rotation)
        x = self.norm(x)
        restored = self.mask_token.to(x.dtype).repeat(n, masked.shape[1], 1)
        restored = restored.index_put((rows, keep), x) + self.decoder_position
        for block in self.decoder:
            restored = block(restored, self.rotation[None])
        volume = self.decoder_norm(restored).transpose(1, 2).unflatten(2, (self.grid,) * 3)
        error = (self.up(volume)[:, 0] - images.detach()).square()
        return (error * hidden).sum() / hidden.sum()


def monai_mae(width: int, depth: int, grid: int) -> nn.Module | None:
    """MONAI's masked autoencoder for one image, its decoder 384 x 4 at a width of 768, or None."""
    try:
        from monai.networks.nets import MaskedAutoEncoderViT
    except ImportError:
        return None
    heads = width // 64
    return MaskedAutoEncoderViT(
        1, grid * TOKEN, TOKEN, width, 4 * width, depth, heads,
        decoder_hidden_size=width // 2, decoder_mlp_dim=2 * width, decoder_num_heads=heads,
        spatial_dims=3, qkv_bias=True,
    )  # fmt: skip
