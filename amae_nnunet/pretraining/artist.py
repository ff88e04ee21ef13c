"""The pictures of a run as it goes: progress, and reconstructions of a few fixed studies.

The studies are those that the user names, else three that together show most contrasts; of the
fold's validation cases, which the run does not train on, where it has a fold. Masks are always the
same, so that pictures of two epochs can be compared. Not in the paper.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

from amae_nnunet.errors import ConfigError
from amae_nnunet.plans.preprocessed import PreprocessedDataset, dataset_name
from amae_nnunet.plans.unlabeled import raw_cases
from amae_nnunet.pretraining.pictures import save_reconstruction
from amae_nnunet.pretraining.progress import PROGRESS_NAME, save_progress
from amae_nnunet.pretraining.rebuild import rebuild_middle
from amae_nnunet.pretraining.run import Run
from amae_nnunet.pretraining.studies import Study, labelled_studies
from amae_nnunet.pretraining.tensorboard import TensorBoard

log = logging.getLogger(__name__)

NUM_STUDIES = 3
DRAW_SECONDS = 60.0  # between two drawings of progress.png


class Artist:
    """Called at the end of each epoch, by all processes (a model in pieces runs on all of them).

    Args:
        dataset: the labelled data set.
        fold: of the run.
        studies: that the run trains on.
        names: cases to draw, ``case`` or ``DatasetXXX_Name/case``.

    Attributes:
        board: where the numbers go as well, if it is set.

    Raises:
        ConfigError: there is no such case.
    """

    def __init__(
        self,
        dataset: PreprocessedDataset,
        fold: str,
        studies: Sequence[Study],
        names: Sequence[str] = (),
    ) -> None:
        self.transpose_forward = dataset.plans["transpose_forward"]
        held_out = []
        if fold != "all":
            cases = sorted(set(dataset.cases()) - set(dataset.training_cases(fold)))
            held_out = labelled_studies(dataset, cases)
        self.studies = _choose([*held_out, *studies], held_out or studies, names)
        self.board: TensorBoard | None = None
        self.drawn = 0.0

    def __call__(self, run: Run) -> None:
        """Draw what is due."""
        if self.board:
            self.board.add(run.rows[-1])
        last = run.epoch == run.config.num_epochs
        due = last or time.monotonic() - self.drawn > DRAW_SECONDS
        if due and run.ranks.rank == 0:
            save_progress(run.folder / PROGRESS_NAME, run.rows)
            self.drawn = time.monotonic()
        every = run.config.picture_every
        if last or (every and run.epoch % every == 0):
            self.draw_reconstructions(run)

    def draw_reconstructions(self, run: Run) -> None:
        """Write ``reconstruction_epoch_XXX.png``; it shows no name of a case."""
        seed, ratio = run.config.seed, run.config.mask_ratio
        rebuilt = {
            f"study {number}": rebuild_middle(run.model, study, ratio, seed + number)
            for number, study in enumerate(self.studies, 1)
        }
        if run.ranks.rank == 0:
            save_reconstruction(
                run.folder / f"reconstruction_epoch_{run.epoch:03d}.png",
                run.model.config.contrasts,
                rebuilt,
                run.model.config.spacing,
                self.transpose_forward,
            )


def _choose(
    everyone: Sequence[Study], candidates: Sequence[Study], names: Sequence[str]
) -> list[Study]:
    if not names:
        return _varied(candidates)
    known = {study.name: study for study in everyone}
    return [known[_meant(name, known)] for name in names]


def _varied(studies: Sequence[Study]) -> list[Study]:
    """Three studies: each brings most contrasts that none before has, then most of all."""
    left, chosen = sorted(studies, key=lambda study: study.name), list[Study]()
    while left and len(chosen) < NUM_STUDIES:
        shown = {row for study in chosen for row in study.contrasts}
        best = max(left, key=lambda s: (len(set(s.contrasts) - shown), len(s.contrasts)))
        left.remove(best)
        chosen.append(best)
    return chosen


def _meant(name: str, known: Iterable[str]) -> str:
    """The one ``DatasetXXX_Name/case`` that the user's ``case`` or ``DatasetXXX_Name/case`` is."""
    found = [full for full in known if name in (full, full.partition("/")[2])]
    if len(found) != 1:
        raise ConfigError(
            f"--pictures {name}: {len(found)} cases of this run have this name; write it as "
            "DatasetXXX_Name/case"
        )
    return found[0]


def check_names(
    dataset: PreprocessedDataset, unlabeled: Sequence[str], names: Sequence[str]
) -> None:
    """Refuse a name that no case has, before preprocessing that may take days.

    Args:
        dataset: the labelled data set.
        unlabeled: names or numbers of unlabelled data sets.
        names: see ``Artist``.

    Raises:
        ConfigError: no case has one of the names, or several have.
    """
    if not names:
        return
    others = map(dataset_name, unlabeled)
    cases = [(dataset.name, case) for case in dataset.cases()]
    cases += [(other, case) for other in others for case in raw_cases(other)]
    for name in names:
        _meant(name, [f"{folder}/{case}" for folder, case in cases])
