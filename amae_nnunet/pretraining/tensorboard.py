"""The lines of ``metrics.jsonl`` as TensorBoard scalars, an optional extra (not in the paper)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from amae_nnunet.errors import ConfigError

BOARD_NAME = "tensorboard"


def check_installed() -> None:
    """Raise ConfigError unless TensorBoard can be imported."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise ConfigError(
            "--tensorboard needs TensorBoard: pip install 'amae-nnunet[tensorboard]'"
        ) from None


class TensorBoard:
    """Event files in the folder ``tensorboard`` of a run.

    Args:
        folder: of the run.
        first: epoch from which it goes on; what an earlier session wrote of later ones is dropped.
    """

    def __init__(self, folder: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / BOARD_NAME), purge_step=first)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the line of an epoch, and hand it to the disk."""
        for name, value in scalars(row):
            self._writer.add_scalar(name, value, row["epoch"])
        self._writer.flush()


def scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a line: ``loss``, ``contrast_loss/ADC``, ...; no text and no None."""
    for key, value in row.items():
        inner = value.items() if isinstance(value, Mapping) else ((None, value),)
        for name, number in inner:
            if isinstance(number, (int, float)) and not isinstance(number, bool) and key != "epoch":
                yield (key if name is None else f"{key}/{name}"), number
