"""Predict the same cases from one subset of their contrasts after the other.

What is withheld is treated as what is absent: its channel gets an image of zeros. A folder
``ADC+T2`` holds what was predicted from these two; what is there already is not predicted again.
Not in the paper, whose Table 2 withholds one contrast.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from amae_nnunet.errors import ConfigError
from amae_nnunet.prediction.expected import Expected, read_record
from amae_nnunet.prediction.inputs import InputCase
from amae_nnunet.prediction.model import TrainedModel
from amae_nnunet.prediction.run import Options, Run
from amae_nnunet.subsets import Subset, subset_name
from amae_nnunet.whole import write_json
from amae_nnunet.workers import workers

#: In the folder of a model's predictions: which model made them, so that no two are mixed.
MADE_BY = "model.json"


class SilentRun(Run):
    """A run that only counts its cases."""

    def __init__(self, model: TrainedModel, options: Options, count: Callable[[], Any]) -> None:
        super().__init__(model, options)
        self.count = count

    def tell(self, expected: Expected, total: int) -> None:
        """Count the case."""
        self.count()


def predict_withheld(
    model: TrainedModel,
    cases: Sequence[InputCase],
    wanted: Mapping[str, Sequence[Subset]],
    output: Path,
    processes: int,
    count: Callable[[], Any],
) -> dict[tuple[str, Subset], str]:
    """Predict each case from each of its subsets.

    Args:
        model: that predicts.
        cases: with the files of all their contrasts.
        wanted: of each case, the subsets of the contrasts that it has.
        output: folder; gets one folder a subset.
        processes: for preprocessing, and as many for export; 0 for none but this one.
        count: is called once a prediction, those of earlier runs and failed ones included.

    Returns:
        Why a case could not be predicted from a subset, by case and subset.

    Raises:
        ConfigError: the folder holds predictions of another model.
    """
    claim(output, model.names)
    subsets = dict.fromkeys(subset for case in cases for subset in wanted[case.name])
    failed = {}
    with workers(2 * processes) as schedule:
        for subset in sorted(subsets, key=len, reverse=True):
            options = Options(output / subset_name(subset), False, True, processes, processes)
            run = SilentRun(model, options, count)
            reduced = [
                keep(case, subset, model.contrasts) for case in cases if subset in wanted[case.name]
            ]
            outcome = run.predict(reduced, schedule)
            failed.update({(name, subset): why for name, why in outcome.failed.items()})
            for _ in (*outcome.skipped, *outcome.failed):
                count()
    return failed


def keep(case: InputCase, subset: Subset, contrasts: Sequence[str]) -> InputCase:
    """The case with the files of some of its contrasts only."""
    channels = [contrasts.index(name) for name in subset]
    return dataclasses.replace(case, files={channel: case.files[channel] for channel in channels})


def claim(output: Path, maker: Mapping[str, Any]) -> None:
    """Say in a folder whose predictions it holds.

    Raises:
        ConfigError: it holds those of another model.
    """
    path = output / MADE_BY
    if path.exists() and read_record(path) != maker:
        raise ConfigError(
            f"{output} holds predictions of another model, or with other settings: give another "
            "-o or another name (-m NAME=FOLDER), or delete that folder"
        )
    output.mkdir(parents=True, exist_ok=True)
    write_json(path, maker)
