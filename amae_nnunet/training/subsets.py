"""From nnU-Net's validation to the score of each subset of contrasts (not in the paper)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amae_nnunet.plans.block import channel_contrasts
from amae_nnunet.subsets import Score, SubsetScore, SubsetScores


def subset_scores(
    summary: Mapping[str, Any],
    present: Mapping[str, Sequence[bool]],
    dataset_json: Mapping[str, Any],
    held_out: bool,
    checkpoint: str | None,
) -> SubsetScores:
    """Group the cases of a validation by the contrasts that they have.

    Args:
        summary: nnU-Net's ``summary.json``.
        present: for each case to count, which of its channels are present.
        dataset_json: of the data set.
        held_out: the cases were not trained on.
        checkpoint: file name of the weights that were validated, None if they were not saved.
    """
    contrasts = channel_contrasts(dataset_json)
    names = {
        str(tuple(value) if isinstance(value, list) else value): name
        for name, value in dataset_json["labels"].items()
    }
    scores = []
    for entry in summary["metric_per_case"]:
        case = Path(entry["prediction_file"]).name.removesuffix(dataset_json["file_ending"])
        if case in present:
            had = tuple(n for n, flag in zip(contrasts, present[case], strict=True) if flag)
            labels = {
                names.get(label, label): _score(metrics["Dice"])
                for label, metrics in entry["metrics"].items()
            }
            scores.append(SubsetScore(had, 1, labels))
    return SubsetScores.of(contrasts, held_out, scores, checkpoint)


def _score(dice: float) -> Score:
    """Of one case; nnU-Net has NaN for a label that is neither drawn nor predicted."""
    return Score(0, None) if math.isnan(dice) else Score(1, float(dice))
