"""Where a trained model is: its folder and its folds, found without torch (not in the paper)."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from amae_nnunet.errors import ConfigError
from amae_nnunet.folders import nnunet_folder
from amae_nnunet.plans.preprocessed import dataset_name

_SHOWN = 6  # names in a message


def model_folder(dataset: str, trainer: str, plans: str, configuration: str) -> Path:
    """``nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION``, whether it is there or not.

    Args:
        dataset: number or name.
        trainer: its name.
        plans: their name.
        configuration: of the plans.

    Raises:
        ConfigError: ``nnUNet_results`` is not set.
        InputError: there is no such data set.
    """
    results = nnunet_folder("nnUNet_results") / dataset_name(dataset)
    return results / f"{trainer}__{plans}__{configuration}"


def trained_folds(folder: Path, checkpoint: str) -> list[str]:
    """Numbers of the folds that have the checkpoint."""
    found = [path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint}")]
    return sorted((fold for fold in found if fold.isdecimal()), key=int)


def find_folds(folder: Path, folds: Sequence[str], checkpoint: str) -> list[str]:
    """The folds of a model that predict.

    Args:
        folder: of the model.
        folds: that are wanted; empty: all that are trained, but for ``all``.
        checkpoint: name of the file in a fold's folder.

    Raises:
        ConfigError: one of them is not there, or none is trained.
    """
    found = list(folds) or trained_folds(folder, checkpoint)
    missing = [fold for fold in found if not (folder / f"fold_{fold}" / checkpoint).is_file()]
    if missing or not found:
        file = f"fold_{missing[0] if missing else 0}/{checkpoint}"
        advice = beside(folder, file) or _there(folder)
        if not folds and (folder / "fold_all" / checkpoint).is_file():
            advice = "give -f all"
        raise ConfigError(f"{folder} has no {file}: {advice}")
    return found


def _there(folder: Path) -> str:
    """What is there instead: checkpoints of the model, or other models of the data set."""
    found = sorted(folder.glob("fold_*/checkpoint_*.pth"))
    kind, names = "-f and -chk", [f"{path.parent.name}/{path.name}" for path in found]
    if not found:
        models = sorted({path.parent.parent for path in folder.parent.glob("*/fold_*/*.pth")})
        kind, names = "-tr, -p and -c", [path.name for path in models if "__" in path.name]
    names = [name for name in names if "AMAEPretraining__" not in name]
    if not names:
        return "train it with nnUNetv2_train, or give -m FOLDER"
    more = ", ..." if len(names) > _SHOWN else ""
    return f"there are {', '.join(names[:_SHOWN])}{more} (see {kind})"


def beside(folder: Path, file: str) -> str:
    """Advice to take the model of the same trainer and configuration that has other plans.

    Args:
        folder: of the model that was looked for.
        file: that it lacks, and the other one has.

    Returns:
        Nothing where there is no such model.
    """
    trainer, _, rest = folder.name.partition("__")
    plans, _, configuration = rest.partition("__")
    pattern = f"{glob.escape(trainer)}__*__{glob.escape(configuration)}"
    for other in sorted(folder.parent.glob(pattern)) if configuration else []:
        theirs = other.name.split("__")[1]
        if theirs != plans and (other / file).exists():
            return f"take {other.name} beside it (-p {theirs}, or its folder with -m)"
    return ""
