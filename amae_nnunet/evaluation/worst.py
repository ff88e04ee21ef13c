"""The cases that a model did badly on, with a picture of each (not in the paper)."""

from __future__ import annotations

import base64
import io
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from amae_nnunet.evaluation.cases import Case, Labels
from amae_nnunet.evaluation.pictures import save_segmentations
from amae_nnunet.evaluation.scores import Prediction, Scores
from amae_nnunet.evaluation.subsets import Condition

log = logging.getLogger(__name__)

_EACH, _MOST = 2, 8  # pictures a model, and in all


@dataclass(frozen=True)
class Worst:
    """A case that a model did badly on; ``picture`` is a PNG in base 64, empty if there is none."""

    case: str
    model: str
    dice: float
    picture: str


def draw_worst(
    scores: Scores,
    cases: Sequence[Case],
    predictions: Mapping[str, Sequence[Prediction]],
    labels: Labels,
) -> list[Worst]:
    """The lowest of each model as the cases are, with what every model predicts for them."""
    by_name = {case.name: case for case in cases}
    found = []
    for name, model, dice in worst_cases(scores):
        case = by_name[name]
        files = {p.model: p.path for p in predictions[name] if p.given == case.had}
        found.append(Worst(name, model, dice, _picture(case, files, labels)))
    return found


def worst_cases(scores: Scores) -> list[tuple[str, str, float]]:
    """Case, model and Dice of the lowest of each model, each case once; lowest first."""
    found: dict[str, tuple[str, str, float]] = {}
    for model in scores.models:
        dice = scores.by_case(model, Condition(), "dice")
        order = sorted((value, case) for case, value in dice.items() if not math.isnan(value))
        for value, case in [pair for pair in order if pair[1] not in found][:_EACH]:
            found[case] = (case, model, value)
    return sorted(found.values(), key=lambda entry: entry[2])[:_MOST]


def _picture(case: Case, predictions: Mapping[str, Path], labels: Labels) -> str:
    """Empty where there is no image to draw on, or one that cannot be drawn."""
    if not case.images:
        return ""
    try:
        label, spacing = _read(case.label)
        images = {name: _read(path)[0] for name, path in case.images.items()}
        drawn = {name: _foreground(_read(path)[0], labels) for name, path in predictions.items()}
    except (OSError, RuntimeError) as error:
        log.warning("warning: no picture of case %s: %s", case.name, " ".join(str(error).split()))
        return ""
    images, drawn = (
        {name: voxels for name, voxels in found.items() if voxels.shape == label.shape}
        for found in (images, drawn)
    )
    if not any(image.any() for image in images.values()):
        return ""
    stream = io.BytesIO()
    aspect = spacing[1] / spacing[0]
    save_segmentations(stream, images, _foreground(label, labels), drawn, aspect)
    return base64.b64encode(stream.getvalue()).decode()


def _read(path: Path) -> tuple[NDArray[Any], Sequence[float]]:
    """Voxels (Z, Y, X), the patient's left on the right, and spacing (x, y, z) in mm."""
    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    return sitk.GetArrayFromImage(image), image.GetSpacing()


def _foreground(voxels: NDArray[Any], labels: Labels) -> NDArray[Any]:
    return np.isin(voxels, [value for values in labels.values.values() for value in values])
