"""Where converted cases go: a data set of nnU-Net, or a folder of inference inputs.

Not in the paper, which describes no conversion.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from amae_nnunet.convert.source import RawCase
from amae_nnunet.errors import ConfigError
from amae_nnunet.folders import FOLDERS, nnunet_folder

_log = logging.getLogger(__name__)
#: split -> folders of images and labels in a data set.
LAYOUT = {
    "train": ("imagesTr", "labelsTr"),
    "test": ("imagesTs", "labelsTs"),
    "unlabeled": ("imagesTr", None),
}


@dataclass(frozen=True)
class Target:
    """Where cases go.

    Attributes:
        folder: the data set's folder, or the folder of inference inputs.
        split: of cases whose input names none: ``train``, ``test`` or ``unlabeled``.
        dataset: the name for ``dataset.json``; None for inference inputs, which have no labels
            and lie in ``folder`` itself.
        folds: how many folds by subject are written; None for those that are needed.
    """

    folder: Path
    split: str = "test"
    dataset: str | None = None
    folds: int | None = None

    def split_of(self, raw: RawCase) -> str:
        """The split of a case."""
        return raw.split or self.split if self.dataset else self.split

    def images(self, split: str) -> Path:
        """The folder of a split's images."""
        return self.folder / LAYOUT[split][0] if self.dataset else self.folder

    def labels(self, split: str) -> Path | None:
        """The folder of a split's labels, None if they are not used."""
        name = LAYOUT[split][1]
        return self.folder / name if self.dataset and name else None


def dataset_target(identifier: int, name: str, split: str, folds: int | None = None) -> Target:
    """The target ``nnUNet_raw/DatasetXXX_NAME``.

    Raises:
        ConfigError: ``nnUNet_raw`` is not set or cannot be made, or number or name are not usable
            or taken.
    """
    if not 1 <= identifier <= 999:
        raise ConfigError(f"-d {identifier}: a data set number is 1 to 999")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ConfigError(f"-n {name!r}: use letters, digits, '_' and '-' only")
    raw = nnunet_folder("nnUNet_raw")
    if not raw.is_dir():
        if not raw.absolute().parent.is_dir():
            raise ConfigError(
                f"nnUNet_raw is {raw}, and the folder above it is not there: correct it, or make it"
            )
        _log.info("nnUNet_raw is %s, which is not there yet and is made", raw)
    dataset = f"Dataset{identifier:03d}_{name}"
    for variable in FOLDERS:
        base = os.environ.get(variable)
        taken = sorted(Path(base).glob(f"Dataset{identifier:03d}_*")) if base else []
        other = next((path.name for path in taken if path.name != dataset), None)
        if other:
            raise ConfigError(f"{variable} has {other}: choose another number than {identifier}")
    return Target(Path(raw) / dataset, split, dataset, folds)
