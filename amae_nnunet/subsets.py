"""Subsets of contrasts, and how well a model scored in validation on each (``subsets.json``).

The trainer writes one into each fold's folder, from what its validation cases really had. It names
no case, so it can go wherever the model goes. The file::

    {"schema": 1,
     "contrasts": ["ADC", "TRACE", "T2"],            channel order
     "held_out": true,                               false: fold "all", the cases trained it
     "checkpoint": "checkpoint_final.pth",           whose weights were validated, null: not saved
     "subsets": [{"present": ["ADC", "TRACE"],
                  "n": 4,                            validation cases that had exactly these
                  "dice": 0.61,                      mean over the labels
                  "labels": {"infarct": {"n": 3, "dice": 0.61}}}]}

A label's ``n`` counts the cases in which it has a Dice: it is drawn, or predicted, or both; without
any its Dice is null. As nnU-Net does, means are taken over cases first and over labels then.

Not in the paper.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amae_nnunet.errors import InputError
from amae_nnunet.parse import parse_json
from amae_nnunet.whole import write_json

FILE_NAME = "subsets.json"
SCHEMA = 1
#: Names of contrasts in channel order.
Subset = tuple[str, ...]
#: Between the names of a subset, in options, folders and tables.
JOINT = "+"


def subset_name(subset: Subset) -> str:
    """``("ADC", "T2")`` -> ``ADC+T2``."""
    return JOINT.join(subset)


@dataclass(frozen=True)
class Score:
    """A mean Dice, and over how many cases; None over none."""

    n: int
    dice: float | None

    @classmethod
    def pooled(cls, scores: Iterable[Score]) -> Score:
        """The score over the cases of several scores together."""
        parts = [(score.n, score.dice) for score in scores if score.dice is not None]
        n = sum(count for count, _ in parts)
        return cls(n, sum(count * dice for count, dice in parts) / n if n else None)


@dataclass(frozen=True)
class SubsetScore:
    """The score of the cases that had exactly these contrasts.

    Attributes:
        present: names in channel order.
        n: number of cases.
        labels: the score of each label.
    """

    present: tuple[str, ...]
    n: int
    labels: Mapping[str, Score]

    @property
    def dice(self) -> float | None:
        """The mean over the labels that have a score."""
        values = [score.dice for score in self.labels.values() if score.dice is not None]
        return sum(values) / len(values) if values else None

    def __str__(self) -> str:
        dice = "without a Dice" if self.dice is None else f"Dice {self.dice:.3f}"
        return f"{dice} ({self.n} {'case' if self.n == 1 else 'cases'})"

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        labels = {name: vars(score) for name, score in self.labels.items()}
        return {"present": list(self.present), "n": self.n, "dice": self.dice, "labels": labels}

    @classmethod
    def pooled(cls, scores: Sequence[SubsetScore]) -> SubsetScore:
        """The score over the cases of several scores of one subset."""
        names = dict.fromkeys(name for score in scores for name in score.labels)
        labels = {
            name: Score.pooled(s.labels[name] for s in scores if name in s.labels) for name in names
        }
        return cls(scores[0].present, sum(score.n for score in scores), labels)


@dataclass(frozen=True)
class SubsetScores:
    """All subsets of one validation, those with the most contrasts first."""

    contrasts: tuple[str, ...]
    held_out: bool
    subsets: tuple[SubsetScore, ...]
    checkpoint: str | None = None

    @classmethod
    def of(
        cls,
        contrasts: Sequence[str],
        held_out: bool,
        scores: Iterable[SubsetScore],
        checkpoint: str | None = None,
    ) -> SubsetScores:
        """Put together scores of cases, or of subsets of them."""
        groups: dict[tuple[str, ...], list[SubsetScore]] = {}
        for score in scores:
            groups.setdefault(score.present, []).append(score)
        order = sorted(groups, key=lambda names: (-len(names), [contrasts.index(n) for n in names]))
        pooled = tuple(SubsetScore.pooled(groups[names]) for names in order)
        return cls(tuple(contrasts), held_out, pooled, checkpoint)

    @classmethod
    def of_folds(cls, folds: Sequence[SubsetScores]) -> SubsetScores:
        """The folds of a model together, each of which validated other cases."""
        scores = (score for fold in folds for score in fold.subsets)
        names = dict.fromkeys(fold.checkpoint for fold in folds)
        checkpoint = None if None in names else " and ".join(sorted(filter(None, names)))
        return cls.of(folds[0].contrasts, all(fold.held_out for fold in folds), scores, checkpoint)

    def find(self, present: Sequence[str]) -> SubsetScore | None:
        """The score of exactly these contrasts, None if no validation case had them."""
        return next((score for score in self.subsets if score.present == tuple(present)), None)

    def nearest(self, present: Sequence[str]) -> SubsetScore:
        """The score of the subset that differs in the fewest contrasts.

        Among equals it is one that lacks contrasts rather than one that has more, which is the
        less flattering, then the one with more cases.
        """

        def distance(score: SubsetScore) -> tuple[int, int, int]:
            added = len(set(score.present) - set(present))
            return len(set(score.present) ^ set(present)), added, -score.n

        return min(self.subsets, key=distance)

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``subsets.json`` into ``folder`` (through a temporary name); return its path."""
        content = {
            "schema": SCHEMA,
            "contrasts": list(self.contrasts),
            "held_out": self.held_out,
            "checkpoint": self.checkpoint,
            "subsets": [score.to_json() for score in self.subsets],
        }
        return write_json(Path(folder) / FILE_NAME, content)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> SubsetScores:
        """Read ``subsets.json`` from ``folder``.

        Raises:
            InputError: there is no such file, or it cannot be read as one.
        """
        path = Path(folder) / FILE_NAME
        again = "validate again with nnUNetv2_train ... --val, or ask who trained it for the file"
        try:
            content = parse_json(path.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise InputError(
                    f"{path} has schema {content['schema']}, this version reads {SCHEMA}: "
                    f"upgrade amae-nnunet or {again}"
                )
            scores = [
                SubsetScore(
                    tuple(entry["present"]),
                    int(entry["n"]),
                    {name: Score(**score) for name, score in entry["labels"].items()},
                )
                for entry in content["subsets"]
            ]
            checkpoint = content.get("checkpoint")
            if not isinstance(checkpoint, str | None):
                raise TypeError(f"checkpoint is {checkpoint!r}")
            return cls.of(
                tuple(content["contrasts"]), bool(content["held_out"]), scores, checkpoint
            )
        except FileNotFoundError:
            raise InputError(f"{path} is missing: {again}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} cannot be read ({error!r}): {again}") from error
