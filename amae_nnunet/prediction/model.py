"""A trained model folder, opened for prediction (not in the paper)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch

from amae_nnunet.errors import AMAEError, CheckpointError, ConfigError, InputError
from amae_nnunet.networks.checkpoint import file_sha256
from amae_nnunet.plans.block import channel_contrasts, required_contrasts
from amae_nnunet.prediction.folder import find_folds
from amae_nnunet.prediction.inputs import ModelFacts
from amae_nnunet.prediction.predictor import MirrorBatchPredictor
from amae_nnunet.subsets import SubsetScores
from amae_nnunet.workers import reason

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """Folds of a model that predict together.

    Attributes:
        predictor: nnU-Net's, initialized.
        facts: for preprocessing and export.
        contrasts: names in channel order.
        required: what the data set required of each case.
        scores: of the folds' validations; None unless each of them has a record.
        names: trainer, plans, configuration, folds, checkpoint and its hashes, and how it predicts,
            for the record.
    """

    predictor: MirrorBatchPredictor
    facts: ModelFacts
    contrasts: tuple[str, ...]
    required: tuple[str, ...]
    scores: SubsetScores | None
    names: dict[str, Any]

    @classmethod
    def open(
        cls,
        folder: Path,
        folds: Sequence[str],
        checkpoint: str,
        device: torch.device,
        with_scores: bool = True,
        **options: Any,
    ) -> TrainedModel:
        """Load a model.

        Args:
            folder: ``nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION``.
            folds: that predict; empty: all that are trained, but for ``all``.
            checkpoint: name of the file in a fold's folder.
            device: to predict on.
            with_scores: look up what the folds scored, and warn where they say nothing.
            options: of ``nnUNetPredictor``.

        Raises:
            ConfigError: no such model or fold, or a cascade.
            CheckpointError: a file of it is damaged, or does not fit what is installed.
        """
        folds = find_folds(folder, folds, checkpoint)
        with redirect_stdout(StringIO()):  # nnU-Net tells of devices, and where it finds trainers
            predictor = MirrorBatchPredictor(device=device, **options)
            _load(predictor, folder, folds, checkpoint)
        configuration = predictor.configuration_manager
        if configuration.previous_stage_name is not None:
            raise ConfigError("this model is the second stage of a cascade: use nnUNetv2_predict")
        contrasts = channel_contrasts(predictor.dataset_json)
        plans, dataset_json = predictor.plans_manager, predictor.dataset_json
        names = {
            "trainer": predictor.trainer_name,
            "plans": plans.plans_name,
            "configuration": folder.name.rpartition("__")[2] if "__" in folder.name else None,
            "folds": folds,
            "checkpoint": checkpoint,
            "mirrored": predictor.use_mirroring,
            "step_size": predictor.tile_step_size,
            "sha256": {fold: file_sha256(folder / f"fold_{fold}" / checkpoint) for fold in folds},
        }
        return cls(
            predictor,
            ModelFacts(plans, configuration, dataset_json, len(contrasts)),
            contrasts,
            required_contrasts(dataset_json),
            fold_scores(folder, folds, contrasts) if with_scores else None,
            names,
        )


def _load(
    predictor: MirrorBatchPredictor, folder: Path, folds: Sequence[str], checkpoint: str
) -> None:
    """Load the weights of the folds into a predictor."""
    for fold in folds:
        path = folder / f"fold_{fold}" / checkpoint
        path.open("rb").close()  # a file that may not be read is not damaged
        if not is_zipfile(path):  # as torch writes them; cut short, the end of the archive is lost
            raise CheckpointError(f"{path} is damaged: copy it again, or train the fold again")
    numbers = tuple(fold if fold == "all" else int(fold) for fold in folds)
    try:
        predictor.initialize_from_trained_model_folder(str(folder), numbers, checkpoint)
    except (AMAEError, MemoryError):
        raise
    except Exception as error:
        raise CheckpointError(
            f"{folder} cannot be opened ({reason(error)}): is the trainer installed here, and are "
            "the folder's files of one training?"
        ) from error


def fold_scores(
    folder: Path, folds: Sequence[str], contrasts: Sequence[str]
) -> SubsetScores | None:
    """The validation scores of the folds together, None unless each of them has its own."""
    try:
        scores = [SubsetScores.read(folder / f"fold_{fold}") for fold in folds]
    except InputError as error:
        log.warning("warning: %s", error)
        return None
    if any(fold.contrasts != tuple(contrasts) for fold in scores):
        log.warning("warning: %s has scores of other contrasts: validate again (--val)", folder)
        return None
    return SubsetScores.of_folds(scores)
