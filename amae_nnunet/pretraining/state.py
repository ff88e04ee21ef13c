"""The state of a run on disk, from which it continues bit by bit (not in the paper).

Batches, masks and learning rates are functions of the seed and the step, and nothing else in a step
is drawn at random. So weights, optimizer and step are the whole state, with the losses of the
epoch that has begun. It holds tensors and plain values only. The state before is kept; it is taken,
with a warning, where the latest one is damaged.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import torch

from amae_nnunet.config import ModelConfig
from amae_nnunet.errors import AMAEError, CheckpointError, ConfigError
from amae_nnunet.plans.seen import SeenCases
from amae_nnunet.pretraining.files import whole_file
from amae_nnunet.pretraining.metrics import EpochRecord, read_rows
from amae_nnunet.pretraining.run import Run

log = logging.getLogger(__name__)

LATEST_NAME = "checkpoint_latest.pth"
PREVIOUS_NAME = "checkpoint_previous.pth"
_DAMAGE = (
    OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, KeyError,
    TypeError, ValueError, ConfigError,
)  # fmt: skip


def check_finite(run: Run, back: int = 1) -> None:
    """Raise AMAEError if a loss is not finite.

    Args:
        run: in progress.
        back: 2 looks at the loss before the last, which is known without waiting for the device.
    """
    loss = run.record.loss(back)
    if not math.isfinite(loss):
        _stop(run, f"the loss became {loss}")


def _stop(run: Run, what: str) -> NoReturn:
    raise AMAEError(
        f"{what} in epoch {run.epoch}: the state saved before is good; lower pretraining.lr with "
        "amae-nnunet-configure and continue with --c"
    )


def save_state(run: Run) -> None:
    """Write the state, and keep the one before it.

    Raises:
        AMAEError: the loss or a weight is not finite, or the disk is full; what was saved before
            is as it was.
    """
    check_finite(run)
    if not all(torch.isfinite(weight).all() for weight in run.model.parameters()):
        _stop(run, "a weight became infinite or NaN")
    state = {
        "identity": json.dumps(_identity(run)),
        "epoch": run.epoch,
        "iteration": run.iteration,
        "record": run.record.state(),
        "network_weights": run.model.state_dict(),
        "optimizer_state": run.optimizer.state_dict(),
    }
    with whole_file(run.folder / LATEST_NAME, keep=run.folder / PREVIOUS_NAME) as temporary:
        torch.save(state, temporary)
    run.saved = time.monotonic()


def load_state(run: Run) -> bool:
    """Continue from the state on disk; whether there was one.

    Raises:
        CheckpointError: no state is readable, or it is of another model or other studies.
    """
    paths = [run.folder / name for name in (LATEST_NAME, PREVIOUS_NAME)]
    if not any(path.exists() for path in paths):
        return False
    for path in paths:
        state = _read(path, run.device)
        if state is not None:
            break
        log.warning("warning: %s is damaged or lost: trying the state saved before it", path)
    else:
        raise CheckpointError(
            f"neither {LATEST_NAME} nor {PREVIOUS_NAME} in {run.folder} can be read: delete both "
            "to start anew"
        )
    _check_identity(path, json.loads(state["identity"]), run)
    run.model.load_state_dict(state["network_weights"])
    decays = [group["weight_decay"] for group in run.optimizer.param_groups]
    run.optimizer.load_state_dict(state["optimizer_state"])
    for group, decay in zip(run.optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay  # the plans' value, which may have been changed
    run.epoch, run.iteration = state["epoch"], state["iteration"]
    run.record = EpochRecord.from_state(state["record"])
    run.rows = read_rows(run.folder, run.epoch)
    return True


def _read(path: Path, device: torch.device) -> dict[str, Any] | None:
    """A state, or None where it is missing or one bit of it is not what was written."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not compare the checksums
            if archive.testzip():
                return None
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        ModelConfig.from_json(json.loads(state["identity"])["model"])
    except _DAMAGE:
        return None
    return state


def _identity(run: Run) -> dict[str, Any]:
    """What must not change while a run is interrupted."""
    return {
        "model": dataclasses.asdict(run.model.config),
        "seen": run.seen.to_json(),
        "order": {
            "batch_size": run.config.batch_size,
            "iterations": run.iterations,
            "seed": run.config.seed,
        },
    }


def _check_identity(path: Path, theirs: dict[str, Any], run: Run) -> None:
    if ModelConfig.from_json(theirs["model"]) != run.model.config:
        raise CheckpointError(
            f"{path} is of another model than the plans describe: undo the change of the plans (or "
            "of --unlabeled), or delete the folder to start anew"
        )
    if SeenCases.from_json(theirs["seen"]) != run.seen:
        raise CheckpointError(
            f"{path} was trained on other studies ({len(theirs['seen']['hashes'])}, now "
            f"{len(run.seen.hashes)}): give the same -f and --unlabeled as before, or delete the "
            "folder to start anew"
        )
    for key, value in _identity(run)["order"].items():
        if theirs["order"][key] != value:
            raise CheckpointError(
                f"{path} was trained with {key} {theirs['order'][key]}, the plans now say {value}: "
                "undo the change, or delete the folder to start anew"
            )
