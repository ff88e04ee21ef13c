"""The scan: which file of a raw folder is which contrast of which case, by names alone.

Each folder in the raw folder is a case. Nothing is opened. What is wrong with a case is written
down in it, so that the other cases go on. Not in the paper, which describes no conversion.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from amae_nnunet.convert.template import Template, matches
from amae_nnunet.errors import InputError

_ENDINGS = (".nii", ".nii.gz")


@dataclass(frozen=True)
class RawCase:
    """The files of one case.

    Attributes:
        case: its identifier in the data set.
        folder: where it lies.
        contrasts: contrast -> path relative to ``folder``, in channel order.
        label: the label's path relative to ``folder``, None without one.
        unmatched: NIfTI files that no pattern fits.
        problem: why the case cannot be converted, empty if it can.
    """

    case: str
    folder: Path
    contrasts: Mapping[str, str] = field(default_factory=dict)
    label: str | None = None
    unmatched: tuple[str, ...] = ()
    problem: str = ""


def scan(root: Path, template: Template) -> list[RawCase]:
    """List the cases of a raw folder, sorted by folder name.

    Raises:
        InputError: ``root`` is not a folder, or has no folder in it.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give the folder that holds one folder a case")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    if not folders:
        raise InputError(f"{root} has no folder in it: put the files of each case into its own")
    cases: list[RawCase] = []
    taken: dict[str, str] = {}
    for folder in folders:
        case = case_id(folder.name)
        other = taken.setdefault(case.casefold(), folder.name)
        if other != folder.name:
            problem = f"folder {folder.name} gets the same name as {other}: rename one of them"
            cases.append(RawCase(case, folder, problem=problem))
        else:
            cases.append(_scan_case(case, folder, root.resolve(), template))
    return cases


def case_id(folder_name: str) -> str:
    """The identifier of a case: letters, digits, ``.``, ``_`` and ``-``.

    A name may end like a channel number (``x_0001``), since nnU-Net cuts exactly one number off.
    It may not end in ``_seg``: nnU-Net takes the preprocessed images of ``x_seg`` for the label of
    ``x``, so an underscore is added.
    """
    case = re.sub(r"[^A-Za-z0-9._-]", "-", folder_name).lstrip(".-") or "case"
    return f"{case}_" if case.endswith("_seg") else case


def _scan_case(case: str, folder: Path, root: Path, template: Template) -> RawCase:
    patterns = {**template.contrasts, "label": template.label_patterns}
    found: dict[str, list[str]] = {name: [] for name in patterns}
    unmatched = []
    problems = []
    try:
        for relative in _nifti_files(folder, root):
            names = [name for name in patterns if matches(relative, patterns[name])]
            for name in names:
                found[name].append(relative)
            if not names:
                unmatched.append(relative)
            if len(names) > 1:
                problems.append(
                    f"{relative} fits {' and '.join(names)}: make the patterns narrower"
                )
    except InputError as error:
        problems.append(str(error))
    for name, files in found.items():
        if len(files) > 1:
            problems.append(f"{name} is ambiguous ({', '.join(files)}): leave one of them")
    contrasts = {name: found[name][0] for name in template.contrasts if found[name]}
    missing = [name for name in template.required if name not in contrasts]
    if not problems and (missing or not contrasts):
        lacking = missing or list(template.contrasts)
        globs = ", ".join(glob for name in lacking for glob in template.contrasts[name])
        what = f"no {' and no '.join(missing)} (required)" if missing else "no contrast at all"
        problems.append(f"{what}: add a file named like {globs}, or remove the case")
    label = found["label"][0] if found["label"] else None
    return RawCase(case, folder, contrasts, label, tuple(unmatched), "; ".join(problems))


def _nifti_files(folder: Path, root: Path) -> Iterator[str]:
    """Paths of the NIfTI files below ``folder``, relative to it; links must stay in ``root``."""
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = Path(parent).resolve()
        _check_inside(Path(parent), folder, root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            if name.lower().endswith(_ENDINGS) and name[0] != ".":
                _check_inside(path, folder, root)
                yield path.relative_to(folder).as_posix()


def _check_inside(path: Path, folder: Path, root: Path) -> None:
    shown = path.relative_to(folder.parent).as_posix()
    if not path.exists():
        raise InputError(f"{shown} is a link to nothing: copy the file into the input folder")
    if not path.resolve().is_relative_to(root):
        raise InputError(f"{shown} is a link out of the input folder: copy the files into it")
