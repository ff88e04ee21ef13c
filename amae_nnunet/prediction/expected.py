"""What to expect of one prediction: ``CASE.json`` beside the segmentation.

::

    {"schema": 1, "case": "case_001",
     "present": ["ADC", "TRACE"], "absent": ["T2"],    contrasts, by the voxels
     "required_absent": [],                            required by the data set and not there
     "validation": {"present": ["ADC", "TRACE"], "n": 4, "dice": 0.61, "labels": {...},
                    "exact": true, "held_out": true},  null: no validation is recorded
     "warnings": [],
     "model": {"trainer": "AMAETrainer", ...}}

``validation`` is the entry of ``subsets.json`` (see ``amae_nnunet.subsets``) for these contrasts,
over the folds that predict; ``exact`` is false where no validation case had them, and the entry is
that of the nearest subset. Not in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amae_nnunet.contrasts import missing_required
from amae_nnunet.parse import parse_json
from amae_nnunet.subsets import SubsetScore, SubsetScores

SCHEMA = 1


@dataclass(frozen=True)
class Expected:
    """One case: its contrasts, and how the model scored on them."""

    case: str
    present: tuple[str, ...]
    absent: tuple[str, ...]
    required_absent: tuple[str, ...]
    score: SubsetScore | None
    held_out: bool
    other_checkpoint: str | None = None  # the validated one, where another predicts

    @classmethod
    def of(
        cls,
        case: str,
        flags: Sequence[bool],
        contrasts: Sequence[str],
        required: Sequence[str],
        scores: SubsetScores | None,
        checkpoint: str,
    ) -> Expected:
        """Look up the contrasts of a case.

        Args:
            case: its name.
            flags: which channels are present.
            contrasts: of the model, in channel order.
            required: of the model's data set.
            scores: of its validation, if there is a record.
            checkpoint: file name of the weights that predict.
        """
        present = tuple(c for c, flag in zip(contrasts, flags, strict=True) if flag)
        absent = tuple(c for c in contrasts if c not in present)
        known = scores if scores is not None and scores.subsets else None
        return cls(
            case,
            present,
            absent,
            tuple(missing_required(required, present)),
            (known.find(present) or known.nearest(present)) if known else None,
            known.held_out if known else False,
            known.checkpoint if known and known.checkpoint not in (None, checkpoint) else None,
        )

    @property
    def exact(self) -> bool:
        """Whether validation cases had exactly these contrasts."""
        return self.score is not None and self.score.present == self.present

    @property
    def warnings(self) -> list[str]:
        """What a user must know before using the segmentation."""
        found = [
            f"the required contrast {entry.replace('|', ' or ')} is absent"
            for entry in self.required_absent
        ]
        if self.score is not None and not self.held_out:
            found.append("the model was validated on the cases that it was trained on (fold all)")
        if self.other_checkpoint:
            found.append(f"the validation is of {self.other_checkpoint}, not of what predicts")
        return found

    def __str__(self) -> str:
        without = f" (without {', '.join(self.absent)})" if self.absent else ""
        line = f"{self.case}: {', '.join(self.present)}{without}: "
        if self.score is None:
            return f"{line}no validation is recorded"
        if self.exact:
            return f"{line}in validation {self.score}"
        nearest = ", ".join(self.score.present)
        return f"{line}never validated; nearest subset {nearest}: {self.score}"

    def to_json(self, model: Mapping[str, Any], key: str) -> dict[str, Any]:
        """The content of ``CASE.json``.

        Args:
            model: what names it.
            key: of the images.
        """
        validation = None
        if self.score is not None:
            facts = {"exact": self.exact, "held_out": self.held_out}
            validation = {**self.score.to_json(), **facts}
        return {
            "schema": SCHEMA,
            "case": self.case,
            "present": list(self.present),
            "absent": list(self.absent),
            "required_absent": list(self.required_absent),
            "validation": validation,
            "warnings": self.warnings,
            "key": key,
            "model": dict(model),
        }


def read_record(path: Path) -> dict[str, Any]:
    """The content of ``CASE.json``; nothing where the file is not one."""
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None
    return record if isinstance(record, dict) else {}
