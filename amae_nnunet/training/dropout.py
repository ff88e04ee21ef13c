"""Contrast dropout: training samples lose contrasts at random (not in the paper, off by default).

A model that has seen a subset of contrasts seldom predicts poorly from it. With
``contrast_dropout=p`` in the plans each sample of the training, never of the validation, keeps

* ``contrast_dropout_pattern=independent``: each of its contrasts with probability 1 - p;
* ``contrast_dropout_pattern=matched``: with probability 1 - p all it has, else what it has in
  common with a training case drawn from ``contrasts.json``, so that contrasts go missing together
  as they do in the data.

A required contrast is never dropped, of ``SWI|GRE`` one stays, and one of all: where a draw would
take the last one, one of those that the sample had is kept, each with the same chance.

A dropped channel is zero before the augmentation, which is what the file of an absent contrast is,
so nothing that follows can tell the two apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from amae_nnunet.config import TrainingConfig
from amae_nnunet.contrasts import FILE_NAME
from amae_nnunet.errors import ConfigError
from amae_nnunet.plans.block import channel_contrasts, required_contrasts
from amae_nnunet.plans.preprocessed import travel_record

Flags = np.ndarray[Any, np.dtype[np.bool_]]
Transform = Callable[..., dict[str, Any]]


class ContrastDropout:
    """Wraps a transform: contrasts of the image are dropped before it.

    Draws from numpy's global generator, as nnU-Net's loader does, which is seeded anew in each of
    its workers: repeatable where nnU-Net is.

    Args:
        transform: what follows.
        prob: chance of a drop, see the module.
        groups: channels of which one has to stay, if the sample has one: an entry for each required
            contrast, and all channels.
        patterns: presence of the training cases (cases, C), to match; None drops independently.
    """

    def __init__(
        self,
        transform: Transform,
        prob: float,
        groups: Sequence[Sequence[int]],
        patterns: Flags | None = None,
    ) -> None:
        self.transform = transform
        self.prob = prob
        self.groups = [list(group) for group in groups]
        self.patterns = patterns

    def draw(self, present: Flags) -> Flags:
        """Which of the present contrasts (C,) stay."""
        random = np.random.random_sample
        kept = present.copy()
        if self.patterns is None:
            kept &= random(len(present)) >= self.prob
        elif random() < self.prob:
            kept &= self.patterns[int(random() * len(self.patterns))]
        for group in self.groups:
            had = [channel for channel in group if present[channel]]
            if had and not kept[group].any():
                kept[had[int(random() * len(had))]] = True
        return kept

    def __call__(self, **data: Any) -> dict[str, Any]:
        """``data["image"]`` is (C, Z, Y, X); everything else passes through."""
        present = (data["image"] != 0).flatten(1).any(dim=1).numpy()
        dropped = torch.from_numpy(present & ~self.draw(present))
        if dropped.any():
            data["image"] = data["image"].masked_fill(dropped[:, None, None, None], 0)
        return self.transform(**data)


def with_dropout(
    transform: Transform, values: TrainingConfig, name: str, dataset_json: Mapping[str, Any]
) -> Transform:
    """The transform behind contrast dropout, or itself where that is off.

    Args:
        transform: of the training.
        values: of the plans.
        name: ``Dataset501_Infarct``.
        dataset_json: of the data set.

    Raises:
        ConfigError: patterns are to be matched and the data set has no record of them.
    """
    if not values.contrast_dropout:
        return transform
    contrasts = channel_contrasts(dataset_json)
    groups = [
        [contrasts.index(contrast) for contrast in entry.split("|")]
        for entry in required_contrasts(dataset_json)
    ]
    groups.append(list(range(len(contrasts))))
    patterns = None
    if values.contrast_dropout_pattern == "matched":
        record = travel_record(name)
        cases = record.cases.values() if record else ()
        patterns = np.array([case.present for case in cases if case.split == "train"], dtype=bool)
        if not len(patterns):
            raise ConfigError(
                f"contrast_dropout_pattern=matched but {name} has no {FILE_NAME} with training "
                "cases: convert it with amae-nnunet-convert, or set it to independent"
            )
    return ContrastDropout(transform, values.contrast_dropout, groups, patterns)
