"""The pre-training loop (section 2.4): AdamW, L2 on hidden tokens, 500 epochs.

Results folder::

    metrics.jsonl                  one line an epoch: loss, loss of each contrast, lr, seconds
    checkpoint_latest.pth          state to continue from: tensors and plain values
    checkpoint_final.safetensors   the weights to fine-tune from, when all epochs are done
    reconstruction.png             figure 2 for one training study

Batches and masks are functions of the seed and the step, so a run that is continued repeats what
an uninterrupted one would have done.
"""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from amae_nnunet.config import PretrainingConfig
from amae_nnunet.errors import AMAEError
from amae_nnunet.networks.checkpoint import save_checkpoint
from amae_nnunet.networks.mae import MAEOutput
from amae_nnunet.networks.masking import Slots, present_contrasts, random_masking
from amae_nnunet.networks.packing import pack_studies
from amae_nnunet.plans.preprocessed import CHECKPOINT_NAME, PreprocessedDataset, check_cases
from amae_nnunet.pretraining.data import RandomCrops, crop_loader
from amae_nnunet.pretraining.pictures import save_reconstruction
from amae_nnunet.pretraining.run import (
    METRICS_NAME,
    Run,
    checkpoint_facts,
    save_latest,
    start_run,
)

log = logging.getLogger(__name__)

WARM_UP = 0.05  # share of the steps, of the cosine schedule; not in the paper


def learning_rate(config: PretrainingConfig, step: int, steps: int) -> float:
    """Learning rate at a step: constant (the paper), or linear warm-up and cosine to zero."""
    if config.schedule == "constant":
        return config.lr
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return config.lr * (step + 1) / warm_up
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def forward(run: Run, x: Tensor, step: int) -> MAEOutput:
    """One pass over a batch (B, C, Z, Y, X) with the masks of this step."""
    slots = Slots.of(present_contrasts(x))
    if run.config.slot_budget:
        slots = slots.fill(run.config.slot_budget)
    generator = torch.Generator().manual_seed((run.config.seed << 32) + step)
    masked = random_masking(
        slots,
        run.model.config.num_tokens,
        run.config.mask_ratio,
        generator,
        run.config.whole_contrast_prob,
    )
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.device.type == "cuda"):
        output: MAEOutput = run.model(pack_studies(x, slots, masked, run.model.config))
    return output


def train_one_epoch(run: Run, batches: Any, bar: Any) -> dict[str, Any]:
    """Train on the next batches; return the epoch's metrics.

    Raises:
        AMAEError: the loss is not finite; the last state on disk is that of the last epoch.
    """
    start = time.perf_counter()
    steps = run.iterations * run.config.num_epochs
    contrasts = run.model.config.contrasts
    losses, contrast_losses = [], []
    lr = 0.0
    for iteration in range(run.iterations):
        step = run.epoch * run.iterations + iteration
        lr = learning_rate(run.config, step, steps)
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        output = forward(run, next(batches).to(run.device, non_blocking=True), step)
        run.optimizer.zero_grad(set_to_none=True)
        output.loss.backward()
        run.optimizer.step()
        losses.append(output.loss.item())
        contrast_losses.append(output.contrast_loss.tolist())
        if not math.isfinite(losses[-1]):
            raise AMAEError(
                f"the loss became {losses[-1]} in epoch {run.epoch}: lower pretraining.lr with "
                "amae-nnunet-configure and continue with --c"
            )
        bar.set_postfix(epoch=run.epoch, loss=f"{losses[-1]:.4f}", refresh=False)
        bar.update()
    seen = {
        name: [row[c] for row in contrast_losses if not math.isnan(row[c])]
        for c, name in enumerate(contrasts)
    }
    return {
        "epoch": run.epoch,
        "loss": float(np.mean(losses)),
        "contrast_loss": {name: float(np.mean(row)) if row else None for name, row in seen.items()},
        "lr": lr,
        "studies": run.iterations * run.config.batch_size,
        "seconds": round(time.perf_counter() - start, 3),
    }


def train(run: Run, crops: RandomCrops, num_workers: int) -> None:
    """All epochs that are left, each ended by a line of metrics and the state on disk."""
    size = run.config.batch_size
    done, steps = (run.iterations * n for n in (run.epoch, run.config.num_epochs))
    pin_memory = run.device.type == "cuda"
    batches = iter(crop_loader(crops, done * size, steps * size, size, num_workers, pin_memory))
    with tqdm(total=steps, initial=done, unit="step") as bar:
        while run.epoch < run.config.num_epochs:
            metrics = train_one_epoch(run, batches, bar)
            with (run.folder / METRICS_NAME).open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")
            run.epoch += 1
            save_latest(run)


def pretrain(
    dataset: PreprocessedDataset,
    fold: str = "all",
    device: torch.device | None = None,
    resume: bool = False,
    num_workers: int = 0,
) -> Path:
    """Pre-train on the cases of a data set.

    Args:
        dataset: opened; its block holds all values.
        fold: ``all``, or a fold of ``splits_final.json``, of which only training cases are used.
        device: default CPU.
        resume: continue where an earlier run stopped.
        num_workers: processes that read crops.

    Returns:
        Path of the final checkpoint.

    Raises:
        AMAEError: see ``PreprocessedDataset``, ``start_run``, ``train_one_epoch``.
    """
    device = device or torch.device("cpu")
    cases = dataset.training_cases(fold)
    check_cases(dataset.name, dataset.data_folder, dataset.dataset_json, cases, log.info)
    run = start_run(dataset, len(cases), device, resume)
    crops = RandomCrops(dataset.data_folder, cases, run.model.config.patch_size, run.config.seed)
    log.info(
        "pre-training on %d studies (%s), %d tokens of %s voxels a contrast, on %s",
        len(cases),
        ", ".join(run.model.config.contrasts),
        run.model.config.num_tokens,
        "x".join(map(str, run.model.config.token_size)),
        device,
    )
    train(run, crops, num_workers)
    path = run.folder / CHECKPOINT_NAME
    save_checkpoint(path, run.model, checkpoint_facts(run, dataset, fold, len(cases)))
    draw_reconstruction(run, crops)
    return path


@torch.no_grad()
def draw_reconstruction(run: Run, crops: RandomCrops) -> None:
    """Write ``reconstruction.png`` for the first crop of the run."""
    config = run.model.config
    x = crops[0][None].to(run.device)
    output = forward(run, x, 0)
    hidden, rebuilt = run.model.reconstruct(output, x)
    save_reconstruction(
        run.folder / "reconstruction.png",
        config.contrasts,
        x[0].cpu().numpy(),
        hidden[0].cpu().numpy(),
        rebuilt[0].cpu().numpy(),
        aspect=config.spacing[1] / config.spacing[2],
    )
