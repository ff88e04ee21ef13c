"""The studies of a pre-training: those of the labelled data set, and unlabelled ones.

Contrasts are matched by name. The model's contrasts are those of the labelled data set in channel
order, then whatever the unlabelled data sets add, in the order in which they are given. Not in the
paper, whose data have one set of contrasts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2

from amae_nnunet.plans.preprocessed import PreprocessedDataset, case_reader, check_cases

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Study:
    """One preprocessed case and the contrasts that it has.

    Attributes:
        dataset: ``Dataset501_Infarct``.
        case: its name there.
        folder: where its preprocessed files lie.
        channels: channels of the file that are present.
        contrasts: the model's row of each of them.
    """

    dataset: str
    case: str
    folder: Path
    channels: tuple[int, ...]
    contrasts: tuple[int, ...]

    @property
    def name(self) -> str:
        """``Dataset501_Infarct/case``."""
        return f"{self.dataset}/{self.case}"

    def images(self) -> Any:
        """The images (channels, Z, Y, X); from a ``.b2nd`` only what is sliced is read."""
        path = self.folder / f"{self.case}.b2nd"
        if path.exists():
            mapped = None if os.name == "nt" else "r"
            return blosc2.open(str(path), mode="r", dparams={"nthreads": 1}, mmap_mode=mapped)
        return case_reader(self.folder)(str(self.folder), [self.case]).load_case(self.case)[0]


def match_contrasts(
    present: Sequence[bool], names: Sequence[str], contrasts: Sequence[str]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels that are present and known to the model, and the model's rows of them."""
    pairs = [
        (channel, contrasts.index(name))
        for channel, (name, flag) in enumerate(zip(names, present, strict=True))
        if flag and name in contrasts
    ]
    return tuple(channel for channel, _ in pairs), tuple(row for _, row in pairs)


def gather_studies(dataset: PreprocessedDataset, fold: str) -> tuple[tuple[str, ...], list[Study]]:
    """The model's contrasts and the studies to train on.

    Args:
        dataset: the labelled data set.
        fold: ``all``, or a fold of which only training cases are used.

    Raises:
        InputError: a case is not what the contrast record says.
    """
    cases = dataset.training_cases(fold)
    present = check_cases(dataset.name, dataset.data_folder, dataset.dataset_json, cases, log.info)
    contrasts = dataset.block.contrasts
    studies = [
        Study(
            dataset.name,
            case,
            dataset.data_folder,
            *match_contrasts(present[case], contrasts, contrasts),
        )
        for case in cases
    ]
    return contrasts, studies
