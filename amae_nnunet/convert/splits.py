"""``splits_final.json``: cross-validation in which no patient sits on both sides.

nnU-Net splits by case, which is wrong where a patient has several studies. It takes the file from
``nnUNet_preprocessed`` if there is one, so it is written there as well as beside the raw data. Not
in the paper.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    groups = _groups(subjects)
    if not 2 <= folds <= len(groups):
        raise ConfigError(
            f"{folds} folds of {len(groups)} subjects: give 2 to {len(groups)} with --folds"
        )
    validation: list[list[str]] = [[] for _ in range(folds)]
    for cases in groups:
        min(validation, key=len).extend(cases)
    return _folds(validation)


def extend_folds(old: list[Fold], subjects: Mapping[str, str]) -> list[Fold]:
    """Folds of other cases, in which each subject is validated where it was.

    So no model is judged by a case that it was trained on. Cases that are gone are left out; a new
    subject goes to the fold that has fewest cases, a new case of an old subject to that subject's.

    Args:
        old: the folds so far.
        subjects: case -> subject, of all training cases now.

    Returns:
        As ``subject_folds``; dealt anew where a fold would be empty.
    """
    fold_of = {case: number for number, fold in enumerate(old) for case in fold["val"]}
    validation: list[list[str]] = [[] for _ in old]
    fresh = []
    for cases in _groups(subjects):
        known = Counter(fold_of[case] for case in cases if case in fold_of)
        if known:  # two, where one patient was taken for two
            validation[known.most_common(1)[0][0]] += cases
        else:
            fresh.append(cases)
    for cases in fresh:
        min(validation, key=len).extend(cases)
    if not all(validation):
        return subject_folds(subjects, min(len(old), len(set(subjects.values()))))
    return _folds(validation)


def _groups(subjects: Mapping[str, str]) -> list[list[str]]:
    """The cases of each subject, those with most first, equals in the order of a hash."""
    groups: dict[str, list[str]] = {}
    for case in sorted(subjects):
        groups.setdefault(subjects[case], []).append(case)
    order = sorted(groups, key=lambda subject: (-len(groups[subject]), _hash(subject)))
    return [groups[subject] for subject in order]


def _folds(validation: Sequence[Sequence[str]]) -> list[Fold]:
    every = {case for part in validation for case in part}
    return [{"train": sorted(every - set(part)), "val": sorted(part)} for part in validation]


def write_folds(subjects: Mapping[str, str], raw: Path, wanted: int | None) -> list[str]:
    """Write folds beside the raw data set, and where nnU-Net looks for them, if they are needed.

    They are if ``wanted``, if a subject has several cases, or if there were some before, which are
    then extended: models may have been trained on them.

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
    if old and wanted in (None, len(old)) and all(map(_is_fold, old)):
        folds = extend_folds(old, subjects)
    else:
        folds = subject_folds(subjects, wanted or min(_FOLDS, possible))
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


def _is_fold(content: Any) -> bool:
    """Whether a part of a file that a user may have edited names cases to validate."""
    cases = content.get("val") if isinstance(content, dict) else None
    return isinstance(cases, list) and all(isinstance(case, str) for case in cases)


def _write(path: Path, folds: list[Fold]) -> None:
    write_whole(path, json.dumps(folds, indent=4) + "\n")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
