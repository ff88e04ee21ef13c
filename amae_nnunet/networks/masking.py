"""Which contrasts are present, which tokens are hidden (section 2.2).

Studies of a batch have different contrasts. The unit of work is a *slot*, one present contrast of
one study; the tokens of all slots form one flat list, in study order, so no token is ever computed
for an absent contrast or for padding (not in the paper, which does not say how it batches).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def present_contrasts(x: Tensor) -> Tensor:
    """The presence rule: which contrasts a patch has, from its voxels alone.

    A channel that is exactly zero all over the patch, while another channel is not, is absent. If
    all are zero (air), all count as present. The converter writes zeros for what is absent, and
    nnU-Net's z-scoring, cropping, resampling and padding keep them. Not in the paper.

    Args:
        x: images (B, C, Z, Y, X).

    Returns:
        bool (B, C), at least one of each row set.
    """
    present = (x != 0).flatten(2).any(dim=2)
    return present | ~present.any(dim=1, keepdim=True)


@dataclass(frozen=True)
class Slots:
    """The present contrasts of a batch of B studies, flat: M slots in study order.

    Attributes:
        study: row in the batch of each slot, (M,).
        contrast: channel of each slot, (M,).
        counts: number of slots of each study, B plain integers.
    """

    study: Tensor
    contrast: Tensor
    counts: list[int]

    @classmethod
    def of(cls, present: Tensor) -> Slots:
        """The slots of a presence table (B, C)."""
        study, contrast = present.nonzero(as_tuple=True)
        return cls(study, contrast, present.sum(dim=1).tolist())


@dataclass(frozen=True)
class Tokens:
    """A flat list of T tokens and where each of them belongs.

    Attributes:
        index: place among the M * L tokens of all slots, slot by slot, (T,).
        contrast: channel, (T,).
        position: place in the grid, 0..L-1, (T,).
        lengths: number of tokens of each study, B plain integers that add up to T.
    """

    index: Tensor
    contrast: Tensor
    position: Tensor
    lengths: list[int]


def select_tokens(slots: Slots, keep: Tensor) -> Tokens:
    """The tokens of which ``keep`` (M, L) is True, in order."""
    slot, position = keep.nonzero(as_tuple=True)
    lengths = [int(part.sum()) for part in keep.split(slots.counts)]
    return Tokens(slot * keep.shape[1] + position, slots.contrast[slot], position, lengths)


def all_tokens(slots: Slots, num_tokens: int) -> Tokens:
    """All M * L tokens, for fine-tuning and for the MAE decoder."""
    m = len(slots.contrast)
    position = torch.arange(num_tokens, device=slots.contrast.device)
    return Tokens(
        torch.arange(m * num_tokens, device=slots.contrast.device),
        slots.contrast.repeat_interleave(num_tokens),
        position.repeat(m),
        [count * num_tokens for count in slots.counts],
    )


def num_visible(num_tokens: int, mask_ratio: float) -> int:
    """Tokens of a contrast that stay visible: ``max(1, round((1 - mask_ratio) L))``, under L."""
    return min(num_tokens - 1, max(1, round((1 - mask_ratio) * num_tokens)))


def random_masking(
    slots: Slots,
    num_tokens: int,
    mask_ratio: float,
    generator: torch.Generator | None = None,
    whole_contrast_prob: float = 0.0,
) -> Tensor:
    """Hide tokens at random, the same number in each contrast, independently (section 2.2).

    Args:
        slots: the slots of the batch.
        num_tokens: L, at least 2.
        mask_ratio: share of the tokens of a contrast that is hidden.
        generator: source of the randomness, on the slots' device.
        whole_contrast_prob: chance that a study of two or more contrasts hides one of them whole,
            to be rebuilt from the others (not in the paper).

    Returns:
        masked, bool (M, L): True is hidden (MAE's "1 is remove").
    """
    device = slots.contrast.device
    m = len(slots.contrast)
    noise = torch.rand(m, num_tokens, device=device, generator=generator)
    rank = noise.argsort(dim=1).argsort(dim=1)
    masked = rank >= num_visible(num_tokens, mask_ratio)
    if whole_contrast_prob:
        chosen = torch.rand(len(slots.counts), device=device, generator=generator)
        which = torch.rand(len(slots.counts), device=device, generator=generator)
        first = 0
        for study, count in enumerate(slots.counts):
            if count > 1 and chosen[study] < whole_contrast_prob:
                masked[first + int(which[study] * count)] = True
            first += count
    return masked
