"""The pre-training loop (section 2.4): AdamW, L2 on hidden tokens, 500 epochs.

Results folder::

    metrics.jsonl                  one line an epoch: losses, skills, lr, seconds
    progress.png                   the same, drawn
    reconstruction_epoch_XXX.png   figure 2 for a few studies, always the same
    checkpoint_latest.pth          state to continue from, written every epoch and 15 minutes
    checkpoint_previous.pth        the state before it
    checkpoint_final.safetensors   the weights to fine-tune from, when all epochs are done

Batches and masks are functions of the seed and the step, so a run that is continued repeats what
an uninterrupted one would have done.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from amae_nnunet.errors import AMAEError, ConfigError
from amae_nnunet.networks.checkpoint import save_checkpoint
from amae_nnunet.plans.preprocessed import (
    CHECKPOINT_NAME,
    PreprocessedDataset,
    pretraining_folder,
)
from amae_nnunet.pretraining.artist import Artist
from amae_nnunet.pretraining.data import RandomCrops, crop_loader
from amae_nnunet.pretraining.files import whole_file
from amae_nnunet.pretraining.metrics import EpochRecord, write_rows
from amae_nnunet.pretraining.rebuild import masked_pass
from amae_nnunet.pretraining.run import Run, checkpoint_facts, learning_rate, new_run
from amae_nnunet.pretraining.skill import SKILL_STEPS, SKILL_STRIDE, alarm, skill_sums
from amae_nnunet.pretraining.state import (
    LATEST_NAME,
    PREVIOUS_NAME,
    check_finite,
    load_state,
    save_state,
)
from amae_nnunet.pretraining.stop import Stopped, StopSignals, signals_held
from amae_nnunet.pretraining.studies import Study, gather_studies
from amae_nnunet.pretraining.tensorboard import TensorBoard

log = logging.getLogger(__name__)

SAVE_SECONDS = 900.0  # of a long epoch, after which the state is saved; not in the paper


def train_step(run: Run, x: Tensor, present: Tensor) -> None:
    """One step of the optimizer on a batch.

    Raises:
        AMAEError: the loss of the step before is not finite.
    """
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run.config, run.step, run.steps)
    x = x.to(run.device, non_blocking=True)
    seed = (run.config.seed << 32) + run.step
    config = run.config
    output = masked_pass(
        run.model,
        x,
        present,
        config.mask_ratio,
        seed,
        config.whole_contrast_prob,
        config.slot_budget,
    )
    run.optimizer.zero_grad(set_to_none=True)
    output.loss.backward()
    run.optimizer.step()
    run.record.add(output.loss, output.contrast_loss)
    if run.iteration < SKILL_STEPS:
        hidden, rebuilt = run.model.reconstruct(output, x)
        thin = (..., slice(None, None, SKILL_STRIDE), slice(None, None, SKILL_STRIDE))
        run.record.add_skill(skill_sums(x[thin], rebuilt[thin], hidden[thin], present))
    run.iteration += 1
    check_finite(run, back=2)


def end_epoch(run: Run) -> None:
    """Write the epoch's line of metrics and the state; warn where nothing is learnt."""
    check_finite(run)
    run.rows.append(
        {
            "epoch": run.epoch,
            **run.record.row(run.model.config.contrasts),
            "lr": run.optimizer.param_groups[0]["lr"],
            "studies": run.iterations * run.config.batch_size,
            "seconds": round(run.record.seconds, 3),
        }
    )
    found = alarm(run.rows, run.config.num_epochs)
    run.rows[-1]["alarm"] = found
    if found and not (len(run.rows) > 1 and run.rows[-2]["alarm"]):
        log.warning("warning: %s", found)
    write_rows(run.folder, run.rows)
    run.epoch, run.iteration, run.record = run.epoch + 1, 0, EpochRecord()
    save_state(run)


def train(run: Run, crops: RandomCrops, num_workers: int, draw: Callable[[Run], None]) -> None:
    """All steps that are left.

    Args:
        run: in progress.
        crops: its samples.
        num_workers: processes that read them.
        draw: called at the end of each epoch.

    Raises:
        Stopped: by a signal; the state is saved.
        AMAEError: the loss is not finite, the disk is full, or a process that reads data died.
    """
    size, last = run.config.batch_size, run.steps * run.config.batch_size
    pin_memory = run.device.type == "cuda"
    loader = crop_loader(crops, run.step * size, last, size, num_workers, pin_memory)
    bar = tqdm(total=last, initial=run.step * size, unit="study", smoothing=0.02)
    with _readers(), bar, StopSignals() as signals, logging_redirect_tqdm():
        with signals_held():
            batches = iter(loader)
        for x, present in batches:
            train_step(run, x, present)
            bar.set_postfix(epoch=run.epoch, loss=f"{run.record.loss(2):.4f}", refresh=False)
            bar.update(size)
            if run.iteration == run.iterations:
                end_epoch(run)
                draw(run)
            elif signals.number or time.monotonic() - run.saved > SAVE_SECONDS:
                save_state(run)
            if signals.number and run.step < run.steps:
                raise Stopped(
                    signals.number,
                    f"{run.step} of {run.steps} steps are done and saved; continue with --c",
                )


@contextmanager
def _readers() -> Iterator[None]:
    """A context in which the death of a process that reads studies, or its silence, is one line."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and "DataLoader" not in str(error):
            raise
        what = "died, perhaps out of memory"
        if "timed out" in str(error):
            what = "hangs (is the disk, or /tmp, full or gone?)"
            for process in multiprocessing.active_children():
                process.kill()  # it ignores what torch sends, and the command would wait for it
                process.join()
        raise AMAEError(
            f"a process that reads studies {what}: continue with --c and fewer "
            "of them (export nnUNet_n_proc_DA=2)"
        ) from None


@dataclass(frozen=True)
class Options:
    """What a user says of one run; what belongs to the method stands in the plans.

    Attributes:
        fold: ``all``, or a fold of ``splits_final.json``, of which only training cases are used.
        unlabeled: names or numbers of unlabelled data sets.
        pictures: cases to draw as the run goes; default: see ``Artist``.
        device: where to train.
        num_workers: processes that read crops.
        processes: that preprocess unlabelled cases.
        tensorboard: write the numbers of each epoch for TensorBoard as well.
    """

    fold: str = "all"
    unlabeled: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_workers: int = 0
    processes: int = 2
    tensorboard: bool = False


def prepare(dataset: PreprocessedDataset, options: Options) -> tuple[Run, list[Study], RandomCrops]:
    """A run that has done nothing yet, its studies and its samples; nothing is written of it.

    Raises:
        AMAEError: see ``gather_studies``, ``new_run``.
    """
    contrasts, studies = gather_studies(dataset, options.fold, options.unlabeled, options.processes)
    run = new_run(dataset, contrasts, studies, results_folder(dataset), options.device)
    config = run.model.config
    log.info(
        "pre-training on %d studies (%s), %d tokens of %s voxels a contrast, on %s",
        len(studies),
        ", ".join(config.contrasts),
        config.num_tokens,
        "x".join(map(str, config.token_size)),
        run.device,
    )
    crops = RandomCrops(studies, config.num_contrasts, config.patch_size, run.config.seed)
    return run, studies, crops


def results_folder(dataset: PreprocessedDataset) -> Path:
    """Where the run of a data set, its plans and its configuration keeps its results."""
    plans, configuration = dataset.plans["plans_name"], dataset.configuration_name
    return pretraining_folder(dataset.name, plans, configuration)


def pretrain(dataset: PreprocessedDataset, options: Options, resume: bool = False) -> Path:
    """Pre-train on the cases of a data set, and of unlabelled ones.

    Args:
        dataset: opened; its block holds all values.
        options: of this run.
        resume: continue where an earlier run stopped.

    Returns:
        Path of the final checkpoint.

    Raises:
        AMAEError: see ``prepare``, ``load_state``, ``train``.
        Stopped: by a signal.
    """
    folder = results_folder(dataset)
    names = (LATEST_NAME, PREVIOUS_NAME, CHECKPOINT_NAME)
    if not resume and any((folder / name).exists() for name in names):
        raise ConfigError(f"{folder} holds a pre-training: continue it with --c, or delete it")
    run, studies, crops = prepare(dataset, options)
    folder.mkdir(parents=True, exist_ok=True)
    if load_state(run):
        log.info("continuing after step %d of %d", run.step, run.steps)
    board = TensorBoard(folder, run.epoch) if options.tensorboard else None
    artist = Artist(dataset, options.fold, studies, options.pictures, board)
    train(run, crops, options.num_workers, artist)
    path = folder / CHECKPOINT_NAME
    with whole_file(path) as temporary:
        save_checkpoint(temporary, run.model, checkpoint_facts(run, dataset, options.fold))
    return path
