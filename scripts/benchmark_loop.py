"""How much of a GPU a pre-training uses: steps on batches in memory, and with their reading.

    python scripts/benchmark_loop.py 501 base -p AMAEPlans --steps 100

Takes a planned and preprocessed data set, and trains a new model with the values of its plans;
writes nothing. A step is what ``amae-nnunet-pretrain`` does: packing, forward and backward pass,
optimizer. Rows: steps on the same few batches, held in memory; the loader alone; both, as in a run.
What the loader has read before the clock starts (two batches a worker) is used up first. The share
of the peak is 3 x the operations of the forward passes (``flops.py``) over time, over what a large
bfloat16 matrix product reaches on the same GPU.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator

import torch
from benchmark_pretraining import gpu_time, matmul_rate, report
from flops import mae_flops

from amae_nnunet.plans.preprocessed import PreprocessedDataset
from amae_nnunet.pretraining.data import Batch, crop_loader
from amae_nnunet.pretraining.loop import Options, prepare
from amae_nnunet.pretraining.run import Run
from amae_nnunet.pretraining.skill import SKILL_STEPS
from amae_nnunet.pretraining.step import train_step

HELD = 4  # batches in memory

Steps = Iterable[tuple[Batch, ...]]


def train(run: Run, steps: Steps) -> Iterator[tuple[Batch, ...]]:
    """Steps on batches, without the skill, which is measured on the first of an epoch only."""
    for batch in steps:
        run.iteration = SKILL_STEPS
        train_step(run, batch)
        yield batch


def timed(
    name: str, run: Run, steps: Steps, warm_up: int, now: Callable[[], float]
) -> dict[str, float | str]:
    """Speed of what the iterator does, but for its first steps."""
    steps = iter(steps)
    for _ in itertools.islice(steps, warm_up):
        pass
    start, counts, done = now(), [], 0
    for batch in steps:
        done += 1
        counts += [int(n) for _, present, _ in batch for n in present.sum(1)]
    seconds = now() - start
    work = 3 * mae_flops(run.model.config, counts, run.config.mask_ratio)
    return {
        "variant": name,
        "ms per step": 1000 * seconds / done,
        "studies/s": len(counts) / seconds,
        "TFLOP/s": work / seconds / 1e12,
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("-p", dest="plans", default="nnUNetPlans")
    parser.add_argument("-device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    dataset = PreprocessedDataset.open(args.dataset, args.configuration, args.plans)
    run, _, batches = prepare(dataset, Options(device=torch.device(args.device)))
    ahead = 2 * args.workers + 2
    passes = batches.own(0, HELD + 2 * (ahead + args.steps))
    loader = crop_loader(batches.crops, passes, args.workers, args.device == "cuda")
    coming = zip(*[iter(loader)] * batches.own_passes, strict=True)
    held = list(itertools.islice(coming, HELD))
    memory = itertools.islice(itertools.cycle(held), ahead + args.steps)
    now = gpu_time if args.device == "cuda" else time.perf_counter
    some = itertools.islice(coming, ahead + args.steps)
    rows = [
        timed("in memory", run, train(run, memory), ahead, now),
        timed("loader alone", run, some, ahead, now),
        timed("with the loader", run, train(run, coming), ahead, now),
    ]
    peak = matmul_rate() / 1e12 if args.device == "cuda" else float("nan")
    for row in rows:
        row["share"] = float(row["TFLOP/s"]) / peak
    report(f"{args.workers} workers, peak {peak:.0f} TFLOP/s", rows)


if __name__ == "__main__":
    main()
