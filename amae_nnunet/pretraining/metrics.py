"""What an epoch is told by: one line of ``metrics.jsonl`` (not in the paper).

Values of a GPU come to the CPU by themselves, while it goes on; whoever reads one waits for its
step, not for those after it.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amae_nnunet.errors import InputError
from amae_nnunet.parse import parse_json
from amae_nnunet.pretraining.files import durable_file
from amae_nnunet.pretraining.skill import skill_row

METRICS_NAME = "metrics.jsonl"


@dataclass
class EpochRecord:
    """The steps of an epoch so far.

    Attributes:
        steps: for each step its loss and the loss of each contrast (NaN where it has none),
            (1 + C,), on the CPU.
        studies: in these steps.
        sums: what the skill is made from, (6, C), or None.
        before: seconds spent in earlier sessions of a run that was stopped.
    """

    steps: list[Tensor] = field(default_factory=list)
    studies: int = 0
    sums: Tensor | None = None
    before: float = 0.0
    _copies: deque[torch.cuda.Event] = field(default_factory=lambda: deque(maxlen=2))
    _start: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Time spent on the epoch."""
        return self.before + time.perf_counter() - self._start

    def add(self, error: Tensor, count: Tensor, studies: int) -> None:
        """Add a step: squared error and hidden tokens of each contrast, (C,), and its studies."""
        losses = torch.cat([(error.sum() / count.sum())[None], error / count]).float()
        if losses.is_cuda:
            if len(self._copies) == 2:  # little memory is pinned, and none anew
                self._arrive(2)
                self.steps[-2] = self.steps[-2].clone()
            copy = torch.empty(losses.shape, pin_memory=True).copy_(losses, non_blocking=True)
            losses, arrival = copy, torch.cuda.Event()
            arrival.record()
            self._copies.append(arrival)
        self.steps.append(losses.cpu())
        self.studies += studies

    def add_skill(self, sums: Tensor) -> None:
        """Add what ``skill_sums`` gives."""
        self.sums = sums if self.sums is None else self.sums + sums

    def loss(self, back: int = 1) -> float:
        """The loss ``back`` steps from the end, 1 or 2; 1 is the last (0.0: there is none yet)."""
        back = min(back, len(self.steps))
        self._arrive(back)
        return self.steps[-back][0].item() if self.steps else 0.0

    def _arrive(self, back: int = 1) -> None:
        """Wait until the values of all steps but the last ``back - 1`` are on the CPU."""
        if 0 < back <= len(self._copies):
            self._copies[-back].synchronize()

    def _table(self) -> Tensor:
        """All steps, (steps, 1 + C)."""
        self._arrive()
        return torch.stack(self.steps) if self.steps else torch.empty(0)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which ``from_state`` makes it again."""
        return {
            "steps": self._table(),
            "studies": self.studies,
            "sums": self.sums,
            "seconds": self.seconds,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> EpochRecord:
        """Undo ``state``."""
        return cls(list(state["steps"]), state["studies"], state["sums"], state["seconds"])

    def row(self, contrasts: tuple[str, ...]) -> dict[str, Any]:
        """Means of the epoch's losses; None for a contrast that no study had."""
        means = self._table().double().nanmean(dim=0).tolist()
        return {
            "loss": means[0],
            "contrast_loss": dict(zip(contrasts, map(_or_none, means[1:]), strict=True)),
            **(skill_row(self.sums, contrasts) if self.sums is not None else {}),
            "studies": self.studies,
        }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``metrics.jsonl``.

    Raises:
        AMAEError: the disk is full.
    """
    with durable_file(folder / METRICS_NAME) as temporary:
        temporary.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def read_rows(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """The lines of the first ``epochs`` epochs; later ones will be made again.

    A user may have deleted the file on the way, so the first line need not be of epoch 0.

    Raises:
        InputError: a line of these cannot be read.
    """
    path = folder / METRICS_NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:epochs], 1):
        try:
            row = parse_json(line)
            if row["epoch"] >= epochs:
                break
            rows.append(row)
        except (ValueError, LookupError, TypeError):
            raise InputError(
                f"{path}: line {number} is damaged: repair it, or delete the file, which only "
                "shows how the run went, and continue with --c"
            ) from None
    return rows
