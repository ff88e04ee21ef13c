"""Where converted cases go: a data set of nnU-Net, or a folder of inference inputs.

Not in the paper, which describes no conversion.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from amae_nnunet.errors import ConfigError

_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
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
        split: ``train``, ``test`` or ``unlabeled``.
        dataset: the name for ``dataset.json``; None for inference inputs, which have no labels
            and lie in ``folder`` itself.
    """

    folder: Path
    split: str = "test"
    dataset: str | None = None

    @property
    def images(self) -> Path:
        """The folder of the images."""
        return self.folder / LAYOUT[self.split][0] if self.dataset else self.folder

    @property
    def labels(self) -> Path | None:
        """The folder of the labels, None if they are not used."""
        name = LAYOUT[self.split][1]
        return self.folder / name if self.dataset and name else None


def dataset_target(identifier: int, name: str, split: str) -> Target:
    """The target ``nnUNet_raw/DatasetXXX_NAME``.

    Raises:
        ConfigError: ``nnUNet_raw`` is not set, or number or name are not usable or taken.
    """
    if not 1 <= identifier <= 999:
        raise ConfigError(f"-d {identifier}: a data set number is 1 to 999")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ConfigError(f"-n {name!r}: use letters, digits, '_' and '-' only")
    raw = os.environ.get(_VARIABLES[0])
    if not raw:
        raise ConfigError("nnUNet_raw is not set: export nnUNet_raw=/path/to/nnUNet_raw")
    dataset = f"Dataset{identifier:03d}_{name}"
    for variable in _VARIABLES:
        base = os.environ.get(variable)
        taken = sorted(Path(base).glob(f"Dataset{identifier:03d}_*")) if base else []
        other = next((path.name for path in taken if path.name != dataset), None)
        if other:
            raise ConfigError(f"{variable} has {other}: choose another number than {identifier}")
    return Target(Path(raw) / dataset, split, dataset)
