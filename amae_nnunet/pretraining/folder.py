"""What lies in the results folder of a pre-training, seen without torch (not in the paper)."""

from __future__ import annotations

from pathlib import Path

from amae_nnunet.errors import ConfigError
from amae_nnunet.plans.preprocessed import CHECKPOINT_NAME

#: The state to continue from, and the one before it.
LATEST_NAME = "checkpoint_latest.pth"
PREVIOUS_NAME = "checkpoint_previous.pth"


def check_unused(folder: Path) -> None:
    """Raise ConfigError if a folder holds a pre-training, which a new one would overwrite."""
    if any((folder / name).exists() for name in (LATEST_NAME, PREVIOUS_NAME, CHECKPOINT_NAME)):
        raise ConfigError(
            f"{folder} holds a pre-training: continue it with --c, or delete it, or "
            "give what is to be new another --name with amae-nnunet-configure"
        )
