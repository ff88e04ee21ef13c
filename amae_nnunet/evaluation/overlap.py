"""Dice of segmentations, read from the ``summary.json`` of ``nnUNetv2_evaluate_simple``.

Dice is the paper's measure (section 2.4); nnU-Net computes it, we only read and tabulate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def case_dice(summary: Path) -> dict[str, float]:
    """Foreground Dice of each case, averaged over labels; NaN where a label is nowhere.

    Args:
        summary: nnU-Net's ``summary.json``.
    """
    content = json.loads(summary.read_text(encoding="utf-8"))
    scores = {}
    for entry in content["metric_per_case"]:
        name = Path(entry["prediction_file"]).name.removesuffix(".nii.gz")
        values = [label["Dice"] for label in entry["metrics"].values()]
        scores[name] = sum(values) / len(values)
    return scores


def dice_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """A text table: one row a set of contrasts, with the number of cases and the mean Dice."""
    width = max(len(name) for name in scores)
    rows = [f"{'contrasts given':<{width}}  cases  mean Dice"]
    for name, cases in scores.items():
        mean = sum(cases.values()) / len(cases)
        rows.append(f"{name:<{width}}  {len(cases):>5}  {mean:>9.3f}")
    return "\n".join(rows)
