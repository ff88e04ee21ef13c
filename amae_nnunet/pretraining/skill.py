"""Proof that a model learns: its error against two baselines that need no learning.

For the hidden voxels of one contrast of one study::

    mean     the mean of the contrast's visible voxels
    linear   a linear map of the other contrasts at the same voxel, fitted by least squares on the
             contrast's visible voxels; where another contrast is hidden it gets that one's mean, so
             that it knows what the model knows
    skill    1 - squared error of the model / squared error of the baseline

0 is no better than the baseline, 1 is perfect. A skill against the linear map says that the model
knows more than how bright one contrast is where another one is bright: form, place, neighbours.
Not in the paper.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

#: The skill costs time: it is measured on the first steps of an epoch, on every such voxel of
#: rows and columns.
SKILL_STEPS, SKILL_STRIDE = 8, 2
#: What is summed up for each contrast. The linear map exists only beside other contrasts, so the
#: model's error is summed a second time over the same slots.
SUMS = ("model", "mean", "model_beside_linear", "linear", "predicted_variance", "true_variance")
#: An alarm looks at this many epochs, none of them among the first 5 % (the warm-up).
ALARM_EPOCHS = 10
#: Share of the images' variance under which predictions count as constant.
COLLAPSED = 0.01


def mean_error(y: Tensor, hidden: Tensor) -> Tensor:
    """Squared error of the mean baseline, summed over hidden voxels.

    Args:
        y: voxels of one contrast of one study, (V,).
        hidden: bool (V,); at least one voxel is visible.
    """
    return (y[hidden] - y[~hidden].mean()).square().sum()


def linear_error(images: Tensor, hidden: Tensor, row: int) -> Tensor:
    """Squared error of the linear baseline for one contrast, summed over its hidden voxels.

    Args:
        images: voxels of all contrasts of one study, (N, V), in float64.
        hidden: bool (N, V); of contrast ``row`` at least one voxel is visible.
        row: the contrast to predict from the others.
    """
    seen = ~hidden[row]
    level = images[row, seen].mean()
    known = [
        torch.where(mask, 0.0, image - image[~mask].mean()) if not mask.all() else 0.0 * image
        for n, (image, mask) in enumerate(zip(images, hidden, strict=True))
        if n != row
    ]
    features = torch.stack(known)
    features = features - features[:, seen].mean(dim=1, keepdim=True)
    fitted = features[:, seen]
    gram = torch.linalg.pinv(fitted @ fitted.T, hermitian=True)  # a constant adds nothing
    weights = gram @ (fitted @ (images[row, seen] - level))
    predicted = level + weights @ features[:, hidden[row]]
    return (images[row, hidden[row]] - predicted).square().sum()


@torch.no_grad()
def skill_sums(x: Tensor, rebuilt: Tensor, hidden: Tensor, present: Tensor) -> Tensor:
    """What an epoch sums up, in float64; computed on a GPU that has it, given on the CPU.

    A contrast that is hidden whole has no baseline and is left out.

    Args:
        x: images (B, C, Z, Y, X).
        rebuilt: the same with predictions where they are hidden.
        hidden: bool (B, C, Z, Y, X).
        present: bool (B, C).

    Returns:
        (6, C), rows as in ``SUMS``.
    """
    place = x.device if x.is_cuda else torch.device("cpu")
    sums = torch.zeros(len(SUMS), x.shape[1], dtype=torch.float64, device=place)
    for study in range(len(x)):
        rows = present[study].nonzero().flatten().tolist()
        images, guesses, masks = (
            part[study, rows].flatten(1).to(place) for part in (x, rebuilt, hidden)
        )
        images, guesses = images.double(), guesses.double()
        for n, c in enumerate(rows):
            mask = masks[n]
            if mask.all():
                continue
            true, guess = images[n, mask], guesses[n, mask]
            error = (guess - true).square().sum()
            sums[0, c] += error
            sums[1, c] += mean_error(images[n], mask)
            if len(rows) > 1:
                sums[2, c] += error
                sums[3, c] += linear_error(images, masks, n)
            for row, values in ((4, guess), (5, true)):
                sums[row, c] += (values - values.mean()).square().sum()
    return sums.cpu()


def skill_row(sums: Tensor, contrasts: Sequence[str]) -> dict[str, Any]:
    """The part of an epoch's line: skills and spread by contrast, None where there is none.

    ``spread`` is the variance of the predictions over that of the images.
    """
    model, mean, beside, linear, predicted, true = sums

    def by_name(values: Tensor) -> dict[str, float | None]:
        found = zip(contrasts, values.tolist(), strict=True)
        return {name: value if math.isfinite(value) else None for name, value in found}

    return {
        "skill_mean": by_name(1 - model / mean),
        "skill_linear": by_name(1 - beside / linear),
        "spread": by_name(predicted / true),
    }


def alarm(rows: Sequence[dict[str, Any]], num_epochs: int) -> str:
    """What is wrong in the last epochs, in one line, or nothing.

    Args:
        rows: lines of ``metrics.jsonl``, one an epoch.
        num_epochs: of the whole run.
    """
    if len(rows) < num_epochs // 20 + ALARM_EPOCHS:
        return ""
    last = rows[-ALARM_EPOCHS:]
    for key, limit, what in (
        ("spread", COLLAPSED, "the predictions have collapsed to a constant for {}"),
        ("skill_mean", 0.0, "the model is no better than the mean for {}"),
    ):
        names = []
        for name in last[-1][key]:
            values = [row[key][name] for row in last if row[key][name] is not None]
            # The mean, since a model that knows nothing is now and then above zero by chance.
            if len(values) == len(last) and max(sum(values) / len(values), values[-1]) <= limit:
                names.append(name)
        if names:
            return (
                f"{what.format(', '.join(names))}, for {ALARM_EPOCHS} epochs: if progress.png "
                "shows no rise, raise pretraining.lr, or lower it if the loss jumps"
            )
    return ""
