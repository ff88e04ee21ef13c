"""Which fold of a cross-validation judges which case (not in the paper, which has a test set)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amae_nnunet.errors import ConfigError
from amae_nnunet.folders import nnunet_folder
from amae_nnunet.plans.preprocessed import read_json


def judging_folds(name: str, folds: Sequence[str]) -> dict[str, str]:
    """The fold that judges a case, since it did not train on it, for each case that has one.

    Args:
        name: of the data set, ``Dataset501_Infarct``.
        folds: numbers of ``splits_final.json``.

    Raises:
        ConfigError: no such fold, none at all, or two that validate on the same case.
        InputError: there is no split file.
    """
    path = nnunet_folder("nnUNet_preprocessed") / name / "splits_final.json"
    splits: Any = read_json(path, "train a fold with nnUNetv2_train")
    found: dict[str, str] = {}
    for fold in folds:
        if fold not in map(str, range(len(splits))):
            raise ConfigError(f"--crossval: fold {fold} is none of {path}: give others with -f")
        for case in splits[int(fold)]["val"]:
            if case in found:
                raise ConfigError(
                    f"--crossval: folds {found[case]} and {fold} both validate on {case}: give "
                    "one of them with -f"
                )
            found[case] = fold
    if not found:
        raise ConfigError("--crossval: no fold is trained in all models: train one, or give -f")
    return found
