"""The pre-training loop (section 2.4): AdamW, L2 on hidden tokens, 500 epochs.

Results folder::

    metrics.jsonl                  one line an epoch: losses, skills, lr, seconds
    progress.png                   the same, drawn
    reconstruction_epoch_XXX.png   figure 2 for a few studies, always the same
    checkpoint_latest.pth          state to continue from: of each epoch (of large models one a
                                   minute), and every 15 minutes of a long one
    checkpoint_previous.pth        the state before it
    checkpoint_final.safetensors   the weights to fine-tune from, when all epochs are done
    .lock                          held while a run writes here

Batches and masks are functions of the seed and the step, so a run that is continued repeats what
an uninterrupted one would have done (on a CPU bit for bit). Of several processes all train, and the
first one writes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from amae_nnunet.lock import LOCK, locked
from amae_nnunet.networks.checkpoint import save_checkpoint
from amae_nnunet.plans.preprocessed import (
    CHECKPOINT_NAME,
    PreprocessedDataset,
    pretraining_folder,
)
from amae_nnunet.pretraining.artist import Artist, check_names
from amae_nnunet.pretraining.batches import Batches, count_passes
from amae_nnunet.pretraining.data import RandomCrops, crop_loader
from amae_nnunet.pretraining.files import durable_file
from amae_nnunet.pretraining.folder import check_unused
from amae_nnunet.pretraining.metrics import EpochRecord, write_rows
from amae_nnunet.pretraining.mishaps import in_one_line
from amae_nnunet.pretraining.parallel import whole_model
from amae_nnunet.pretraining.ranks import Ranks
from amae_nnunet.pretraining.run import Run, checkpoint_facts, model_to_train, new_run
from amae_nnunet.pretraining.skill import alarm
from amae_nnunet.pretraining.state import (
    SavedState,
    check_finite,
    find_state,
    load_state,
    save_state,
)
from amae_nnunet.pretraining.step import train_step
from amae_nnunet.pretraining.stop import Stopped, StopSignals, signals_held
from amae_nnunet.pretraining.studies import Study, gather_studies
from amae_nnunet.pretraining.tensorboard import TensorBoard, check_installed

log = logging.getLogger(__name__)

CONTINUE = "continue with --c"
SAVE_SECONDS = 900.0  # of a long epoch, after which the state is saved; not in the paper
#: A state of ViT-Base has 1.4 GB, and few studies make epochs of a second on a GPU: above so many
#: weights, the states of two epochs are so many seconds apart. Not in the paper.
LARGE, PAUSE = 10_000_000, 60.0


def end_epoch(run: Run) -> None:
    """Write the epoch's line of metrics; warn where nothing is learnt."""
    check_finite(run)
    run.rows.append(
        {
            "epoch": run.epoch,
            **run.record.row(run.model.config.contrasts),
            "lr": run.optimizer.param_groups[0]["lr"],
            "seconds": round(run.record.seconds, 3),
        }
    )
    found = alarm(run.rows, run.config.num_epochs)
    run.rows[-1]["alarm"] = found
    if found and not (len(run.rows) > 1 and run.rows[-2]["alarm"]):
        log.warning("warning: %s", found)
    if run.ranks.rank == 0:
        write_rows(run.folder, run.rows)
    run.epoch, run.iteration, run.record = run.epoch + 1, 0, EpochRecord()


def save_due(run: Run) -> bool:
    """Whether this process would save the state now."""
    seconds = SAVE_SECONDS
    if run.iteration == run.iterations:
        weights = sum(parameter.numel() for parameter in run.model.parameters())
        seconds = PAUSE if weights > LARGE and run.step < run.steps else 0.0
    return time.monotonic() - run.saved >= seconds


@in_one_line(CONTINUE)
def train(run: Run, batches: Batches, num_workers: int, draw: Callable[[Run], None]) -> None:
    """All steps that are left.

    Args:
        run: in progress.
        batches: its samples.
        num_workers: processes that read them.
        draw: called at the end of each epoch.

    Raises:
        Stopped: by a signal; the state is saved.
        AMAEError: the loss is not finite, the disk is full, or a process that reads data died.
    """
    passes = batches.own(run.step, run.steps, run.position)
    loader = crop_loader(batches.crops, passes, num_workers, run.device.type == "cuda")
    with _Bar(run) as bar, StopSignals() as signals, logging_redirect_tqdm():
        with signals_held():
            parts = iter(loader)
        for batch in zip(*[parts] * batches.own_passes, strict=True):
            train_step(run, batch)
            run.position = batches.position(run.step)
            bar.show(run)
            stop, save = run.ranks.largest([signals.number, save_due(run)])  # all do the same
            ended = run.iteration == run.iterations
            if ended:
                end_epoch(run)
            if stop or save:
                save_state(run)
            if ended:
                draw(run)
            if stop and run.step < run.steps:
                raise Stopped(
                    stop, f"{run.step} of {run.steps} steps are done and saved; continue with --c"
                )


class _Bar(tqdm):
    """A progress bar of steps, which tells studies per second as well; on the first process."""

    def __init__(self, run: Run) -> None:
        hidden = run.ranks.rank > 0
        super().__init__(total=run.steps, initial=run.step, unit="step", disable=hidden)

    def show(self, run: Run) -> None:
        """One step more."""
        speed = run.record.studies / run.record.seconds
        loss = f"{run.record.loss(2):.4f}"
        self.set_postfix({"epoch": run.epoch, "loss": loss, "studies/s": speed}, refresh=False)
        self.update()


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
        ranks: the processes that train.
        shard: cut the model in pieces, one a process.
    """

    fold: str = "all"
    unlabeled: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_workers: int = 0
    processes: int = 2
    tensorboard: bool = False
    ranks: Ranks = field(default_factory=Ranks)
    shard: bool = False


def prepare(
    dataset: PreprocessedDataset, options: Options, saved: SavedState | None = None
) -> tuple[Run, list[Study], Batches]:
    """A run that has done nothing yet, its studies and its batches; nothing is written of it.

    Args:
        dataset: opened.
        options: of the run.
        saved: of an earlier run, whose studies are taken.

    Raises:
        AMAEError: see ``gather_studies``, ``SavedState.studies_of_run``, ``new_run``,
            ``Batches.of``.
    """

    def gather() -> tuple[tuple[str, ...], list[Study]]:
        contrasts, studies = gather_studies(
            dataset, options.fold, options.unlabeled, options.processes
        )
        return contrasts, saved.studies_of_run(studies) if saved else studies

    ranks = options.ranks
    ranks.from_first(lambda: _check(dataset, options))
    if named := dataset.block.checkpoint:
        log.warning(
            "warning: %s names the checkpoint %s: the trainers start from that, not from what this "
            "run writes, which begins with random weights",
            dataset.plans["plans_name"],
            named["path"],
        )
    contrasts, studies = ranks.from_first(gather)
    folder = results_folder(dataset, options.fold)
    run = new_run(dataset, contrasts, studies, folder, options.device, ranks, options.shard)
    model = run.model.config
    log.info(
        "pre-training on %d studies (%s), %d tokens of %s voxels a contrast, on %d x %s",
        len(studies),
        ", ".join(model.contrasts),
        model.num_tokens,
        "x".join(map(str, model.token_size)),
        ranks.size,
        run.device.type,
    )
    crops = RandomCrops(studies, model.num_contrasts, model.patch_size, run.config.seed)
    return run, studies, Batches.of(crops, run.config, ranks)


def results_folder(dataset: PreprocessedDataset, fold: str) -> Path:
    """Where the run of a data set, its plans, its configuration and a fold keeps its results."""
    plans, configuration = dataset.plans["plans_name"], dataset.configuration_name
    return pretraining_folder(dataset.name, plans, configuration, fold)


def _state_in(folder: Path, resume: bool) -> SavedState | None:
    """The state to continue from, if that is wanted; else there must be none."""
    if resume:
        state = find_state(folder)
        if state is None:
            log.info("%s holds nothing to continue: a new run begins", folder)
        return state
    check_unused(folder)
    return None


def pretrain(dataset: PreprocessedDataset, options: Options, resume: bool = False) -> Path:
    """Pre-train on the cases of a data set, and of unlabelled ones.

    Args:
        dataset: opened; its block holds all values.
        options: of this run.
        resume: continue where an earlier run stopped.

    Returns:
        Path of the final checkpoint.

    Raises:
        ConfigError: another run writes into the folder.
        AMAEError: see ``find_state``, ``prepare``, ``load_state``, ``train``.
        Stopped: by a signal.
    """
    folder = results_folder(dataset, options.fold)
    with ExitStack() as stack:
        saved = options.ranks.from_first(lambda: _state_in(folder, resume))
        run, studies, batches = prepare(dataset, options, saved)
        options.ranks.from_first(lambda: stack.enter_context(_owned(folder, new=saved is None)))
        if saved:
            load_state(run, saved)
            log.info("continuing after step %d of %d", run.step, run.steps)
        artist = options.ranks.from_first(
            lambda: Artist(dataset, options.fold, studies, options.pictures)
        )
        if options.tensorboard and run.ranks.rank == 0:
            artist.board = TensorBoard(folder, run.epoch)
        train(run, batches, options.num_workers, artist)
        return _write_checkpoint(run, dataset, options.fold)


def _check(dataset: PreprocessedDataset, options: Options) -> None:
    """Refuse what cannot be before preprocessing that may take days."""
    count_passes(dataset.block.pretraining_config(), options.ranks.size)
    model_to_train(dataset, dataset.block.contrasts)
    check_names(dataset, options.unlabeled, options.pictures)
    if options.tensorboard:
        check_installed()


@contextmanager
def _owned(folder: Path, new: bool) -> Iterator[None]:
    """A context in which no other run writes into the folder; ``new``: none has done so before."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK):
        if new:
            check_unused(folder)
        yield


@in_one_line(CONTINUE)
def _write_checkpoint(run: Run, dataset: PreprocessedDataset, fold: str) -> Path:
    path, model = run.folder / CHECKPOINT_NAME, whole_model(run.model, run.ranks.rank == 0)
    if run.ranks.rank == 0:
        with durable_file(path) as temporary:
            save_checkpoint(temporary, model, checkpoint_facts(run, dataset, fold))
    return path
