"""The studies of a pre-training: those of the labelled data set, and unlabelled ones.

Contrasts are matched by name. The model's contrasts are those of the labelled data set in channel
order, then whatever the unlabelled data sets add, in the order in which they are given. Not in the
paper, whose data have one set of contrasts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2

from amae_nnunet.errors import ConfigError, ContrastError, InputError
from amae_nnunet.intact import said
from amae_nnunet.plans.preprocessed import (
    PreprocessedDataset,
    case_reader,
    check_cases,
    dataset_name,
)
from amae_nnunet.plans.unlabeled import preprocess_unlabeled, unlabeled_contrasts

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
        """The images (channels, Z, Y, X); from a ``.b2nd`` only what is sliced is read.

        Raises:
            InputError: the file cannot be read.
        """
        path = self.folder / f"{self.case}.b2nd"
        try:
            if path.exists():
                return blosc2.open(str(path), mode="r", dparams={"nthreads": 1}, mmap_mode="r")
            return case_reader(self.folder)(str(self.folder), [self.case]).load_case(self.case)[0]
        except Exception as error:  # whatever nnU-Net and blosc2 raise
            raise self.damaged(error) from None

    def damaged(self, error: BaseException) -> InputError:
        """What to raise where its file cannot be read."""
        return InputError(
            f"study {self.name}: its file in {self.folder} is damaged or gone "
            f"({said(error, self.folder)}): preprocess the data set again (of an unlabelled one "
            "delete the file, and this command preprocesses the case)"
        )


def labelled_studies(dataset: PreprocessedDataset, cases: Sequence[str]) -> list[Study]:
    """The studies of the labelled data set itself, whose contrasts come first in the model.

    Raises:
        InputError: a case is not what the contrast record says.
    """
    present = check_cases(dataset.name, dataset.data_folder, dataset.dataset_json, cases, log.info)
    studies = []
    for case in cases:
        channels = tuple(channel for channel, flag in enumerate(present[case]) if flag)
        studies.append(Study(dataset.name, case, dataset.data_folder, channels, channels))
    return studies


def _all_contrasts(dataset: PreprocessedDataset, unlabeled: Sequence[str]) -> tuple[str, ...]:
    """The contrasts of the labelled data set and those that unlabelled ones add.

    Raises:
        ContrastError: one that is added differs from another in upper case alone.
    """
    contrasts = list(dataset.block.contrasts)
    known = {name.casefold(): (name, dataset.name) for name in contrasts}
    for other in unlabeled:
        for name in unlabeled_contrasts(other):
            if name in contrasts:
                continue
            same, where = known.setdefault(name.casefold(), (name, other))
            if same != name:
                raise ContrastError(
                    f"{other} has a contrast {name} where {where} has {same}: give both the same "
                    f"name in dataset.json (and contrasts.json) of {other} in nnUNet_raw"
                )
            contrasts.append(name)
    return tuple(contrasts)


def gather_studies(
    dataset: PreprocessedDataset,
    fold: str = "all",
    unlabeled: Sequence[str] = (),
    processes: int = 2,
) -> tuple[tuple[str, ...], list[Study]]:
    """The model's contrasts and the studies to train on.

    Args:
        dataset: the labelled data set.
        fold: ``all``, or a fold of which only training cases are used.
        unlabeled: names or numbers of unlabelled data sets, preprocessed where they are not yet.
        processes: how many cases are preprocessed at the same time.

    Raises:
        InputError: a case is not what the contrast record says.
        ContrastError: two data sets write one contrast in two ways.
        ConfigError: a data set is given twice.
    """
    given = [dataset_name(name) for name in unlabeled]
    if len({dataset.name, *given}) != 1 + len(given):
        raise ConfigError(
            f"--unlabeled {' '.join(unlabeled)}: give each data set once, and not {dataset.name}"
        )
    contrasts = _all_contrasts(dataset, given)
    studies = labelled_studies(dataset, dataset.training_cases(fold))
    there, counted = len(dataset.cases()), dataset.dataset_json.get("numTraining", 0)
    if there < counted:
        log.warning(
            "warning: %s has %d of the %d cases of dataset.json: the others are left out "
            "(nnUNetv2_preprocess makes them)",
            dataset.data_folder,
            there,
            counted,
        )
    others = [preprocess_unlabeled(dataset, name, processes) for name in given]
    for other in others:
        for case, found in other.cases.items():
            rows = tuple(contrasts.index(name) for name in found)
            studies.append(Study(other.name, case, other.folder, tuple(found.values()), rows))
    return contrasts, studies
