"""A new contrast for a model that is pre-trained already, from a few studies that have it.

Everything that the model has learnt is shared by all contrasts but for three vectors of each: the
modality vector of the tokenizer and the contrast embeddings of encoder and decoder. Those of the
new contrast start as the mean of the others' and are fitted to the loss of the pre-training; every
other value stays bit for bit. Not in the paper.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from amae_nnunet.contrasts import check_contrast_names
from amae_nnunet.errors import AMAEError, ConfigError, InputError
from amae_nnunet.networks.checkpoint import (
    Checkpoint,
    load_mae,
    read_checkpoint,
    save_checkpoint,
)
from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.networks.transfer import contrast_tables, for_contrasts
from amae_nnunet.plans.preprocessed import PreprocessedDataset
from amae_nnunet.plans.seen import SeenCases
from amae_nnunet.pretraining.data import RandomCrops, crop_loader
from amae_nnunet.pretraining.files import durable_file
from amae_nnunet.pretraining.loop import Options
from amae_nnunet.pretraining.mishaps import in_one_line
from amae_nnunet.pretraining.rebuild import masks_of, rebuild_middle, run_model
from amae_nnunet.pretraining.show import check_spacing
from amae_nnunet.pretraining.studies import Study, gather_studies

log = logging.getLogger(__name__)

HELD_OUT = 5  # of as many studies one is held out to measure on
DRAWS = 4  # of hidden tokens, in measuring


@dataclass(frozen=True)
class FitConfig:
    """How the vectors of a contrast are fitted: Adam, a rate that falls as a half cosine."""

    steps: int = 300
    batch_size: int = 4  # studies
    lr: float = 0.01
    seed: int = 0


def add_contrast(
    path: Path,
    name: str,
    dataset: PreprocessedDataset,
    options: Options,
    fit: FitConfig | None = None,
) -> Path:
    """Write a checkpoint that knows one contrast more, beside the one that does not.

    Args:
        path: the pre-trained checkpoint, which is left as it is.
        name: of the new contrast.
        dataset: preprocessed at the checkpoint's spacing.
        options: which of its studies, and of unlabelled ones; where to compute.
        fit: how to.

    Returns:
        Path of the new checkpoint.

    Raises:
        AMAEError: the contrast or the new file is there already, no study has the contrast, or see
            ``read_checkpoint``, ``check_spacing``, ``gather_studies``, ``fit_contrast``.
    """
    fit = fit or FitConfig()
    old = read_checkpoint(path)
    if name in old.config.contrasts:
        raise ConfigError(
            f"checkpoint {path} knows {name} already (it knows {', '.join(old.config.contrasts)})"
        )
    contrasts = check_contrast_names([*old.config.contrasts, name])
    target = path.with_name(f"{path.stem}_{name}{path.suffix}")
    if target.exists():
        raise ConfigError(f"{target} exists: fine-tune from it, or delete it to fit {name} again")
    check_spacing(dataset, old, path)
    studies = studies_with(name, contrasts, dataset, options)
    held = studies[HELD_OUT - 1 :: HELD_OUT]
    fitted = [study for study in studies if study not in held]
    config = dataclasses.replace(old.config, contrasts=contrasts)
    tensors = for_contrasts(old.tensors, old.config, contrasts)
    model = load_mae(Checkpoint(config, old.facts, tensors)).to(options.device)
    mask_ratio = old.mask_ratio
    before = masked_error(model, held or fitted, mask_ratio, fit.seed)
    fit_contrast(model, fitted, mask_ratio, fit, options.num_workers)
    after = masked_error(model, held or fitted, mask_ratio, fit.seed)
    count = f"{len(held)} held-out" if held else "the fitted ones, all"
    log.info(
        "masked error of %s alone, in the middle of %s of %d studies: %.4f with the mean vector, "
        "%.4f fitted",
        name, count, len(studies), before, after,
    )  # fmt: skip
    if not after < before:
        log.warning("warning: the fit does not help: give more studies, or check the images")
    error = {"mean_vector": before, "fitted": after, "held_out": bool(held)}
    facts = _facts(old, name, fitted, error, fit)
    with durable_file(target) as temporary:
        save_checkpoint(temporary, model, facts)
    return target


def _facts(
    old: Checkpoint, name: str, fitted: Sequence[Study], error: dict[str, Any], fit: FitConfig
) -> dict[str, Any]:
    """What the old checkpoint says, and how the contrast was added."""
    seen = SeenCases.from_json(old.facts.get("seen_cases", {})).with_cases(s.name for s in fitted)
    added = {
        "contrast": name,
        "studies": len(fitted),
        "masked_error": error,
        **dataclasses.asdict(fit),
    }
    return {
        **old.facts,
        "seen_cases": seen.to_json(),
        "num_cases": len(seen.hashes),
        "added_contrasts": [*old.facts.get("added_contrasts", []), added],
    }


def studies_with(
    name: str, contrasts: Sequence[str], dataset: PreprocessedDataset, options: Options
) -> list[Study]:
    """The studies that have a contrast, with the rows of ``contrasts``, sorted by name.

    Images of contrasts that are not among ``contrasts`` are left out.

    Raises:
        InputError: there are none.
    """
    names, studies = gather_studies(dataset, options.fold, options.unlabeled, options.processes)
    found = []
    for study in studies:
        has = {
            names[row]: channel
            for row, channel in zip(study.contrasts, study.channels, strict=True)
        }
        if name in has:
            known = {contrasts.index(c): has[c] for c in has if c in contrasts}
            found.append(
                dataclasses.replace(study, contrasts=tuple(known), channels=tuple(known.values()))
            )
    if not found:
        raise InputError(
            f"none of {len(studies)} studies has {name} (they have {', '.join(names)}): give a "
            "data set that has it with --unlabeled"
        )
    return sorted(found, key=lambda study: study.name)


@in_one_line("run it again")
def fit_contrast(
    model: AdaptiveMAE,
    studies: Sequence[Study],
    mask_ratio: float,
    fit: FitConfig,
    num_workers: int = 0,
) -> None:
    """Fit the vectors of the model's last contrast, and nothing else.

    Args:
        model: changed in place.
        studies: that have the contrast.
        mask_ratio: share of the tokens that is hidden.
        fit: how to.
        num_workers: processes that read crops.

    Raises:
        AMAEError: the loss is not finite, or a process that reads studies died.
    """
    config, device = model.config, model.mask_token.device
    model.requires_grad_(False)
    tables = []
    for name, dim in contrast_tables(config).items():
        table = model.get_parameter(name).requires_grad_()
        table.register_hook(partial(_last_only, dim=dim))
        tables.append(table)
    # Where the gradient is zero in every step, Adam moves nothing.
    optimizer = torch.optim.Adam(tables, lr=fit.lr)
    crops = RandomCrops(studies, config.num_contrasts, config.patch_size, fit.seed)
    samples = range(fit.steps * fit.batch_size)
    batches = [list(samples[at : at + fit.batch_size]) for at in samples[:: fit.batch_size]]
    loader = crop_loader(crops, batches, num_workers, device.type == "cuda")
    with tqdm(loader, f"fit {config.contrasts[-1]}", unit="step") as bar:
        for step, (x, present, seeds) in enumerate(bar):
            for group in optimizer.param_groups:
                group["lr"] = fit.lr * 0.5 * (1 + math.cos(math.pi * step / fit.steps))
            slots, masked = masks_of(present, seeds.tolist(), config.num_tokens, mask_ratio)
            loss = run_model(model, x.to(device).float(), slots, masked, config).loss
            if not math.isfinite(loss.item()):
                raise AMAEError(f"the loss became {loss.item()} in step {step}: nothing is written")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)


def _last_only(gradient: Tensor, dim: int) -> Tensor:
    """The gradient of the last contrast, zero for the others."""
    kept = torch.zeros_like(gradient)
    kept.select(dim, -1).copy_(gradient.select(dim, -1))
    return kept


def masked_error(
    model: AdaptiveMAE, studies: Sequence[Study], mask_ratio: float, seed: int
) -> float:
    """Mean squared error of the last contrast's hidden voxels, in the middle of each study."""
    total, count = 0.0, 0
    for study in studies:
        for draw in range(DRAWS):
            part = rebuild_middle(model, study, mask_ratio, (seed << 32) + draw)
            hidden = part.hidden[-1]
            total += (part.rebuilt - part.images)[-1][hidden].square().sum().item()
            count += int(hidden.sum())
    return total / count if count else math.nan
