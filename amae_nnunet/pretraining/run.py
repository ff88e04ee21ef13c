"""A pre-training in progress (section 2.4): its networks, its optimizer and where it stands."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amae_nnunet import __version__
from amae_nnunet.config import ModelConfig, PretrainingConfig
from amae_nnunet.errors import ConfigError
from amae_nnunet.networks.attention import has_flash
from amae_nnunet.networks.checkpoint import SCHEMA
from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.networks.weight_decay import decay_groups
from amae_nnunet.plans.preprocessed import PreprocessedDataset
from amae_nnunet.plans.seen import SeenCases
from amae_nnunet.pretraining.batches import Position, steps_an_epoch
from amae_nnunet.pretraining.metrics import EpochRecord
from amae_nnunet.pretraining.parallel import copy_or_shard
from amae_nnunet.pretraining.ranks import Ranks
from amae_nnunet.pretraining.studies import Study

WARM_UP = 0.05  # share of the steps, of the cosine schedule; not in the paper
#: Of a line of ``metrics.jsonl``, what a checkpoint does not repeat.
_NOT_TOLD = ("epoch", "lr", "seconds", "alarm")


@dataclass
class Run:
    """A pre-training in progress.

    Attributes:
        folder: where its results go.
        config: its values.
        iterations: steps of an epoch.
        model: on ``device``.
        network: what is called in training: the model, or what makes one of it on all processes.
        optimizer: AdamW.
        device: of the model.
        seen: the studies it trains on.
        images: how many of them have which contrast.
        ranks: the processes that train.
        epoch: epochs that are done.
        iteration: steps of the next epoch that are done.
        record: of those steps.
        rows: a line of ``metrics.jsonl`` for each epoch that is done.
        position: where the next step's samples begin, if batches are set by slots.
        saved: when its state was last written, on the clock of ``time.monotonic``.
    """

    folder: Path
    config: PretrainingConfig
    iterations: int
    model: AdaptiveMAE
    network: nn.Module
    optimizer: torch.optim.AdamW
    device: torch.device
    seen: SeenCases
    images: dict[str, int]
    ranks: Ranks
    epoch: int = 0
    iteration: int = 0
    record: EpochRecord = field(default_factory=EpochRecord)
    rows: list[dict[str, Any]] = field(default_factory=list)
    position: Position | None = None
    saved: float = field(default_factory=time.monotonic)

    @property
    def step(self) -> int:
        """Steps that are done."""
        return self.epoch * self.iterations + self.iteration

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.config.num_epochs * self.iterations


def learning_rate(config: PretrainingConfig, step: int, steps: int) -> float:
    """Learning rate at a step: constant, or linear warm-up and cosine to zero."""
    if config.schedule == "constant":
        return config.lr
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return config.lr * (step + 1) / warm_up
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def model_to_train(dataset: PreprocessedDataset, contrasts: tuple[str, ...]) -> ModelConfig:
    """The model of a run.

    Args:
        dataset: its block and plans hold the values.
        contrasts: of the model.

    Raises:
        ConfigError: values that cannot work.
    """
    block = dataclasses.replace(dataset.block, contrasts=contrasts)
    model = block.model_config(dataset.configuration)
    if model.num_tokens < 2:
        raise ConfigError("a patch is one token: nothing could be masked; set fewer num_strides")
    return model


def new_run(
    dataset: PreprocessedDataset,
    contrasts: tuple[str, ...],
    studies: Sequence[Study],
    folder: Path,
    device: torch.device,
    ranks: Ranks,
    shard: bool = False,
) -> Run:
    """A run that has done nothing yet; its weights are a function of the seed.

    Args:
        dataset: its block and plans hold all values.
        contrasts: of the model.
        studies: to train on.
        folder: where results will go; not touched.
        device: where to train.
        ranks: the processes that train.
        shard: cut the model in pieces, one a process.

    Raises:
        ConfigError: values that cannot work.
    """
    config = dataset.block.pretraining_config()
    torch.manual_seed(config.seed)
    model_config = model_to_train(dataset, contrasts)
    model = AdaptiveMAE(model_config, config.activation_checkpointing)
    network = copy_or_shard(model, ranks, device, shard, compiles_on(device, model_config))
    fused = device.type == "cuda"
    groups = decay_groups(model, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    slots = [len(study.contrasts) for study in studies]
    iterations = config.iterations_per_epoch or steps_an_epoch(slots, config)
    seen = SeenCases.of(study.name for study in studies)
    counts = Counter(row for study in studies for row in study.contrasts)
    images = {name: counts[row] for row, name in enumerate(contrasts)}
    return Run(folder, config, iterations, model, network, optimizer, device, seen, images, ranks)


def checkpoint_facts(run: Run, dataset: PreprocessedDataset, fold: str) -> dict[str, Any]:
    """What the final checkpoint says of itself; names no case."""
    return {
        "schema": SCHEMA,
        "plan": {
            "dataset": dataset.name,
            "plans": dataset.plans["plans_name"],
            "configuration": dataset.configuration_name,
        },
        "pretraining": dataclasses.asdict(run.config),
        "fold": fold,
        "epochs": run.epoch,
        "num_cases": len(run.seen.hashes),
        "seen_cases": run.seen.to_json(),
        **({"last_epoch": _told(run.rows[-1])} if run.rows else {}),
        "versions": {
            "amae_nnunet": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint repeats of a line of ``metrics.jsonl``: losses and skills."""
    return {key: value for key, value in row.items() if key not in _NOT_TOLD}


def compiles_on(device: torch.device, config: ModelConfig) -> bool:
    """Whether to compile: where flash attention is, unless nnU-Net's ``nnUNet_compile`` is false.

    On a CPU it gains 2 % and takes a minute; on a GPU without flash attention a compiled step
    writes attention matrices out, which takes the memory of many.
    """
    wanted = os.environ.get("nnUNet_compile", "true").lower() in ("true", "1", "t")
    widths = (
        config.embed_dim // config.encoder_heads,
        config.decoder_embed_dim // config.decoder_heads,
    )
    return wanted and all(has_flash(device, width) for width in widths)
