"""What a pre-training will cost: some of its real steps, timed; nothing is written.

Not in the paper.
"""

from __future__ import annotations

import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from amae_nnunet.pretraining.batches import Batches
from amae_nnunet.pretraining.data import crop_loader
from amae_nnunet.pretraining.mishaps import in_one_line
from amae_nnunet.pretraining.run import Run
from amae_nnunet.pretraining.skill import SKILL_STEPS
from amae_nnunet.pretraining.step import train_step

WARM_UP, TIMED = 2, 8  # steps before the clock, and on it without and with the skill; at most
_COMPILES = 10  # times the median
_SPARE = 1.001  # headers of the files


@dataclass(frozen=True)
class Estimate:
    """Costs of a run.

    Attributes:
        contrasts: mean number of a study in the timed steps.
        step_seconds: mean of the timed steps, reading included.
        skill_seconds: what the skill costs a step on which it is measured.
        epoch_seconds: of one epoch.
        total_seconds: of the whole run.
        memory_bytes: at the peak; of the device on CUDA, else of this process.
        disk_bytes: at the peak, in the results folder.
        load: processes that wanted a core in the minute before, for each core (1: all busy).
    """

    contrasts: float
    step_seconds: float
    skill_seconds: float
    epoch_seconds: float
    total_seconds: float
    memory_bytes: int
    disk_bytes: int
    load: float

    def __str__(self) -> str:
        busy = f"\nthe machine is busy: idle, it may be {self.load:.1f} times as fast"
        return (
            f"{self.contrasts:.1f} contrasts a study, {self.step_seconds:.3g} s a step\n"
            f"time: {_duration(self.epoch_seconds)} an epoch, "
            f"{_duration(self.total_seconds)} in all, and some seconds to start\n"
            f"memory: {self.memory_bytes / 1e9:.2f} GB, disk: {self.disk_bytes / 1e9:.3g} GB"
            f"{busy if self.load > 1 else ''}"
        )


@in_one_line("run it again")
def estimate(run: Run, batches: Batches, num_workers: int) -> Estimate:
    """Train some steps and foretell the rest; the run is of no use afterwards.

    It never trains more steps than the run has.

    Args:
        run: new.
        batches: its samples, so its own distribution of contrasts.
        num_workers: processes that read them.

    Raises:
        AMAEError: one of them died.
    """
    device, load = run.device, os.getloadavg()[0] / (os.cpu_count() or 1)
    warm_up, plain, slow = shares(run.steps)
    total = warm_up + plain + slow
    loader = crop_loader(batches.crops, batches.own(0, total), num_workers, device.type == "cuda")
    steps = zip(*[iter(loader)] * batches.own_passes, strict=True)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    contrasts = []
    start = time.perf_counter()
    hidden = run.ranks.rank > 0 or None  # None: where stderr is no terminal
    for number, batch in enumerate(tqdm(steps, "estimate", total, unit="step", disable=hidden)):
        measured = number >= warm_up + plain
        run.iteration = 0 if measured else SKILL_STEPS
        train_step(run, batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= warm_up:
            seconds[measured].append(time.perf_counter() - start)
            contrasts += [count for _, present, _ in batch for count in present.sum(1).tolist()]
        start = time.perf_counter()
    with_skill = mean_seconds(seconds[True])
    step = mean_seconds(seconds[False] or seconds[True])
    skill = max(0.0, with_skill - step)
    epoch = run.iterations * step + min(run.iterations, SKILL_STEPS) * skill
    return Estimate(
        statistics.fmean(contrasts),
        step,
        skill,
        epoch,
        epoch * run.config.num_epochs,
        _peak_memory(device),
        disk_bytes(run),
        load,
    )


def mean_seconds(seconds: Sequence[float]) -> float:
    """Mean of the steps but for those in which something was compiled, which last far longer."""
    usual = statistics.median(seconds)
    return statistics.fmean(one for one in seconds if one <= _COMPILES * usual)


def shares(steps: int) -> tuple[int, int, int]:
    """How many steps warm up, are timed without the skill, and with it; of a run of so many."""
    warm_up = min(WARM_UP, max(0, steps - 2))
    plain = min(TIMED, (steps - warm_up) // 2)
    return warm_up, plain, min(TIMED, steps - warm_up - plain)


def disk_bytes(run: Run) -> int:
    """Bytes of the results at the peak: three states while one is written, or two and the weights.

    A state holds weights and AdamW's two moments of what is trained.
    """
    tensors = run.model.state_dict().values()
    weights = sum(t.numel() * t.element_size() for t in tensors)
    moments = 2 * sum(p.numel() * p.element_size() for p in run.model.parameters())
    return math.ceil(_SPARE * 3 * (weights + moments))


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
