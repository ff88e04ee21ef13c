"""The scan: which file of a raw folder is which contrast of which case, by names alone.

Each folder in the raw folder is a case. Nothing is opened. What is wrong with a case is written
down in it, so that the other cases go on. Not in the paper, which describes no conversion.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from amae_nnunet.convert.codes import CaseError, warning
from amae_nnunet.convert.names import counted, listed
from amae_nnunet.convert.source import NiftiFile, RawCase
from amae_nnunet.convert.template import Template, matches
from amae_nnunet.errors import InputError

_ENDINGS = (".nii", ".nii.gz")
_log = logging.getLogger(__name__)


def scan(root: Path, template: Template) -> list[RawCase]:
    """List the cases of a raw folder, sorted by folder name.

    Raises:
        InputError: ``root`` is not a folder, has no folder in it, or most of them seem to hold
            several cases.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give the folder that holds one folder a case")
    folders = case_folders(root)
    if not folders:
        raise InputError(f"{root} has no folder in it: put the files of each case into its own")
    several: dict[Path, str] = {}
    cases = [_scan_case(folder, root.resolve(), template, several) for folder in folders]
    if len(several) > sum(bool(raw.contrasts) for raw in cases) / 2:
        folder, inside = next(iter(several.items()))
        raise InputError(
            f"the folders in {root} seem to hold several patients or visits each ({inside}): give "
            f"the folder below, e.g. -i {folder}, or a table of cases if names occur twice"
        )
    return refuse_clashes(cases)


def case_folders(root: Path) -> list[Path]:
    """The folders in ``root``, and links to nothing; hidden ones are named and left out."""
    folders = sorted(
        path
        for path in root.iterdir()
        if path.is_dir() or (path.is_symlink() and not path.exists())
    )
    hidden = [path.name for path in folders if path.name[0] == "."]
    if hidden:
        what = counted(len(hidden), "folder")
        _log.info("%s skipped, since the name begins with a dot: %s", what, listed(hidden))
    return [path for path in folders if path.name[0] != "."]


def refuse_clashes(cases: Sequence[RawCase]) -> list[RawCase]:
    """The cases, of which the second of two with one name (but for upper case) has a problem."""
    taken: dict[str, str] = {}
    checked = []
    for raw in cases:
        if raw.code == "E_NAME":
            checked.append(raw)
            continue
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


def _scan_case(folder: Path, root: Path, template: Template, several: dict[Path, str]) -> RawCase:
    """The case in a folder; in ``several``, which folder in it seems to hold several cases."""
    case = case_id(folder.name)
    found: dict[str, list[str]] = {name: [] for name in [*template.contrasts, "label"]}
    unmatched: list[str] = []
    try:
        for relative in nifti_files(folder, root):
            _match(relative, template, found, unmatched)
        for name, files in found.items():
            if len(files) > 1:
                raise _ambiguous(name, files, folder, several)
        _check_required([name for name in template.contrasts if found[name]], template)
        code = problem = ""
    except CaseError as error:
        code, problem = error.code, error.message
    sources = {
        name: NiftiFile(folder / files[0], files[0]) for name, files in found.items() if files
    }
    label = sources.pop("label", None)
    doubts = _doubts([name for name in template.contrasts if name not in sources], unmatched)
    return RawCase(
        case, folder.name, case, sources, label, None, tuple(unmatched), code, problem, doubts
    )


def _doubts(absent: Sequence[str], unmatched: Sequence[str]) -> tuple[str, ...]:
    """What is absent may be there under another name, which may name a patient."""
    if not (absent and unmatched):
        return ()
    files = counted(len(unmatched), "file")
    text = f"no {' and no '.join(absent)}, and no pattern fits {files} (--dry_run lists these)"
    return (warning("W_UNMATCHED", text),)


def _ambiguous(
    name: str, files: Sequence[str], folder: Path, several: dict[Path, str]
) -> CaseError:
    """Why several files of one contrast are no case; they may be those of several patients."""
    first, second = (PurePosixPath(file).parts for file in sorted(files)[:2])
    depth = next(i for i, (one, two) in enumerate(zip(first, second, strict=False)) if one != two)
    if min(len(first), len(second)) - depth < 2:  # they do not lie in folders side by side
        return CaseError("E_AMBIGUOUS", f"{name} is ambiguous ({listed(files)}): leave one of them")
    above = first[:depth]
    parts = [PurePosixPath(file).parts for file in files]
    beside = sorted({file[depth] for file in parts if file[:depth] == above and file[depth:][1:]})
    several[folder.joinpath(*above)] = inside = f"{name} in each of {listed(beside)}"
    return CaseError(
        "E_AMBIGUOUS",
        f"these look like several patients or visits ({inside}): give the folder below with -i, "
        f"e.g. {'/'.join((folder.name, *above))}, or leave one of them",
    )


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
            if is_nifti(path):
                check_inside(path, folder, root)
                yield path.relative_to(folder).as_posix()


def is_nifti(path: Path) -> bool:
    """Whether a path is called like a NIfTI file, and not hidden."""
    return path.name.lower().endswith(_ENDINGS) and path.name[0] != "."


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
