"""What a checkpoint makes of a case: figure 2 of the paper, NIfTI files, and skills."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from amae_nnunet.errors import ConfigError, InputError
from amae_nnunet.networks.checkpoint import Checkpoint
from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.plans.preprocessed import PreprocessedDataset, case_reader, nonzero_channels
from amae_nnunet.plans.unlabeled import published_cases, unlabeled_folder
from amae_nnunet.pretraining.files import durable_file
from amae_nnunet.pretraining.geometry import save_nifti
from amae_nnunet.pretraining.pictures import ROWS, save_reconstruction
from amae_nnunet.pretraining.rebuild import Rebuilt, rebuild_study
from amae_nnunet.pretraining.skill import skill_row, skill_sums
from amae_nnunet.pretraining.studies import Study


def find_studies(
    dataset: PreprocessedDataset, names: Sequence[str], contrasts: tuple[str, ...]
) -> list[Study]:
    """Preprocessed cases of a data set, or of unlabelled ones preprocessed with its plans.

    Args:
        dataset: opened.
        names: ``case``, or ``DatasetXXX_Name/case``, or ``DatasetXXX_Name`` for all of its cases;
            none: all cases of ``dataset``.
        contrasts: of the checkpoint; a case's others are left out.

    Raises:
        InputError: no such case, several, or none of its contrasts is the checkpoint's.
    """
    own = dict.fromkeys(dataset.cases(), dataset.data_folder)
    places = {f"{dataset.name}/{case}": folder for case, folder in own.items()}
    channels: dict[str, dict[str, int]] = {}
    for folder in sorted(unlabeled_folder(dataset).glob("Dataset*")):
        for case, found in published_cases(folder).items():
            places[f"{folder.name}/{case}"] = folder
            channels[f"{folder.name}/{case}"] = found
    studies = []
    for place in dict.fromkeys(_places(places, names or [dataset.name])):
        has = channels.get(place) or _channels(dataset, place.partition("/")[2])
        known = {contrast: channel for contrast, channel in has.items() if contrast in contrasts}
        if not known:
            raise InputError(
                f"case {place} has {', '.join(has)}, the checkpoint knows {', '.join(contrasts)}"
            )
        rows = tuple(contrasts.index(contrast) for contrast in known)
        owner, _, case = place.partition("/")
        studies.append(Study(owner, case, places[place], tuple(known.values()), rows))
    return studies


def _places(places: Iterable[str], names: Sequence[str]) -> Iterator[str]:
    """The cases that are meant, as ``DatasetXXX_Name/case``."""
    parts = {place: place.partition("/") for place in sorted(places)}
    for name in names:
        whole = [place for place, (dataset, _, _) in parts.items() if name == dataset]
        found = whole or [place for place, (_, _, case) in parts.items() if name in (place, case)]
        if not found:
            raise InputError(
                f"{name} is no preprocessed case or data set: amae-nnunet-pretrain --unlabeled "
                "(--estimate) preprocesses unlabelled ones"
            )
        if len(found) > 1 and not whole:
            raise InputError(
                f"case {name}: {len(found)} preprocessed cases have this name; write it as "
                f"{found[0]}, say"
            )
        yield from found


def _channels(dataset: PreprocessedDataset, case: str) -> dict[str, int]:
    """The contrasts that a case of the labelled data set has, and their channels."""
    reader = case_reader(dataset.data_folder)(str(dataset.data_folder), [case])
    flags = nonzero_channels(reader.load_case(case)[0])
    return {name: c for c, name in enumerate(dataset.block.contrasts) if flags[c]}


def check_spacing(dataset: PreprocessedDataset, checkpoint: Checkpoint, path: Path) -> None:
    """Raise ConfigError unless a data set is preprocessed at the checkpoint's spacing."""
    spacing = tuple(float(step) for step in dataset.configuration["spacing"])
    if not np.allclose(spacing, checkpoint.config.spacing, rtol=1e-3):
        raise ConfigError(
            f"{path.name} was trained at {list(checkpoint.config.spacing)} mm, "
            f"{dataset.configuration_name} of {dataset.name} has {list(spacing)} mm: give the "
            "configuration that it was trained with"
        )


def show_study(
    model: AdaptiveMAE,
    study: Study,
    dataset: PreprocessedDataset,
    output: Path,
    mask_ratio: float,
    seed: int = 0,
    nifti: bool = False,
) -> dict[str, Any]:
    """Write the picture of a case, ``CASE.json`` with its skills, and NIfTI files if wanted.

    Args:
        model: pre-trained.
        study: from ``find_studies``.
        dataset: whose plans it was preprocessed with.
        output: folder.
        mask_ratio: share of the tokens that is hidden.
        seed: of the masks.
        nifti: whether to write ``CASE_CONTRAST_original.nii.gz``, ``..._masked`` (hidden voxels
            have the image's lowest value) and ``..._reconstructed``.

    Returns:
        Skills by contrast, see ``skill_row``.
    """
    contrasts, transpose = model.config.contrasts, dataset.plans["transpose_forward"]
    result = rebuild_study(model, study, mask_ratio, seed)
    batch = (part[None] for part in (result.images, result.rebuilt, result.hidden, result.present))
    skills = skill_row(skill_sums(*batch), contrasts)
    spacing = model.config.spacing
    picture = output / f"{study.case}.png"
    save_reconstruction(picture, contrasts, {study.case: result}, spacing, transpose)
    with durable_file(output / f"{study.case}.json") as temporary:
        temporary.write_text(json.dumps(skills, indent=1) + "\n", encoding="utf-8")
    if nifti:
        _save_niftis(result, study, contrasts, output, transpose)
    return skills


def _save_niftis(
    result: Rebuilt,
    study: Study,
    contrasts: Sequence[str],
    output: Path,
    transpose_forward: Sequence[int],
) -> None:
    with (study.folder / f"{study.case}.pkl").open("rb") as file:
        properties = pickle.load(file)  # nnU-Net's own file, from our own preprocessed folder
    for c in tqdm(study.contrasts, "NIfTI", unit="contrast", leave=False):
        image = result.images[c]
        masked = image.masked_fill(result.hidden[c], image.min().item())
        for kind, volume in zip(ROWS, (image, masked, result.rebuilt[c]), strict=True):
            path = output / f"{study.case}_{contrasts[c]}_{kind}.nii.gz"
            save_nifti(path, volume.numpy(), properties, transpose_forward)
