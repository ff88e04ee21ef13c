"""The scan: which file of a raw folder is which contrast of which case, by names alone.

Each folder in the raw folder is a case. Nothing is opened. What is wrong with a case is written
down in it, so that the other cases go on. Not in the paper, which describes no conversion.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from amae_nnunet.convert.codes import CaseError
from amae_nnunet.convert.source import NiftiFile, RawCase
from amae_nnunet.convert.template import Template, matches
from amae_nnunet.errors import InputError

_ENDINGS = (".nii", ".nii.gz")


def scan(root: Path, template: Template) -> list[RawCase]:
    """List the cases of a raw folder, sorted by folder name.

    Raises:
        InputError: ``root`` is not a folder, or has no folder in it.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give the folder that holds one folder a case")
    folders = sorted(
        path
        for path in root.iterdir()
        if path.name[0] != "." and (path.is_dir() or (path.is_symlink() and not path.exists()))
    )
    if not folders:
        raise InputError(f"{root} has no folder in it: put the files of each case into its own")
    return refuse_clashes(
        [_scan_case(case_id(folder.name), folder, root.resolve(), template) for folder in folders]
    )


def refuse_clashes(cases: Sequence[RawCase]) -> list[RawCase]:
    """The cases, of which the second of two with one name (but for upper case) has a problem."""
    taken: dict[str, str] = {}
    checked = []
    for raw in cases:
        other = taken.setdefault(raw.case.casefold(), raw.source)
        if other != raw.source:
            problem = f"{raw.source} gets the same name as {other}: rename one of them"
            raw = replace(raw, code="E_NAME", problem=problem)
        checked.append(raw)
    return checked


def case_id(folder_name: str) -> str:
    """The identifier of a case: letters, digits, ``.``, ``_`` and ``-``.

    A name may end like a channel number (``x_0001``), since nnU-Net cuts exactly one number off.
    It may not end in ``_seg``: nnU-Net takes the preprocessed images of ``x_seg`` for the label of
    ``x``, so an underscore is added.
    """
    case = re.sub(r"[^A-Za-z0-9._-]", "-", folder_name).lstrip(".-") or "case"
    return f"{case}_" if case.endswith("_seg") else case


def _scan_case(case: str, folder: Path, root: Path, template: Template) -> RawCase:
    found: dict[str, list[str]] = {name: [] for name in [*template.contrasts, "label"]}
    unmatched: list[str] = []
    try:
        for relative in nifti_files(folder, root):
            _match(relative, template, found, unmatched)
        for name, files in found.items():
            if len(files) > 1:
                raise CaseError(
                    "E_AMBIGUOUS", f"{name} is ambiguous ({', '.join(files)}): leave one of them"
                )
        _check_required([name for name in template.contrasts if found[name]], template)
        code = problem = ""
    except CaseError as error:
        code, problem = error.code, error.message
    sources = {
        name: NiftiFile(folder / files[0], files[0]) for name, files in found.items() if files
    }
    label = sources.pop("label", None)
    return RawCase(case, folder.name, case, sources, label, None, tuple(unmatched), code, problem)


def _match(
    relative: str, template: Template, found: dict[str, list[str]], unmatched: list[str]
) -> None:
    patterns = {**template.contrasts, "label": template.label_patterns}
    names = [name for name in patterns if matches(relative, patterns[name])]
    if len(names) > 1:
        raise CaseError(
            "E_AMBIGUOUS", f"{relative} fits {' and '.join(names)}: make the patterns narrower"
        )
    (found[names[0]] if names else unmatched).append(relative)


def _check_required(present: Sequence[str], template: Template) -> None:
    missing = template.missing_required(present)
    if not missing and present:
        return
    lacking = [name for entry in missing or template.contrasts for name in entry.split("|")]
    globs = ", ".join(glob for name in lacking for glob in template.contrasts[name])
    what = f"no {' and no '.join(missing)} (required)" if missing else "no contrast at all"
    raise CaseError("E_REQUIRED", f"{what}: add a file named like {globs}, or remove the case")


def nifti_files(folder: Path, root: Path) -> Iterator[str]:
    """Paths of the NIfTI files below ``folder``, relative to it; links must stay in ``root``."""
    check_inside(folder, folder, root)
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = Path(parent).resolve()
        check_inside(Path(parent), folder, root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            if name.lower().endswith(_ENDINGS) and name[0] != ".":
                check_inside(path, folder, root)
                yield path.relative_to(folder).as_posix()


def check_inside(path: Path, folder: Path, root: Path) -> None:
    """Refuse a link out of the input folder ``root``; ``folder`` is the case's, for the message.

    Raises:
        CaseError: the path is a link to nothing, or leads out of ``root``.
    """
    shown = path.relative_to(folder.parent).as_posix()
    if not path.exists():
        raise CaseError(
            "E_LINK", f"{shown} is a link to nothing: copy the file into the input folder"
        )
    if not path.resolve().is_relative_to(root):
        raise CaseError(
            "E_LINK", f"{shown} is a link out of the input folder: copy the files into it"
        )
