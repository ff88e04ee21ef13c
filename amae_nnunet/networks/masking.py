"""Which contrasts are present, which tokens are hidden (section 2.2).

Studies of a batch have different contrasts. The unit of work is a *slot*, one present contrast of
one study; slots stand in one flat list, in study order, so no token is ever computed for an absent
contrast or for padding (not in the paper, which does not say how it batches).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amae_nnunet.errors import ConfigError


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
        counts: number of slots of each study, plain integers that add up to M.
        real: number of slots that count; those behind them only fill a budget.
    """

    study: Tensor
    contrast: Tensor
    counts: list[int]
    real: int

    @classmethod
    def of(cls, present: Tensor) -> Slots:
        """The slots of a presence table (B, C); on the CPU, where they are counted."""
        present = present.cpu()
        study, contrast = present.nonzero(as_tuple=True)
        return cls(study, contrast, present.sum(dim=1).tolist(), len(study))

    def fill(self, budget: int) -> Slots:
        """Exactly ``budget`` slots, so that every batch has the same shapes (not in the paper).

        Copies of the first slot fill the rest, each as a study of its own, and count in no loss.
        Empty studies make ``counts`` as long in every batch.

        Raises:
            ConfigError: the batch has more slots than that.
        """
        spare = budget - len(self.study)
        if spare < 0:
            raise ConfigError(
                f"a pass has {len(self.study)} images but slot_budget={budget}: raise "
                "pretraining.slot_budget, or set slot_budget=0"
            )
        study, contrast = (torch.cat([t, t[:1].expand(spare)]) for t in (self.study, self.contrast))
        counts = [*self.counts, *[1] * spare]
        counts += [0] * (budget - len(counts))
        return Slots(study, contrast, counts, self.real)


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
        generator: source of the randomness, on the CPU.
        whole_contrast_prob: chance that a study of two or more contrasts hides one of them whole,
            to be rebuilt from the others (not in the paper).

    Returns:
        masked, bool (M, L): True is hidden (MAE's "1 is remove").
    """
    noise = torch.rand(len(slots.study), num_tokens, generator=generator)
    rank = noise.argsort(dim=1).argsort(dim=1)
    masked = rank >= num_visible(num_tokens, mask_ratio)
    if whole_contrast_prob:
        chosen = torch.rand(len(slots.counts), generator=generator)
        which = torch.rand(len(slots.counts), generator=generator)
        first = 0
        for study, count in enumerate(slots.counts):
            if count > 1 and chosen[study] < whole_contrast_prob:
                masked[first + int(which[study] * count)] = True
            first += count
    return masked
