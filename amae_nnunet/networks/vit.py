"""The ViT encoder over the tokens of all contrasts of a study (section 2.2).

Pre-norm transformer blocks with timm's parameter names (``blocks.0.attn.qkv.weight``, ...), so
that ViT weights and readers of timm find their way; no class token. A study is one sequence; the
studies of a batch are packed in one list, and attention stays inside each of them.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from amae_nnunet.config import ModelConfig
from amae_nnunet.networks.attention import Segments, attend
from amae_nnunet.networks.positions import PositionEmbedding
from amae_nnunet.networks.tokenizer import DynamicConvTokenizer

LAYER_NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention inside each study."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        """(T, E) to (T, E)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (T, 3, heads, width)
        q, k, v = qkv.unbind(dim=1)
        return self.proj(attend(q, k, v, segments).flatten(1))


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(T, E) to (T, E)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """``x + Attention(LN(x))``, then ``x + MLP(LN(x))``.

    Args:
        embed_dim: E.
        num_heads: of the attention.
        mlp_ratio: width of the MLP's hidden layer over E.
        activation_checkpointing: keep the input of the block alone, and compute the block again in
            the backward pass (Chen et al. 2016): less memory, a third more time, the same
            gradients. Not in the paper.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        mlp_ratio: float,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        self.norm1 = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(embed_dim, num_heads)
        self.norm2 = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio))

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        """(T, E) to (T, E)."""
        if self.activation_checkpointing:
            return checkpoint(self.residual, x, segments, use_reentrant=False)
        return self.residual(x, segments)

    def residual(self, x: Tensor, segments: Segments) -> Tensor:
        """(T, E) to (T, E)."""
        x = x + self.attn(self.norm1(x), segments)
        return x + self.mlp(self.norm2(x))


def init_weights(module: nn.Module) -> None:
    """MAE's initial values for a transformer, Xavier-uniform weights and zero biases, and one more.

    Keys start equal to queries (not in the paper; after Trockman and Kolter 2023, "Mimetic
    initialization of self-attention layers"), so that a token first attends to tokens like itself:
    to its place in the same and in other contrasts. ``docs/results.md`` has what that gains.
    """
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_uniform_(child.weight)
            nn.init.zeros_(child.bias)
    for child in module.modules():
        if isinstance(child, Attention):
            queries, keys, _ = child.qkv.weight.detach().chunk(3)
            keys.copy_(queries)


def tap_depths(depth: int, num_taps: int) -> list[int]:
    """Blocks after which hidden states are taken: 1/n, 2/n, ... n/n of the depth, rounded up."""
    return [math.ceil(depth * (tap + 1) / num_taps) for tap in range(num_taps)]


class ViT(nn.Module):
    """Positions, transformer blocks and the last norm: what all our encoders share."""

    def __init__(self, config: ModelConfig, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.pos_embed = PositionEmbedding(
            config.grid_size, config.token_mm, config.embed_dim, config.pos_embed == "learned"
        )
        self.blocks = nn.ModuleList(
            Block(
                config.embed_dim, config.encoder_heads, config.mlp_ratio, activation_checkpointing
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPS)
        init_weights(self.blocks)

    def encode(self, x: Tensor, segments: Segments, taps: list[int]) -> list[Tensor]:
        """Run the blocks.

        Args:
            x: embedded tokens (T, E).
            segments: the tokens of each study.
            taps: numbers of blocks (1..depth) after which the hidden states are wanted, ascending.

        Returns:
            The hidden states (T, E) of each tap; after the last block they are normed.
        """
        states = [x]
        for block in self.blocks:
            states.append(block(states[-1], segments))
        states[-1] = self.norm(states[-1])
        return [states[tap] for tap in taps]


class AdaptiveViT(ViT):
    """The encoder for any number of contrasts.

    A token's embedding is the tokenizer's, plus its position's (the same for all contrasts), plus
    its contrast's (the paper adds one in the decoder "again", so here too).
    """

    def __init__(self, config: ModelConfig, activation_checkpointing: bool = False) -> None:
        super().__init__(config, activation_checkpointing)
        self.depth = config.depth
        self.patch_embed = DynamicConvTokenizer(
            math.prod(config.token_size),
            config.num_contrasts,
            config.embed_dim,
            config.contrast_dim,
            config.contrast_vectors == "one_hot",
        )
        self.contrast_embed = nn.Embedding(config.num_contrasts, config.embed_dim)
        nn.init.normal_(self.contrast_embed.weight, std=0.02)

    def forward(
        self,
        voxels: Tensor,
        contrast: Tensor,
        position: Tensor,
        segments: Segments,
        taps: list[int] | None = None,
    ) -> list[Tensor]:
        """Encode tokens.

        Args:
            voxels: of K tokens of each slot, (M, K, p).
            contrast: channel of each slot, (M,).
            position: place of each token in the grid, (M, K), or (K,) if the same in all slots.
            segments: the studies in the list of M * K tokens.
            taps: see ``encode``; by default the last block only.

        Returns:
            One (M * K, E) a tap.
        """
        x = self.patch_embed(voxels, contrast) + self.pos_embed(position)
        x = x + self.contrast_embed(contrast)[:, None]
        return self.encode(x.flatten(0, 1), segments, taps or [self.depth])
