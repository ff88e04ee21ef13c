"""Adaptive Masked Autoencoder, AMAE (section 2.2, figure 1).

Tokens are hidden in each contrast; the encoder sees the visible tokens of all contrasts of a study
as one sequence; a mask token stands in for each hidden one; positions and contrasts are added
again; a small transformer decodes; one linear projector turns tokens back into voxels::

    loss = mean over hidden voxels of (prediction - voxel)^2

The decoder's size and the loss's reduction are not in the paper, whose loss is "applied
exclusively to the masked patches" (section 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amae_nnunet.config import ModelConfig
from amae_nnunet.networks.masking import Slots, Tokens, all_tokens, select_tokens
from amae_nnunet.networks.positions import PositionEmbedding
from amae_nnunet.networks.tokenizer import patchify, unpatchify
from amae_nnunet.networks.vit import LAYER_NORM_EPS, AdaptiveViT, Block, init_weights


@dataclass(frozen=True)
class MAEOutput:
    """What one pass gives.

    Attributes:
        loss: mean squared error over all hidden voxels, a scalar.
        contrast_loss: the same over the hidden voxels of each contrast, (C,); NaN where none is.
        pred: predicted voxels of the hidden tokens, (T, p).
        masked: hidden tokens, bool (M, L), as given.
        slots: the study and contrast of each slot, as given.
    """

    loss: Tensor
    contrast_loss: Tensor
    pred: Tensor
    masked: Tensor
    slots: Slots


class AdaptiveMAE(nn.Module):
    """Encoder and decoder for self pre-training on any subset of contrasts."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.decoder_embed_dim
        self.encoder = AdaptiveViT(config)
        self.decoder_embed = nn.Linear(config.embed_dim, width)
        self.mask_token = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.decoder_pos_embed = PositionEmbedding(
            config.grid_size, config.token_mm, width, config.pos_embed == "learned"
        )
        self.decoder_contrast_embed = nn.Embedding(config.num_contrasts, width)
        nn.init.normal_(self.decoder_contrast_embed.weight, std=0.02)
        self.decoder_blocks = nn.ModuleList(
            Block(width, config.decoder_heads, config.mlp_ratio)
            for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.decoder_pred = nn.Linear(width, math.prod(config.token_size))
        for module in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            init_weights(module)

    def forward_encoder(self, voxels: Tensor, visible: Tokens) -> Tensor:
        """Latent (T, E) of the visible tokens; ``voxels`` is (M * L, p), all slots'."""
        return self.encoder(voxels[visible.index], visible)[0]

    def forward_decoder(self, latent: Tensor, visible: Tokens, tokens: Tokens) -> Tensor:
        """Decoded tokens (M * L, width), all of them, from the latent of the visible ones."""
        latent = self.decoder_embed(latent)
        x = self.mask_token.to(latent.dtype).repeat(len(tokens.index), 1)
        x = x.index_copy(0, visible.index, latent)
        x = (
            x
            + self.decoder_pos_embed(tokens.position)
            + self.decoder_contrast_embed(tokens.contrast)
        )
        for block in self.decoder_blocks:
            x = block(x, tokens.lengths)
        return x

    def forward_loss(self, pred: Tensor, target: Tensor, hidden: Tokens) -> tuple[Tensor, Tensor]:
        """Mean squared error over hidden voxels: in all, and for each contrast (C,)."""
        error = (pred - target).square().mean(dim=1)  # (T,)
        c = self.config.num_contrasts
        total = error.detach().new_zeros(c).index_add(0, hidden.contrast, error.detach())
        return error.mean(), total / torch.bincount(hidden.contrast, minlength=c)

    def forward(self, x: Tensor, slots: Slots, masked: Tensor) -> MAEOutput:
        """Rebuild hidden tokens from the visible ones.

        Args:
            x: images (B, C, Z, Y, X), of the configuration's patch size.
            slots: the present contrasts; what is not present is never read.
            masked: hidden tokens, bool (M, L), from ``random_masking``.
        """
        images = x[slots.study, slots.contrast]  # (M, Z, Y, X)
        voxels = patchify(images, self.config.token_size).flatten(0, 1)  # (M * L, p)
        visible, hidden = select_tokens(slots, ~masked), select_tokens(slots, masked)
        latent = self.forward_encoder(voxels, visible)
        decoded = self.forward_decoder(latent, visible, all_tokens(slots, self.config.num_tokens))
        pred = self.decoder_pred(self.decoder_norm(decoded[hidden.index]))
        loss, contrast_loss = self.forward_loss(pred, voxels[hidden.index], hidden)
        return MAEOutput(loss, contrast_loss, pred, masked, slots)

    def reconstruct(self, output: MAEOutput, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images for figure 2, from the output of a pass over ``x`` (B, C, Z, Y, X).

        Returns:
            hidden: bool (B, C, Z, Y, X), True at the voxels of hidden tokens.
            rebuilt: ``x`` with the predicted voxels where they are hidden.
        """
        slots, config = output.slots, self.config
        voxels = patchify(x[slots.study, slots.contrast], config.token_size)  # (M, L, p)
        voxels[output.masked] = output.pred.to(voxels.dtype)
        hidden = output.masked[:, :, None].expand_as(voxels)
        images = torch.zeros_like(x, dtype=torch.bool), x.clone()
        for image, tokens in zip(images, (hidden, voxels), strict=True):
            image[slots.study, slots.contrast] = unpatchify(
                tokens, config.grid_size, config.token_size
            )
        return images
