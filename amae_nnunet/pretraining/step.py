"""One step of the optimizer, on one pass of a batch or several, on one process or several.

The loss is the mean over all hidden voxels of the *batch*. Passes differ in how many tokens they
hide, so each one's mean counts as much as its share of them::

    loss = sum over passes of (tokens hidden in the pass / tokens hidden in the batch) * its mean

and gradients add up exactly. DDP and FSDP2 average over processes, which is undone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amae_nnunet.networks.mae import MAEOutput
from amae_nnunet.pretraining.data import Batch
from amae_nnunet.pretraining.parallel import gradients_kept
from amae_nnunet.pretraining.rebuild import masks_of, run_model
from amae_nnunet.pretraining.run import Run, learning_rate
from amae_nnunet.pretraining.skill import SKILL_STEPS, SKILL_STRIDE, skill_sums
from amae_nnunet.pretraining.state import check_finite


def train_step(run: Run, passes: Sequence[Batch]) -> None:
    """One step of the optimizer on a batch.

    Args:
        run: in progress.
        passes: this process' part of the batch.

    Raises:
        AMAEError: the loss of the step before is not finite.
    """
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run.config, run.step, run.steps)
    run.optimizer.zero_grad(set_to_none=True)
    error, count, studies = accumulate(run, passes)
    run.optimizer.step()
    run.record.add(error, count, studies)
    run.iteration += 1
    check_finite(run, back=2)


def accumulate(run: Run, passes: Sequence[Batch]) -> tuple[Tensor, Tensor, int]:
    """Add the gradients of a batch to those of the model.

    Returns:
        Of the whole batch, the passes of other processes included: squared error and hidden tokens
        of each contrast, (C,), and the number of studies.
    """
    config, model = run.config, run.model.config
    masks = [
        masks_of(
            present,
            seeds.tolist(),
            model.num_tokens,
            config.mask_ratio,
            config.whole_contrast_prob,
            config.slot_budget,
        )
        for _, present, seeds in passes
    ]
    hidden = [int(masked[: slots.real].sum()) for slots, masked in masks]
    batch_hidden, studies = run.ranks.sums([sum(hidden), sum(len(x) for x, _, _ in passes)])
    sums = torch.zeros(2, model.num_contrasts, device=run.device)
    last = len(passes) - 1
    for number, (x, present, _) in enumerate(passes):
        x = x.to(run.device, non_blocking=run.device.type == "cuda").to(run.model.mask_token.dtype)
        with gradients_kept(run.network, keep=number < last):
            output = run_model(run.network, x, *masks[number], model)
            (output.loss * (run.ranks.size * hidden[number] / batch_hidden)).backward()
        sums = sums + torch.stack([output.error, output.count])
        if run.iteration < SKILL_STEPS:
            add_skill(run, output, x, present)
    error, count = run.ranks.add(sums)
    return error, count, studies


@torch.no_grad()
def add_skill(run: Run, output: MAEOutput, x: Tensor, present: Tensor) -> None:
    """Add to the record what the skill of a pass is made from."""
    hidden, rebuilt = run.model.reconstruct(output, x)
    thin = (..., slice(None, None, SKILL_STRIDE), slice(None, None, SKILL_STRIDE))
    sums = skill_sums(x[thin], rebuilt[thin], hidden[thin], present)
    run.record.add_skill(run.ranks.add(sums))
