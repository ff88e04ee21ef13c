"""The contrast record: which case has which contrast (``contrasts.json``).

A *contrast* is one kind of MR image; the paper says "modality", nnU-Net "channel". The converter
writes an all-zero image for each absent contrast, so that nnU-Net always finds every channel; the
record says which of them are real. It lies beside ``dataset.json`` in ``nnUNet_raw`` and, copied,
in ``nnUNet_preprocessed``. It is not copied into model folders, since it names cases.

The file::

    {"schema": 1,
     "contrasts": ["ADC", "TRACE", "T2"],          channel order
     "required": ["ADC", "TRACE"],                 "SWI|GRE": at least one of the two
     "cases": {"case_001": {"present": "110", "split": "train", "subject": "case_001"}}}

Not in the paper, which does not say how it recorded what each study had.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amae_nnunet.errors import CheckpointError, ContrastError, InputError
from amae_nnunet.parse import parse_json
from amae_nnunet.whole import write_json

#: The paper's seven contrasts, in its order. Users append theirs (``T1CE``, ``PD``, ...).
PAPER_CONTRASTS = ("ADC", "TRACE", "T2", "GRE", "SWI", "T1", "FLAIR")

SPLITS = ("train", "test", "unlabeled")
FILE_NAME = "contrasts.json"
SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_CASE = re.compile(r"[^/\\\0]+")  # what nnU-Net may have named; ours are plainer


def check_contrast_names(contrasts: Sequence[str]) -> tuple[str, ...]:
    """Return the names as a tuple.

    Raises:
        ContrastError: no name, a doubled name, or a name that is not letters, digits, ``_``, ``-``.
    """
    if not contrasts:
        raise ContrastError("no contrast is named: give at least one")
    for name in contrasts:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ContrastError(f"contrast name {name!r}: use letters, digits, '_' and '-' only")
    doubled = [name for name, count in Counter(contrasts).items() if count > 1]
    if doubled:
        raise ContrastError(f"contrast {min(doubled)} is named twice: name each contrast once")
    return tuple(contrasts)


def check_required(required: Sequence[str], contrasts: Sequence[str]) -> None:
    """Check what a case must have: a contrast (``ADC``), or one of several (``SWI|GRE``).

    Raises:
        ContrastError: a name is not among ``contrasts``.
    """
    for name in (name for entry in required for name in entry.split("|")):
        if name not in contrasts:
            raise ContrastError(f"required contrast {name} is not among {', '.join(contrasts)}")


def missing_required(required: Sequence[str], present: Collection[str]) -> list[str]:
    """The entries of ``required`` of which nothing is present."""
    return [entry for entry in required if not set(entry.split("|")) & set(present)]


@dataclass(frozen=True)
class ContrastMatch:
    """The contrasts of a data set and those of a checkpoint, matched by name.

    Attributes:
        shared: both have them.
        new: the data set's, which the checkpoint does not know.
        unused: the checkpoint's, which the data set lacks.
    """

    shared: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]

    @classmethod
    def of(cls, contrasts: Sequence[str], known: Sequence[str]) -> ContrastMatch:
        """Match the contrasts of a data set with those that a checkpoint knows.

        Raises:
            CheckpointError: no name is the same, or two differ in upper case alone.
        """
        shared = tuple(name for name in contrasts if name in known)
        if not shared:
            raise CheckpointError(
                f"the checkpoint knows {', '.join(known)} and the data set has "
                f"{', '.join(contrasts)}: no name is the same; give the contrasts the "
                "checkpoint's names in the template, or pre-train on studies of these"
            )
        new = tuple(name for name in contrasts if name not in known)
        unused = tuple(name for name in known if name not in contrasts)
        for name, other in itertools.product(new, unused):
            if name.casefold() == other.casefold():
                raise CheckpointError(
                    f"the checkpoint has a contrast {other} where the data set has {name}: name it "
                    f"{other} in dataset.json and contrasts.json, in nnUNet_raw and "
                    "nnUNet_preprocessed"
                )
        return cls(shared, new, unused)

    def __str__(self) -> str:
        parts = [f"{', '.join(self.shared)} from the checkpoint"]
        if self.new:
            parts.append(f"{', '.join(self.new)} unknown to it, set to the mean of its contrasts")
        if self.unused:
            parts.append(f"its {', '.join(self.unused)} not in the data set and left out")
        return "; ".join(parts)


@dataclass(frozen=True)
class CaseContrasts:
    """What one case has.

    Attributes:
        present: one flag a contrast, in channel order.
        split: ``train``, ``test`` or ``unlabeled``.
        subject: the patient; cases of one subject belong on the same side of a split.
    """

    present: tuple[bool, ...]
    split: str
    subject: str


@dataclass
class ContrastRecord:
    """The record of one data set; ``contrasts`` is in channel order.

    An entry of ``required`` names a contrast, or several of which a case has at least one.
    """

    contrasts: tuple[str, ...]
    required: tuple[str, ...] = ()
    cases: dict[str, CaseContrasts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.contrasts = check_contrast_names(self.contrasts)
        check_required(self.required, self.contrasts)

    def add(self, case: str, present: Sequence[bool], split: str, subject: str) -> None:
        """Add or replace one case.

        Raises:
            ContrastError: the flags do not fit the contrasts, none is set, or the split is unknown.
        """
        if len(present) != len(self.contrasts):
            raise ContrastError(
                f"case {case}: {len(present)} presence flags for {len(self.contrasts)} contrasts "
                f"({', '.join(self.contrasts)})"
            )
        if not any(present):
            raise ContrastError(f"case {case} has no contrast at all: leave it out")
        if split not in SPLITS:
            raise ContrastError(f"case {case}: split {split!r} is not one of {', '.join(SPLITS)}")
        self.cases[case] = CaseContrasts(tuple(bool(flag) for flag in present), split, subject)

    def names_present(self, case: str) -> tuple[str, ...]:
        """Names of the contrasts that a case has, in channel order."""
        flags = self.cases[case].present
        return tuple(name for name, flag in zip(self.contrasts, flags, strict=True) if flag)

    def check_voxels(self, case: str, nonzero: Sequence[bool]) -> None:
        """Check one case against its voxels.

        Args:
            case: the case's name in the record.
            nonzero: for each channel, whether any voxel of it is not exactly zero.

        Raises:
            ContrastError: the case is not in the record, or a channel says otherwise than it.
        """
        if case not in self.cases:
            raise ContrastError(f"case {case} is not in {FILE_NAME}: convert the data set again")
        if len(nonzero) != len(self.contrasts):
            raise ContrastError(
                f"case {case} has {len(nonzero)} channels, {FILE_NAME} lists "
                f"{len(self.contrasts)} ({', '.join(self.contrasts)}): a channel file is missing "
                "in nnUNet_raw, convert the case again and preprocess it again"
            )
        for name, recorded, found in zip(
            self.contrasts, self.cases[case].present, nonzero, strict=True
        ):
            if recorded != bool(found):
                says, has = ("present", "all zero") if recorded else ("absent", "not zero")
                raise ContrastError(
                    f"case {case}: {FILE_NAME} says {name} is {says} but its voxels are {has}: "
                    "convert the case again and preprocess it again"
                )

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``contrasts.json`` into ``folder`` (through a temporary name); return its path."""
        path = Path(folder) / FILE_NAME
        content = {
            "schema": SCHEMA,
            "contrasts": list(self.contrasts),
            "required": list(self.required),
            "cases": {
                case: {
                    "present": "".join("01"[flag] for flag in entry.present),
                    "split": entry.split,
                    "subject": entry.subject,
                }
                for case, entry in sorted(self.cases.items())
            },
        }
        return write_json(path, content)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> ContrastRecord:
        """Read ``contrasts.json`` from ``folder``.

        Raises:
            InputError: there is no such file, or it cannot be read as a record.
            ContrastError: what it says contradicts itself.
        """
        path = Path(folder) / FILE_NAME
        try:
            content = parse_json(path.read_text(encoding="utf-8"))
            return cls._from_json(content)
        except FileNotFoundError:
            raise InputError(
                f"{path} is missing: write the data set with amae-nnunet-convert"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise InputError(f"{path} is not a contrast record ({e!r}): convert again") from e

    @classmethod
    def beside(cls, images: Path) -> ContrastRecord | None:
        """The record of a folder of images, in it or beside it, None if there is none.

        Raises:
            InputError: it cannot be read.
        """
        for folder in (images, images.parent):
            if (folder / FILE_NAME).is_file():
                return cls.read(folder)
        return None

    @classmethod
    def check_order(cls, images: Path, cases: Collection[str], contrasts: Sequence[str]) -> None:
        """Raise unless the channels of images are what a model takes them for.

        Args:
            images: their folder.
            cases: in it; a record beside the folder says nothing of others than its own.
            contrasts: of the model, in channel order.

        Raises:
            InputError: the record is of other contrasts or another order, or cannot be read.
        """
        record = cls.beside(images)
        if record is None or record.contrasts == tuple(contrasts):
            return
        if (images / FILE_NAME).is_file() or not record.cases.keys().isdisjoint(cases):
            raise InputError(
                f"{images} was converted for {', '.join(record.contrasts)} but the model knows "
                f"{', '.join(contrasts)}: convert again with amae-nnunet-convert --for_model"
            )

    @classmethod
    def _from_json(cls, content: dict[str, Any]) -> ContrastRecord:
        if content["schema"] != SCHEMA:
            raise InputError(
                f"{FILE_NAME} has schema {content['schema']}, this version reads {SCHEMA}: upgrade "
                "amae-nnunet or convert again"
            )
        record = cls(tuple(content["contrasts"]), tuple(content["required"]))
        for case, entry in content["cases"].items():
            present, subject = entry["present"], entry["subject"]
            if not _CASE.fullmatch(case):
                raise ContrastError(f"case {case!r} cannot be a file's name: convert again")
            if not isinstance(present, str) or set(present) - set("01"):
                raise ContrastError(f"case {case}: presence {present!r} is not 0s and 1s")
            if not isinstance(subject, str):
                raise ContrastError(f"case {case}: subject {subject!r} is not a text")
            record.add(case, [flag == "1" for flag in present], entry["split"], subject)
        return record
