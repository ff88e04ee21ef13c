"""Packing: from images and masks to the tensors that the autoencoder computes on.

Each slot keeps as many visible tokens as any other, K of its L (section 2.2 masks a fixed share of
each contrast), so slots stack without padding. In each slot the visible tokens come first, then
the masked ones; a token's position goes with it, so nothing is ever put back in order. Voxels are
gathered here, *before* the tokenizer, which then works on visible tokens only. Not in the paper.

Packing runs eagerly, in front of the part that may be compiled: it counts, and counts are what
``torch.compile`` cannot hold. With a slot budget all shapes are then the same in every batch.

A contrast that is masked whole has no visible token: its slot is left out of the encoder, and in
the decoder mask tokens stand in for all L. Only with that option do shapes vary in a budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from amae_nnunet.config import ModelConfig
from amae_nnunet.networks.attention import Segments
from amae_nnunet.networks.masking import Slots
from amae_nnunet.networks.send import send
from amae_nnunet.networks.tokenizer import patchify


@dataclass(frozen=True)
class Packed:
    """A batch of M slots, of which M' have visible tokens, with T hidden tokens.

    Attributes:
        visible: voxels of the visible tokens, (M', K, p).
        hidden: voxels of the hidden tokens, in slot order, (T, p).
        contrast: channel of each slot, (M,).
        position: place in the grid of each token, the visible ones first, (M, L).
        seen: the slots that have visible tokens, (M',).
        place: where each hidden token stands among the M * L tokens, (T,).
        counted: 1 for a hidden token of a study, 0 for one that fills the slot budget, (T,).
        encoder_segments: studies in the list of visible tokens.
        decoder_segments: studies in the list of all tokens.
        masked: the hidden tokens as they were given, bool (M, L).
        slots: the slots as they were given.
    """

    visible: Tensor
    hidden: Tensor
    contrast: Tensor
    position: Tensor
    seen: Tensor
    place: Tensor
    counted: Tensor
    encoder_segments: Segments
    decoder_segments: Segments
    masked: Tensor
    slots: Slots


def pack_studies(x: Tensor, slots: Slots, masked: Tensor, config: ModelConfig) -> Packed:
    """Pack a batch for ``AdaptiveMAE``.

    Args:
        x: images (B, C, Z, Y, X), of the configuration's patch size; only what is present is read.
        slots: the present contrasts; like the masks, on the CPU.
        masked: hidden tokens, bool (M, L), from ``random_masking``.
        config: of the model.

    Raises:
        ValueError: nothing is visible, or slots that are not masked whole differ in how much is.
    """
    num_tokens, c = config.num_tokens, config.num_contrasts
    num_visible = num_tokens - masked.sum(dim=1)  # (M,)
    kept = sorted(set(num_visible.tolist()) - {0})
    if len(kept) != 1:
        raise ValueError(f"slots must have one number of visible tokens, above 0, got {kept}")
    k = kept[0]
    position = masked.to(torch.uint8).argsort(dim=1, stable=True)  # (M, L)
    token = torch.arange(len(position))[:, None] * num_tokens + position  # of all M * L
    seen = num_visible.nonzero()[:, 0]
    place = masked.gather(1, position).flatten().nonzero()[:, 0]
    on = partial(send, device=x.device)
    voxels = patchify(x[on(slots.study), on(slots.contrast)], config.token_size)
    voxels = voxels.flatten(0, 1)  # (M * L, p)
    shown = [int(part.count_nonzero()) for part in num_visible.split(slots.counts)]
    return Packed(
        visible=voxels.index_select(0, on(token[seen, :k].flatten())).unflatten(0, (-1, k)),
        hidden=voxels.index_select(0, on(token.flatten()[place])),
        contrast=on(slots.contrast),
        position=on(position),
        seen=on(seen),
        place=on(place),
        counted=on(place < slots.real * num_tokens).to(torch.promote_types(x.dtype, torch.float32)),
        encoder_segments=Segments.of(shown, k, c).to(x.device),
        decoder_segments=Segments.of(slots.counts, num_tokens, c).to(x.device),
        masked=masked,
        slots=slots,
    )
