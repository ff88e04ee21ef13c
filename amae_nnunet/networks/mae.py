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
from amae_nnunet.networks.masking import Slots
from amae_nnunet.networks.packing import Packed
from amae_nnunet.networks.positions import PositionEmbedding
from amae_nnunet.networks.tokenizer import patchify, unpatchify
from amae_nnunet.networks.vit import LAYER_NORM_EPS, AdaptiveViT, Block, init_weights


@dataclass(frozen=True)
class MAEOutput:
    """What one pass gives.

    Attributes:
        loss: mean squared error over all hidden voxels, a scalar.
        error: mean squared error of each hidden token, summed for each contrast, (C,).
        count: hidden tokens of each contrast, (C,).
        pred: predicted voxels of the hidden tokens, (T, p).
        masked: hidden tokens, bool (M, L), as packed.
        slots: the study and contrast of each slot, as packed.
    """

    loss: Tensor
    error: Tensor
    count: Tensor
    pred: Tensor
    masked: Tensor
    slots: Slots


class AdaptiveMAE(nn.Module):
    """Encoder and decoder for self pre-training on any subset of contrasts."""

    def __init__(self, config: ModelConfig, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.config = config
        width = config.decoder_embed_dim
        self.encoder = AdaptiveViT(config, activation_checkpointing)
        self.decoder_embed = nn.Linear(config.embed_dim, width)
        self.mask_token = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.decoder_pos_embed = PositionEmbedding(
            config.grid_size, config.token_mm, width, config.pos_embed == "learned"
        )
        self.decoder_contrast_embed = nn.Embedding(config.num_contrasts, width)
        nn.init.normal_(self.decoder_contrast_embed.weight, std=0.02)
        self.decoder_blocks = nn.ModuleList(
            Block(width, config.decoder_heads, config.mlp_ratio, activation_checkpointing)
            for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.decoder_pred = nn.Linear(width, math.prod(config.token_size))
        for module in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            init_weights(module)

    def forward_encoder(self, packed: Packed) -> Tensor:
        """Latent (M' * K, E) of the visible tokens."""
        contrast = packed.contrast[packed.seen]
        position = packed.position[packed.seen, : packed.visible.shape[1]]
        return self.encoder(packed.visible, contrast, position, packed.encoder_segments)[0]

    def forward_decoder(self, latent: Tensor, packed: Packed) -> Tensor:
        """Decoded tokens (M * L, width), in each slot the visible ones first."""
        latent = self.decoder_embed(latent)  # (M' * K, width)
        (m, num_tokens), k = packed.position.shape, packed.visible.shape[1]
        mask_tokens = self.mask_token.to(latent.dtype).expand(m, num_tokens, -1)
        visible = mask_tokens[:, :k].index_copy(0, packed.seen, latent.unflatten(0, (-1, k)))
        x = torch.cat([visible, mask_tokens[:, k:]], dim=1)
        x = x + self.decoder_pos_embed(packed.position)
        x = x + self.decoder_contrast_embed(packed.contrast)[:, None]
        x = x.flatten(0, 1)
        for block in self.decoder_blocks:
            x = block(x, packed.decoder_segments)
        return x

    def forward_loss(self, pred: Tensor, packed: Packed) -> tuple[Tensor, Tensor, Tensor]:
        """Mean squared error over hidden voxels; for each contrast (C,) its sum and its tokens."""
        error = (pred - packed.hidden).square().mean(dim=1) * packed.counted  # (T,)
        contrast = packed.contrast[packed.place // packed.position.shape[1]]
        zero = packed.counted.new_zeros(self.config.num_contrasts)
        total = zero.index_add(0, contrast, error.detach())
        count = zero.index_add(0, contrast, packed.counted)
        return error.sum() / packed.counted.sum(), total, count

    def forward(self, packed: Packed) -> MAEOutput:
        """Rebuild the hidden tokens of a batch, from ``pack_studies``, from the visible ones."""
        decoded = self.forward_decoder(self.forward_encoder(packed), packed)
        pred = self.decoder_pred(self.decoder_norm(decoded.index_select(0, packed.place)))
        loss, error, count = self.forward_loss(pred, packed)
        return MAEOutput(loss, error, count, pred, packed.masked, packed.slots)

    def reconstruct(self, output: MAEOutput, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images for figure 2, from the output of a pass over ``x`` (B, C, Z, Y, X).

        Returns:
            hidden: bool (B, C, Z, Y, X), True at the voxels of hidden tokens.
            rebuilt: ``x`` with the predicted voxels where they are hidden.
        """
        config, real = self.config, output.slots.real
        masked = output.masked[:real].to(x.device)
        where = tuple(t[:real].to(x.device) for t in (output.slots.study, output.slots.contrast))
        voxels = patchify(x[where], config.token_size)  # (M, L, p)
        voxels[masked] = output.pred[: int(masked.sum())].to(voxels.dtype)
        hidden = masked[:, :, None].expand_as(voxels)
        images = torch.zeros_like(x, dtype=torch.bool), x.clone()
        for image, tokens in zip(images, (hidden, voxels), strict=True):
            image[where] = unpatchify(tokens, config.grid_size, config.token_size)
        return images
