"""Which studies make a step, and who computes them (not in the paper).

A batch is a number of studies, as in the paper, or as many as fill a number of slots. It is cut in
*passes*, each of which one process packs and computes at a time: less memory, or several
processes. Gradients add up to those of the whole batch, which is a function of the seed and the
step alone, never of the number of processes.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amae_nnunet.config import PretrainingConfig
from amae_nnunet.errors import ConfigError
from amae_nnunet.pretraining.data import RandomCrops
from amae_nnunet.pretraining.ranks import Ranks
from amae_nnunet.pretraining.studies import Study

#: Studies that wait for a pass with room, at most; so none waits for more batches than that.
WAITING = 16


@dataclass(frozen=True)
class Position:
    """Where the filling of slot budgets stands before a step.

    Attributes:
        sample: the first that nobody has looked at.
        waiting: number and slots of those that had no room, in order.
    """

    sample: int = 0
    waiting: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"sample": self.sample, "waiting": [list(pair) for pair in self.waiting]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Position:
        """Undo ``to_json``."""
        return cls(content["sample"], tuple((n, slots) for n, slots in content["waiting"]))


@dataclass(frozen=True)
class Batches:
    """Step -> samples of each pass.

    Attributes:
        crops: the samples; a study has as many slots as it has contrasts.
        config: of the run.
        ranks: the processes that share a batch.
        passes: of a batch, on all processes together.
        reached: the positions of steps that were asked for, the step with each.
    """

    crops: RandomCrops
    config: PretrainingConfig
    ranks: Ranks
    passes: int
    reached: deque[tuple[int, Position]] = field(default_factory=deque)

    @classmethod
    def of(cls, crops: RandomCrops, config: PretrainingConfig, ranks: Ranks) -> Batches:
        """The batches of a run.

        Raises:
            ConfigError: a batch cannot be cut so, or a study is larger than the slot budget.
        """
        ranks.from_first(lambda: _check_budget(crops.studies, config.slot_budget))
        return cls(crops, config, ranks, count_passes(config, ranks.size))

    @property
    def own_passes(self) -> int:
        """Passes of a step on this process."""
        return self.passes // self.ranks.size

    def own(self, first: int, last: int, start: Position | None = None) -> Iterator[list[int]]:
        """The samples of each pass of this process, for the steps ``first`` to ``last - 1``.

        Args:
            first: step.
            last: step, too; none are left where it comes before the first.
            start: ``position`` of ``first``; without it, slot budgets are filled from step 0 on.
        """
        for batch in itertools.islice(self._batches(first, start), max(0, last - first)):
            yield from batch[self.ranks.rank :: self.ranks.size]

    def position(self, step: int) -> Position | None:
        """Where a step begins, if batches are set by slots and the step before was asked for."""
        while self.reached and self.reached[0][0] < step:
            self.reached.popleft()
        return self.reached[0][1] if self.reached else None

    def _batches(self, first: int, start: Position | None) -> Iterator[list[list[int]]]:
        """The samples of each pass of each step from ``first`` on."""
        config = self.config
        if config.slot_budget:
            return itertools.islice(self._filled(first, start), 0 if start else first, None)
        samples = self.crops.slots_from(first * config.batch_size)
        return (
            deal(list(itertools.islice(samples, config.batch_size)), self.passes)
            for _ in itertools.count()
        )

    def _filled(self, first: int, start: Position | None) -> Iterator[list[list[int]]]:
        """Batches set by slots, from ``start`` or, without it, from step 0 on."""
        step, slots = first if start else 0, self.crops.slots_from
        for shares, after in fill(slots, self.config.slot_budget, self.passes, start or Position()):
            step += 1
            self.reached.append((step, after))
            yield shares


def count_passes(config: PretrainingConfig, size: int) -> int:
    """Passes of a batch, as many on each of ``size`` processes.

    Raises:
        ConfigError: a batch cannot be cut so.
    """
    passes = config.passes
    if not config.slot_budget:
        passes = size * math.ceil(passes / size)
        if passes > config.batch_size:
            raise ConfigError(
                f"a batch of {config.batch_size} studies cannot be cut in {passes} passes on "
                f"{size} processes: raise pretraining.batch_size, lower pretraining.passes, or "
                "start fewer processes"
            )
    elif passes % size:
        raise ConfigError(
            f"a batch of {passes} slot budgets cannot be shared by {size} processes: make "
            f"pretraining.passes a multiple of {size}, or start another number of processes"
        )
    return passes


def _check_budget(studies: Sequence[Study], budget: int) -> None:
    largest = max(studies, key=lambda study: len(study.contrasts))
    if budget and len(largest.contrasts) > budget:
        raise ConfigError(
            f"{largest.name} has {len(largest.contrasts)} images but slot_budget={budget}: raise "
            "pretraining.slot_budget, or set slot_budget=0"
        )


def steps_an_epoch(slots: Sequence[int], config: PretrainingConfig) -> int:
    """Steps that give each study one crop, or about one if batches are set by slots.

    Args:
        slots: of each study.
        config: of the run.
    """
    if config.slot_budget:
        return math.ceil(sum(slots) / (config.slot_budget * config.passes))
    return math.ceil(len(slots) / config.batch_size)


def deal(samples: Sequence[tuple[int, int]], passes: int) -> list[list[int]]:
    """Share out samples so that each pass has about as many slots, the largest samples first.

    Args:
        samples: number and slots of each, at least as many as there are passes.
        passes: how many.
    """
    shares: list[tuple[int, int, list[int]]] = [(0, number, []) for number in range(passes)]
    for sample, slots in sorted(samples, key=lambda pair: -pair[1]):
        total, number, share = shares[0]
        heapq.heapreplace(shares, (total + slots, number, [*share, sample]))
    return [share for _, _, share in sorted(shares, key=lambda entry: entry[1])]


def fill(
    slots_from: Callable[[int], Iterator[tuple[int, int]]],
    budget: int,
    passes: int,
    start: Position,
) -> Iterator[tuple[list[list[int]], Position]]:
    """Batches of so many passes, each with at most ``budget`` slots.

    Samples come in order. One that has no room waits, and is the first of the next batch, where an
    empty pass takes any; so the first that waits never waits again.

    Args:
        slots_from: number and slots (at most ``budget``) of each sample from one on, without end.
        budget: slots of a pass.
        passes: of a batch.
        start: of the first batch.

    Yields:
        The samples of each pass of a batch, and the position after it.
    """
    position, samples = start, slots_from(start.sample)
    while True:
        shares: list[list[int]] = [[] for _ in range(passes)]
        room, late = [budget] * passes, list[tuple[int, int]]()
        waiting = position.waiting
        coming = itertools.chain(waiting, samples)
        asked = 0
        while any(room) and len(late) < WAITING:
            sample, slots = next(coming)
            asked += 1
            number = next((n for n, free in enumerate(room) if free >= slots), None)
            if number is None:
                late.append((sample, slots))
            else:
                shares[number].append(sample)
                room[number] -= slots
        fresh = max(0, asked - len(waiting))
        position = Position(position.sample + fresh, (*late, *waiting[asked:]))
        yield shares, position
