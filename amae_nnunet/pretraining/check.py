"""Images under a wrong contrast name, found with a pre-trained model.

A model that knows ADC and TRACE rebuilds an ADC image worse when it is told that it is TRACE. Each
image of a study is therefore rebuilt under each other name; where the study has that name as well,
the two change places. Everything else stays: the other images, the patches, the hidden tokens. The
*gain* of a renaming is the share of the error of the renamed images that it saves, each image's
error divided by its variance.

A renaming is listed if it gains ``MARGIN`` or more in the mean over ``DRAWS`` draws of patch and
masks, and that mean is ``CERTAIN`` of its standard errors above zero; and if under the new names
the model rebuilds the images better than their own mean is, for what it does not know it cannot
name. Of several for one study it is the one that *saves* most of the error of all images together,
so that a swap is not beaten by a name that is better for one image alone. Not in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.networks.masking import Slots, random_masking
from amae_nnunet.pretraining.data import cut
from amae_nnunet.pretraining.rebuild import run_model
from amae_nnunet.pretraining.studies import Study

DRAWS = 8
MARGIN = 0.01
CERTAIN = 3.0
#: Skill of a model that seldom lists right names (measured: ``docs/pretraining.md``).
SURE = 0.5

#: Row of the model that an image is declared as -> row under which it is rebuilt.
Renaming = dict[int, int]


@dataclass(frozen=True)
class Finding:
    """A study in which other names fit better.

    Attributes:
        case: ``DatasetXXX_Name/case``.
        names: declared name -> name that fits better.
        gain: mean share of the error that the renaming saves.
    """

    case: str
    names: dict[str, str]
    gain: float

    def __str__(self) -> str:
        parts = [f"{old} fits better as {new}" for old, new in self.names.items()]
        return f"{self.case}: {', '.join(parts)} ({self.gain:.0%} less error)"

    def to_json(self) -> dict[str, Any]:
        """As it stands in ``check.json``."""
        return {"case": self.case, "fits_better": self.names, "gain": self.gain}


def renamings(rows: Sequence[int], num_contrasts: int) -> list[Renaming]:
    """Each image under each name that the study has not got, and each two images swapped."""
    found: list[Renaming] = []
    for row in rows:
        for name in range(num_contrasts):
            if name not in rows:
                found.append({row: name})
            elif row < name:
                found.append({row: name, name: row})
    return found


def errors_under(
    model: AdaptiveMAE, images: Tensor, rows: Sequence[int], masked: Tensor, renaming: Renaming
) -> dict[int, float]:
    """Error of each image over its variance, at hidden voxels, when some are renamed.

    Args:
        model: pre-trained.
        images: (C, Z, Y, X), as declared.
        rows: of the images that are present, ascending.
        masked: hidden tokens, bool (N, L), a row per image.
        renaming: what is renamed.

    Returns:
        Declared row -> error; without images of no variance.
    """
    names = [renaming.get(row, row) for row in rows]
    x = torch.zeros_like(images)
    x[names] = images[list(rows)]
    present = torch.zeros(len(images), dtype=torch.bool)
    present[names] = True
    order = np.argsort(names).tolist()  # slots run by name, masks belong to images
    batch = x[None].to(model.mask_token.device)
    output = run_model(model, batch, Slots.of(present[None]), masked[order], model.config)
    hidden, rebuilt = (part[0].cpu() for part in model.reconstruct(output, batch))
    errors = {}
    for row, name in zip(rows, names, strict=True):
        true, guess = x[name][hidden[name]], rebuilt[name][hidden[name]]
        variance = true.var(unbiased=False).item()
        if variance > 0:
            errors[row] = (guess - true).square().mean().item() / variance
    return errors


class Outcome(NamedTuple):
    """What a renaming does in one draw.

    Attributes:
        gain: share of the error of the renamed images that it saves.
        saved: error that it saves in all images of the study.
        left: mean error of the renamed images; 1 is that of their mean.
    """

    gain: float
    saved: float
    left: float


@torch.no_grad()
def outcomes(
    model: AdaptiveMAE, study: Study, trials: Sequence[Renaming], mask_ratio: float, seed: int
) -> list[list[Outcome]]:
    """What each renaming does in each draw in which its images can be seen."""
    config, data = model.config, study.images()
    found: list[list[Outcome]] = [[] for _ in trials]
    for draw in range(DRAWS):
        rng = np.random.default_rng([seed, draw])
        spare = np.subtract(data.shape[1:], config.patch_size)
        first = [int(rng.integers(n + 1)) if n > 0 else int(n // 2) for n in spare]
        images, present = cut(study, data, first, config.patch_size, config.num_contrasts)
        images = images.float()
        rows = present.nonzero().flatten().tolist()
        generator = torch.Generator().manual_seed((seed << 32) + draw)
        slots = Slots.of(present[None])
        masked = random_masking(slots, config.num_tokens, mask_ratio, generator)
        declared = errors_under(model, images, rows, masked, {})
        for trial, values in zip(trials, found, strict=True):
            if all(row in declared for row in trial):
                renamed = errors_under(model, images, rows, masked, trial)
                before, after = (sum(e[row] for row in trial) for e in (declared, renamed))
                saved = sum(declared.values()) - sum(renamed.values())
                values.append(Outcome(1 - after / before, saved, after / len(trial)))
    return found


def doubtful(facts: Mapping[str, Any]) -> str:
    """What is to be said if a checkpoint's model knows too little to name images, or nothing.

    Args:
        facts: of the checkpoint, which may be anybody's.
    """
    epoch = facts.get("last_epoch")
    by_name = epoch.get("skill_mean") if isinstance(epoch, dict) else None
    values = by_name.values() if isinstance(by_name, dict) else ()
    skills = [value for value in values if isinstance(value, float)]
    if not skills or min(skills) >= SURE:
        return ""
    return (
        f"the model's skills against the mean are {min(skills):.2f} to {max(skills):.2f}: below "
        f"{SURE} it lists right names as well"
    )


def check_study(
    model: AdaptiveMAE, study: Study, mask_ratio: float, seed: int = 0
) -> Finding | None:
    """The renaming of a study that fits better than what is declared, if one does."""
    contrasts = model.config.contrasts
    trials = renamings(sorted(study.contrasts), len(contrasts))
    found: list[tuple[float, Finding]] = []
    for trial, draws in zip(trials, outcomes(model, study, trials, mask_ratio, seed), strict=True):
        if len(draws) < 2:
            continue
        gain, saved, left = np.mean(draws, axis=0).tolist()
        error = np.std([draw.gain for draw in draws], ddof=1).item() / len(draws) ** 0.5
        if gain >= MARGIN and gain > CERTAIN * error and left < 1:
            names = {contrasts[old]: contrasts[new] for old, new in trial.items()}
            found.append((saved, Finding(study.name, names, gain)))
    return max(found, key=lambda item: item[0])[1] if found else None
