"""Some steps of a pre-training in float64 and what they lead to; to import, or for torchrun."""

import sys
import time
from pathlib import Path

import torch

from amae_nnunet.plans.preprocessed import PreprocessedDataset
from amae_nnunet.pretraining.data import crop_loader
from amae_nnunet.pretraining.loop import Options, prepare
from amae_nnunet.pretraining.parallel import gathered
from amae_nnunet.pretraining.ranks import join
from amae_nnunet.pretraining.state import LATEST_NAME, save_state
from amae_nnunet.pretraining.step import train_step

STEPS = 3


def result(name, ranks, device, shard):
    """Gradients of the first step, weights after the last one, and the record of the losses."""
    dataset = PreprocessedDataset.open("950", name, "AMAEPlans")
    run, _, batches = prepare(dataset, Options(device=device, ranks=ranks, shard=shard))
    found, studies = {}, []
    loader = iter(crop_loader(batches.crops, batches.own(0, STEPS), 0, False))
    for batch in zip(*[loader] * batches.own_passes, strict=True):
        train_step(run, [(x.double(), present, seeds) for x, present, seeds in batch])
        studies.append(sum(len(x) for x, _, _ in batch))
        if run.step == 1:
            found["gradients"] = {key: p.grad for key, p in run.model.named_parameters()}
            found["gradients"] = gathered(found["gradients"], wanted=True)
    found["weights"] = gathered(run.model.state_dict(), wanted=True)
    found["record"] = {k: v for k, v in run.record.state().items() if k != "seconds"}
    return {**found, "own_studies": studies, "state_is_there": _saved_slowly(run)}


def _saved_slowly(run):
    """Whether the state is on disk when this process goes on, however slow the disk is."""
    latest, save = run.folder / LATEST_NAME, torch.save
    run.folder.mkdir(parents=True, exist_ok=True)
    latest.unlink(missing_ok=True)
    run.ranks.sums([0])  # nobody removes what another one wrote
    torch.save = lambda *args: (time.sleep(2), save(*args))
    try:
        save_state(run)
    finally:
        torch.save = save
    return latest.is_file()


def main(folder, *jobs):
    """Write the result of each job, ``name`` or ``name+shard``, on each rank."""
    torch.set_default_dtype(torch.float64)
    with join("cpu") as (ranks, device):
        for job in jobs:
            name, _, shard = job.partition("+")
            torch.save(
                result(name, ranks, device, bool(shard)), Path(folder, f"{job}_{ranks.rank}.pth")
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
