"""nnU-Net's three folders, each of which an environment variable names."""

from __future__ import annotations

import os
from pathlib import Path

from amae_nnunet.errors import ConfigError

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def dataset_number(name: str) -> str:
    """``Dataset501_Infarct`` -> ``501``, as options take it."""
    return name.removeprefix("Dataset").partition("_")[0]


def nnunet_folder(variable: str) -> Path:
    """The folder that one of the variables names.

    Raises:
        ConfigError: the variable is not set.
    """
    value = os.environ.get(variable)
    if not value:
        raise ConfigError(f"{variable} is not set: export {variable}=/path/to/{variable}")
    return Path(value)
