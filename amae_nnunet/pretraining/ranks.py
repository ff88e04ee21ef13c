"""The processes of a run, started by torchrun: each computes its share of every batch.

Numbers that steer a run (how many tokens are hidden, whether a signal came) go between CPUs, which
takes no turn of a GPU. One process alone is rank 0 of 1, and sends nothing. Not in the paper.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from amae_nnunet.errors import AMAEError, ConfigError

#: How long the others wait for what rank 0 does alone, such as preprocessing. A process that dies
#: is noticed at once.
PATIENCE = timedelta(days=7)
#: What the errors of a broken connection have in common.
_BROKEN = ("gloo", "NCCL", "Connection")
_CAUSE = 300  # last characters of such an error, which say why; before them are places in code

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Ranks:
    """This process among all processes of a run.

    Attributes:
        rank: its number; 0 alone writes, draws and reports.
        size: how many there are.
        control: connects their CPUs.
    """

    rank: int = 0
    size: int = 1
    control: dist.ProcessGroup | None = None

    def sums(self, numbers: Sequence[int]) -> list[int]:
        """The numbers, each added up over all processes."""
        return self._reduced(numbers, dist.ReduceOp.SUM)

    def largest(self, numbers: Sequence[int]) -> list[int]:
        """The largest that any process has of each number."""
        return self._reduced(numbers, dist.ReduceOp.MAX)

    def add(self, tensor: Tensor) -> Tensor:
        """A tensor added up over all processes, in place, on whatever device it is."""
        if self.size > 1:
            dist.all_reduce(tensor, group=None if tensor.is_cuda else self.control)
        return tensor

    def from_first(self, make: Callable[[], _Made]) -> _Made:
        """What rank 0 makes, for all; where that fails, the others end with it, in silence.

        Raises:
            AMAEError: on rank 0, whatever ``make`` raises.
            SystemExit: on the others, with the exit code of that.
        """
        if self.size == 1:
            return make()
        answer: list[Any] = [None, 0]
        failure = None
        if self.rank == 0:
            try:
                answer[0] = make()
            except AMAEError as error:
                failure, answer[1] = error, error.exit_code
        dist.broadcast_object_list(answer, src=0, group=self.control)
        if failure is not None:
            raise failure
        if answer[1]:
            raise SystemExit(answer[1])
        return answer[0]

    def fail(self, error: AMAEError) -> NoReturn:
        """Raise an error that all processes find at the same step; only rank 0 tells it."""
        if self.rank:
            raise SystemExit(error.exit_code)
        raise error

    def _reduced(self, numbers: Sequence[int], how: Any) -> list[int]:
        if self.size == 1:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(tensor, op=how, group=self.control)
        return tensor.tolist()


@contextmanager
def join(kind: str) -> Iterator[tuple[Ranks, torch.device]]:
    """A context in which this process is one of those that torchrun started, or alone.

    Args:
        kind: of the device, ``cuda``, ``cpu`` or ``mps``.

    Yields:
        The processes, and the device of this one.

    Raises:
        ConfigError: a process has no device of its own.
        AMAEError: another process was lost.
    """
    size = int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1
    if size == 1:
        yield Ranks(), torch.device(kind)
        return
    device = _own_device(kind)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    control: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
    with _lost_process(size):
        yield Ranks(dist.get_rank(), size, control), device
    dist.destroy_process_group()  # not after an error: it would wait for the lost one


def _own_device(kind: str) -> torch.device:
    if kind == "mps":
        raise ConfigError("several processes cannot share an Apple GPU: start one without torchrun")
    if kind != "cuda":
        return torch.device(kind)
    number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= count:
        raise ConfigError(f"process {number} has no GPU: start torchrun --nproc_per_node={count}")
    torch.cuda.set_device(number)
    return torch.device(kind, number)


@contextmanager
def _lost_process(size: int) -> Iterator[None]:
    """A context in which the death of another process is one line."""
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error) for word in _BROKEN):
            raise
        raise AMAEError(
            f"another of the {size} processes of this run ended (torchrun says which and how; "
            "signal 9 is often a lack of memory), or they cannot reach each other "
            f"({' '.join(str(error).split())[-_CAUSE:]}): what was saved is intact; continue with "
            "--c"
        ) from None
