"""Passes of the autoencoder over images: one batch, a fixed crop, a whole study."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from amae_nnunet.config import ModelConfig
from amae_nnunet.networks.mae import AdaptiveMAE, MAEOutput
from amae_nnunet.networks.masking import Slots, random_masking
from amae_nnunet.networks.packing import pack_studies
from amae_nnunet.pretraining.data import cut
from amae_nnunet.pretraining.studies import Study


def masks_of(
    present: Tensor,
    seeds: Sequence[int],
    num_tokens: int,
    mask_ratio: float,
    whole_contrast_prob: float = 0.0,
    slot_budget: int = 0,
) -> tuple[Slots, Tensor]:
    """The slots of studies, and hidden tokens (M, L) that are a function of each study's seed.

    Args:
        present: bool (B, C), on any device.
        seeds: of the masks of each study.
        num_tokens: L.
        mask_ratio: share of the tokens that is hidden.
        whole_contrast_prob: see ``random_masking``.
        slot_budget: fill up to this many slots; 0 for as many as there are.
    """
    masks = []
    for row, seed in zip(present, seeds, strict=True):
        slots, generator = Slots.of(row[None]), torch.Generator().manual_seed(seed)
        masks.append(random_masking(slots, num_tokens, mask_ratio, generator, whole_contrast_prob))
    slots, masked = Slots.of(present), torch.cat(masks)
    if slot_budget:
        slots = slots.fill(slot_budget)
        masked = torch.cat([masked, masked[:1].expand(slot_budget - slots.real, -1)])
    return slots, masked


def run_model(
    model: nn.Module, x: Tensor, slots: Slots, masked: Tensor, config: ModelConfig
) -> MAEOutput:
    """One pass of an ``AdaptiveMAE`` (or a wrapper of it) in the precision of the device."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
        output: MAEOutput = model(pack_studies(x, slots, masked, config))
    return output


@dataclass(frozen=True)
class Rebuilt:
    """A study or a part of it, as it was, and as the model rebuilds it from what it sees.

    Attributes:
        images: (C, Z, Y, X), zero where a contrast is absent.
        hidden: bool (C, Z, Y, X).
        rebuilt: ``images`` with predictions where they are hidden.
        present: bool (C,).
    """

    images: Tensor
    hidden: Tensor
    rebuilt: Tensor
    present: Tensor


@torch.no_grad()
def rebuild_part(
    model: AdaptiveMAE, study: Study, data: Any, first: Sequence[int], mask_ratio: float, seed: int
) -> Rebuilt:
    """Rebuild the patch that begins at voxel ``first`` of a study's images; all on the CPU."""
    config = model.config
    images, present = cut(study, data, first, config.patch_size, config.num_contrasts)
    images = images.float()
    x = images[None].to(model.mask_token.device)
    slots, masked = masks_of(present[None], [seed], config.num_tokens, mask_ratio)
    output = run_model(model, x, slots, masked, config)
    hidden, rebuilt = (part[0].cpu() for part in model.reconstruct(output, x))
    return Rebuilt(images, hidden, rebuilt, present)


def rebuild_middle(model: AdaptiveMAE, study: Study, mask_ratio: float, seed: int) -> Rebuilt:
    """Rebuild the patch in the middle of a study."""
    data = study.images()
    sizes = zip(data.shape[1:], model.config.patch_size, strict=True)
    first = [(size - patch) // 2 for size, patch in sizes]
    return rebuild_part(model, study, data, first, mask_ratio, seed)


def rebuild_study(model: AdaptiveMAE, study: Study, mask_ratio: float, seed: int) -> Rebuilt:
    """Rebuild a whole study, patch by patch side by side; each has masks of its own."""
    data, patch = study.images(), model.config.patch_size
    size = data.shape[1:]
    counts = [-(-n // p) for n, p in zip(size, patch, strict=True)]
    starts = [(n - count * p) // 2 for n, count, p in zip(size, counts, patch, strict=True)]
    whole = [count * p for count, p in zip(counts, patch, strict=True)]
    channels = model.config.num_contrasts
    images, rebuilt = torch.zeros(channels, *whole), torch.zeros(channels, *whole)
    hidden = torch.zeros(channels, *whole, dtype=torch.bool)
    for number, place in enumerate(itertools.product(*map(range, counts))):
        offset = [k * p for k, p in zip(place, patch, strict=True)]
        first = [start + o for start, o in zip(starts, offset, strict=True)]
        part = rebuild_part(model, study, data, first, mask_ratio, seed + number)
        box = (slice(None), *(slice(o, o + p) for o, p in zip(offset, patch, strict=True)))
        images[box], hidden[box], rebuilt[box] = part.images, part.hidden, part.rebuilt
    inside = (slice(None), *(slice(-s, n - s) for s, n in zip(starts, size, strict=True)))
    present = torch.zeros(channels, dtype=torch.bool)
    present[list(study.contrasts)] = True
    return Rebuilt(images[inside], hidden[inside], rebuilt[inside], present)
