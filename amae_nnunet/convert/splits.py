"""``splits_final.json``: cross-validation in which no patient sits on both sides.

nnU-Net splits by case, which is wrong where a patient has several studies. It takes the file from
``nnUNet_preprocessed`` if there is one, so it is written there as well as beside the raw data. Not
in the paper.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from amae_nnunet.convert.names import counted
from amae_nnunet.errors import ConfigError
from amae_nnunet.parse import parse_json
from amae_nnunet.whole import write_whole

SPLITS_FILE = "splits_final.json"
_FOLDS = 5  # nnU-Net's
Fold = dict[str, list[str]]


def needs_subject_folds(subjects: Mapping[str, str]) -> bool:
    """Whether a subject of ``subjects`` (case -> subject) has several cases."""
    return len(set(subjects.values())) < len(subjects)


def subject_folds(subjects: Mapping[str, str], folds: int = _FOLDS) -> list[Fold]:
    """Folds of about the same number of cases, with each subject in one validation part only.

    Subjects are dealt out, those with most cases first, always to the fold that has fewest cases;
    equals come in the order of a hash, so that the order of names plays no part.

    Args:
        subjects: case -> subject, of all training cases.
        folds: how many, at least 2.

    Returns:
        For each fold ``{"train": cases, "val": cases}``, sorted, as in nnU-Net's file.

    Raises:
        ConfigError: there are fewer subjects than folds.
    """
    groups: dict[str, list[str]] = {}
    for case in sorted(subjects):
        groups.setdefault(subjects[case], []).append(case)
    if not 2 <= folds <= len(groups):
        raise ConfigError(
            f"{folds} folds of {len(groups)} subjects: give 2 to {len(groups)} with --folds"
        )
    order = sorted(groups, key=lambda subject: (-len(groups[subject]), _hash(subject)))
    validation: list[list[str]] = [[] for _ in range(folds)]
    for subject in order:
        min(validation, key=len).extend(groups[subject])
    return [
        {"train": sorted(set(subjects) - set(part)), "val": sorted(part)} for part in validation
    ]


def write_folds(subjects: Mapping[str, str], raw: Path, wanted: int | None) -> list[str]:
    """Write folds beside the raw data set, and where nnU-Net looks for them, if they are needed.

    They are if ``wanted``, if a subject has several cases, or if there were some before.

    Args:
        subjects: case -> subject, of all training cases.
        raw: the folder of the raw data set.
        wanted: number of folds, None for as many as before, or 5, or one a subject.

    Returns:
        Lines about what could not be done.
    """
    old = _read(raw / SPLITS_FILE)
    possible = len(set(subjects.values()))
    if not (wanted or old or needs_subject_folds(subjects)):
        return []
    if possible < max(2, wanted or 0):
        few = f"{counted(possible, 'subject')}, too few for folds: no {SPLITS_FILE} is written"
        return [few] if possible else []
    folds = subject_folds(subjects, wanted or min(len(old or []) or _FOLDS, possible))
    _write(raw / SPLITS_FILE, folds)
    preprocessed = os.environ.get("nnUNet_preprocessed")
    if not preprocessed:
        return []
    path = Path(preprocessed) / raw.name / SPLITS_FILE
    there = _read(path)
    if there not in (None, old, folds):
        return [f"{path} is another split and stays as it is: remove it to use the one by subject"]
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, folds)
    return []


def count_folds(raw: Path) -> int:
    """How many folds were written beside a raw data set."""
    return len(_read(raw / SPLITS_FILE) or ())


def _read(path: Path) -> list[Fold] | None:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, list) else None


def _write(path: Path, folds: list[Fold]) -> None:
    write_whole(path, json.dumps(folds, indent=4) + "\n")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
