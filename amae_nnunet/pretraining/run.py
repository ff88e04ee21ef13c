"""A pre-training in progress: how it starts, stops and starts again (not in the paper).

The state on disk holds tensors and plain values only, and is written through a temporary name, so
a run that is killed at any moment leaves the state of its last whole epoch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pickle
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from amae_nnunet import __version__
from amae_nnunet.config import ModelConfig, PretrainingConfig
from amae_nnunet.errors import CheckpointError, ConfigError
from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.networks.weight_decay import decay_groups
from amae_nnunet.plans.preprocessed import (
    CHECKPOINT_NAME,
    PreprocessedDataset,
    pretraining_folder,
)

LATEST_NAME = "checkpoint_latest.pth"
METRICS_NAME = "metrics.jsonl"


@dataclass
class Run:
    """A pre-training in progress."""

    folder: Path
    config: PretrainingConfig
    iterations: int  # an epoch
    model: AdaptiveMAE
    optimizer: torch.optim.AdamW
    device: torch.device
    epoch: int = 0  # epochs done


def save_latest(run: Run) -> None:
    """Write the state to continue from, through a temporary name."""
    state = {
        "epoch": run.epoch,
        "model_config": json.dumps(dataclasses.asdict(run.model.config)),
        "network_weights": run.model.state_dict(),
        "optimizer_state": run.optimizer.state_dict(),
    }
    temporary = run.folder / f"{LATEST_NAME}.tmp"
    torch.save(state, temporary)
    temporary.replace(run.folder / LATEST_NAME)


def load_latest(run: Run) -> None:
    """Continue from ``checkpoint_latest.pth``, and drop metrics of epochs that will be repeated.

    Raises:
        CheckpointError: it is damaged, or of another model.
    """
    path = run.folder / LATEST_NAME
    try:
        state = torch.load(path, map_location=run.device, weights_only=True)
        theirs = ModelConfig.from_json(json.loads(state["model_config"]))
    except (
        OSError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
        KeyError,
        ConfigError,
    ) as error:
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__}): delete it to start anew"
        ) from None
    if theirs != run.model.config:
        raise CheckpointError(
            f"{path} is of another model than the plans describe: undo the change of the plans, "
            "or delete the file to start anew"
        )
    run.model.load_state_dict(state["network_weights"])
    run.optimizer.load_state_dict(state["optimizer_state"])
    run.epoch = state["epoch"]
    metrics = run.folder / METRICS_NAME
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    kept = [line for line in lines if json.loads(line)["epoch"] < run.epoch]
    temporary = metrics.with_suffix(".tmp")
    temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    temporary.replace(metrics)


def checkpoint_facts(
    run: Run, dataset: PreprocessedDataset, fold: str, num_cases: int
) -> dict[str, Any]:
    """What the final checkpoint says of itself; names no case."""
    return {
        "schema": 1,
        "plan": {
            "dataset": dataset.name,
            "plans": dataset.plans["plans_name"],
            "configuration": dataset.configuration_name,
        },
        "pretraining": dataclasses.asdict(run.config),
        "fold": fold,
        "epochs": run.epoch,
        "num_cases": num_cases,
        "versions": {
            "amae_nnunet": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def compiles_on(device: torch.device) -> bool:
    """Whether to compile: on CUDA only, unless nnU-Net's own variable ``nnUNet_compile`` is false.

    On a CPU it gains 2 % and takes a minute.
    """
    wanted = os.environ.get("nnUNet_compile", "true").lower() in ("true", "1", "t")
    return device.type == "cuda" and wanted


def start_run(
    dataset: PreprocessedDataset, num_cases: int, device: torch.device, resume: bool
) -> Run:
    """The model and optimizer, new or as they were left.

    Raises:
        ConfigError: there are results already and ``resume`` is not asked for.
    """
    config = dataset.block.pretraining_config()
    torch.manual_seed(config.seed)
    model_config = dataset.block.model_config(dataset.configuration)
    model = AdaptiveMAE(model_config, config.activation_checkpointing).to(device)
    if model.config.num_tokens < 2:
        raise ConfigError("a patch is one token: nothing could be masked; set fewer num_strides")
    if compiles_on(device):
        model.compile()
    optimizer = torch.optim.AdamW(decay_groups(model, config.weight_decay), lr=config.lr)
    folder = pretraining_folder(
        dataset.name, dataset.plans["plans_name"], dataset.configuration_name
    )
    iterations = config.iterations_per_epoch or math.ceil(num_cases / config.batch_size)
    run = Run(folder, config, iterations, model, optimizer, device)
    if not resume and any((folder / name).exists() for name in (LATEST_NAME, CHECKPOINT_NAME)):
        raise ConfigError(f"{folder} holds a pre-training: continue it with --c, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / LATEST_NAME).exists():
        load_latest(run)
    return run
