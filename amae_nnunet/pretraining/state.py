"""The state of a run on disk, from which it continues, on a CPU bit by bit (not in the paper).

Batches, masks and learning rates are functions of the seed and the step, and nothing else in a step
is drawn at random. So weights, optimizer and step are the whole state, with the losses of the epoch
that has begun. Where batches are set by slots, the studies that wait for one are kept as well, so
that nothing is counted again. A state holds tensors and plain values only, whole, however many
processes there are. The state before is kept; it is taken, with a warning, where the latest one is
damaged.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import pickle
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from amae_nnunet.config import ModelConfig
from amae_nnunet.errors import AMAEError, CheckpointError, ConfigError
from amae_nnunet.plans.preprocessed import CHECKPOINT_NAME
from amae_nnunet.plans.seen import SeenCases
from amae_nnunet.pretraining.batches import Position
from amae_nnunet.pretraining.files import durable_file
from amae_nnunet.pretraining.folder import LATEST_NAME, PREVIOUS_NAME
from amae_nnunet.pretraining.metrics import EpochRecord, read_rows
from amae_nnunet.pretraining.parallel import gathered, load_optimizer, load_weights, local
from amae_nnunet.pretraining.run import Run
from amae_nnunet.pretraining.studies import Study

log = logging.getLogger(__name__)

_DAMAGE = (
    OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, KeyError,
    TypeError, ValueError, ConfigError,
)  # fmt: skip


def check_finite(run: Run, back: int = 1) -> None:
    """Raise AMAEError if a loss is not finite.

    Args:
        run: in progress.
        back: 2 looks at the loss before the last, so that the device goes on with the last step.
    """
    loss = run.record.loss(back)
    if not math.isfinite(loss):
        _stop(run, f"the loss became {loss}")


def _stop(run: Run, what: str) -> NoReturn:
    run.ranks.fail(
        AMAEError(
            f"{what} in epoch {run.epoch}: the state saved before is good; lower pretraining.lr "
            "with amae-nnunet-configure and continue with --c"
        )
    )


def save_state(run: Run) -> None:
    """Write the state, and keep the one before it; all processes call it, and the first writes.

    Raises:
        AMAEError: the loss or a weight is not finite, or the disk is full; what was saved before
            is as it was.
    """
    check_finite(run)
    good = all(torch.isfinite(local(weight)).all() for weight in run.model.parameters())
    if run.ranks.largest([not good])[0]:
        _stop(run, "a weight became infinite or NaN")
    first = run.ranks.rank == 0
    state = {
        "identity": json.dumps(_identity(run)),
        "epoch": run.epoch,
        "iteration": run.iteration,
        "record": run.record.state(),
        "position": run.position.to_json() if run.position else None,
        "network_weights": gathered(run.model.state_dict(), wanted=first),
        "optimizer_state": gathered(run.optimizer.state_dict(), wanted=first),
    }

    def write() -> None:
        with durable_file(run.folder / LATEST_NAME, keep=run.folder / PREVIOUS_NAME) as temporary:
            torch.save(state, temporary)

    run.ranks.from_first(write)  # none goes on, or ends, before it is written
    run.saved = time.monotonic()


@dataclass(frozen=True)
class SavedState:
    """A whole state on disk: its file, and what must not change while a run is interrupted."""

    path: Path
    identity: dict[str, Any]

    def studies_of_run(self, studies: Sequence[Study]) -> list[Study]:
        """The studies that the run trains on, without those that came since, with a warning.

        Raises:
            CheckpointError: some are gone.
        """
        seen = SeenCases.from_json(self.identity["seen"])
        kept = [study for study in studies if study.name in seen]
        count, gone, new = len(seen.hashes), len(seen.hashes) - len(kept), len(studies) - len(kept)
        if gone:
            raise CheckpointError(
                f"{self.path} was trained on {count} studies, of which {gone} are gone: give the "
                "same -f and --unlabeled as before, and preprocess again what a warning above says "
                "is missing; or delete the folder to start anew"
            )
        if new:
            log.warning(
                "warning: %d of %d studies came after this run began and are left out: a new run "
                "would take them in",
                new,
                len(studies),
            )
        return kept


def load_state(run: Run, saved: SavedState) -> None:
    """Continue from a state.

    Raises:
        CheckpointError: it is of another model, other studies or other batches.
    """
    run.ranks.from_first(lambda: _check_identity(saved, run))
    state = torch.load(saved.path, map_location="cpu", weights_only=True)
    load_weights(run.model, state["network_weights"])
    load_optimizer(run.optimizer, state["optimizer_state"])
    run.epoch, run.iteration = state["epoch"], state["iteration"]
    run.record = EpochRecord.from_state(state["record"])
    position = state.get("position")
    run.position = Position.from_json(position) if position else None
    run.rows = read_rows(run.folder, run.epoch)


def find_state(folder: Path) -> SavedState | None:
    """The latest state that is whole, or None where none was written.

    Raises:
        CheckpointError: none is whole, or they were deleted and the final checkpoint was not.
    """
    paths = [folder / name for name in (LATEST_NAME, PREVIOUS_NAME)]
    if not any(path.exists() for path in paths):
        if (folder / CHECKPOINT_NAME).exists():
            raise CheckpointError(
                f"{folder} has {CHECKPOINT_NAME} but no {LATEST_NAME} to continue from: the run is "
                "finished; to train anew, delete the folder"
            )
        return None
    for path in paths:
        identity = _read_identity(path)
        if identity is not None:
            return SavedState(path, identity)
        log.warning("warning: %s is damaged or lost: trying the state saved before it", path)
    raise CheckpointError(
        f"neither {LATEST_NAME} nor {PREVIOUS_NAME} in {folder} can be read: delete both to "
        "start anew"
    )


def _read_identity(path: Path) -> dict[str, Any] | None:
    """What a state is of, or None where it is missing or one bit of it is not what was written."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not compare the checksums
            if archive.testzip():
                return None
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        identity: dict[str, Any] = json.loads(state["identity"])
        ModelConfig.from_json(identity["model"])
    except _DAMAGE:
        return None
    return identity


def _identity(run: Run) -> dict[str, Any]:
    """What must not change while a run is interrupted; a change of ``images`` is only told."""
    config = run.config
    batch = {"slot_budget": config.slot_budget}
    batch |= {"passes": config.passes} if config.slot_budget else {"batch_size": config.batch_size}
    return {
        "model": dataclasses.asdict(run.model.config),
        "seen": run.seen.to_json(),
        "images": run.images,
        "order": {
            **batch,
            "iterations": run.iterations,
            "seed": config.seed,
            "mask_ratio": config.mask_ratio,
            "whole_contrast_prob": config.whole_contrast_prob,
        },
    }


def _check_identity(saved: SavedState, run: Run) -> None:
    path, theirs = saved.path, saved.identity
    model = ModelConfig.from_json(theirs["model"])
    if model.contrasts != run.model.config.contrasts:
        raise CheckpointError(
            f"{path} is of a model of {', '.join(model.contrasts)}, the data sets now have "
            f"{', '.join(run.model.config.contrasts)}: give the same --unlabeled as before, or "
            "begin a new run (another --name of amae-nnunet-configure)"
        )
    if model != run.model.config:
        changed = next(f.name for f in dataclasses.fields(model)
                       if getattr(model, f.name) != getattr(run.model.config, f.name))  # fmt: skip
        raise CheckpointError(
            f"{path} is of another model than the plans describe ({changed} was "
            f"{getattr(model, changed)}): undo the change of the plans, or delete the folder to "
            "start anew"
        )
    for key, value in _identity(run)["order"].items():
        before = theirs["order"].get(key, value)  # states of old do not tell
        if before != value:
            raise CheckpointError(
                f"{path} was trained with {key} {before}, the plans now say {value}: "
                "undo the change, or delete the folder to start anew"
            )
    for name, count in run.images.items():
        before = theirs.get("images", {}).get(name, count)
        if before != count:
            log.warning(
                "warning: %d studies had %s when this run began, and %d have now: the run goes on "
                "with what is there, and is not the one that it would have been",
                before,
                name,
                count,
            )
