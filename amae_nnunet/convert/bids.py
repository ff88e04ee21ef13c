"""BIDS trees: which file of ``sub-X[/ses-Y]`` is which contrast, by suffix and entities.

====================================================== =================================
file                                                   contrast
====================================================== =================================
``T1w``, with ``ce-`` (but ``ce-none``)                T1, T1CE
``T2w`` ``PDw`` ``FLAIR`` ``swi``                      T2, PD, FLAIR, SWI
``T2starw`` ``MEGRE``                                  GRE
``ADC``, ``dwi`` with ADC in ``rec- desc- acq-``       ADC
``trace``, ``dwi`` with trace in ``rec- desc- acq-``   TRACE
``dwi`` with one volume at the b-value nearest 1000    TRACE, if no file is called so
====================================================== =================================

Phase, real and imaginary parts, maps other than ADC, projections, ``dwi`` with b0 in its name, and
``T1w`` that tells of an agent in ``acq-`` only are refused. Runs and
acquisitions are never chosen between: several of one contrast are ambiguous. The label is a mask in
``derivatives`` or beside the images whose name fits the template's label patterns and is not that
of anatomy. Not in the paper, which describes no conversion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from amae_nnunet.convert.codes import CaseError
from amae_nnunet.convert.diffusion import trace_file
from amae_nnunet.convert.found import Found
from amae_nnunet.convert.scan import case_id, check_inside, nifti_files, refuse_clashes
from amae_nnunet.convert.source import NiftiFile, RawCase
from amae_nnunet.convert.template import Template, matches
from amae_nnunet.errors import InputError

_SUFFIXES = {
    "t1w": "T1",
    "t2w": "T2",
    "pdw": "PD",
    "flair": "FLAIR",
    "t2starw": "GRE",
    "megre": "GRE",
    "swi": "SWI",
    "adc": "ADC",
    "trace": "TRACE",
}
_MASKS = {"mask", "msk", "dseg", "seg", "roi", "lesion"}
_NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_NAMED = re.compile(r"adc|trace|isodwi")
_MAPS = re.compile(
    r"e(xp)?adc|colfa|tensor|m(in)?ip|phase|[rt][12]s?(star)?map|^(fa|md|ad|rd|s0map)$"
)
_B0 = re.compile(r"^b0+$")
_AGENT = re.compile(
    r"gad(?!get)|^gd|gd$|^km|km$|^(t1)?ce(\d*d)?$|withcontrast|post$|post(gd|con|km|ce|inj)"
)
_BEFORE = re.compile(r"^(pre|no)|without|nativ")
_NO_AGENT = {"none", "no", "without", "native", "nativ", "pre"}
_ANATOMY = re.compile(r"brain|head|skull|tissue|aseg|aparc|ventric|^(gm|wm|csf|bg|fov)$")
_DEPTH = 3  # folders between derivatives and the masks of a subject
_REMEDY = "add a file with its BIDS name"


def scan_bids(root: Path, template: Template) -> list[RawCase]:
    """List the sessions of a BIDS tree, each of them a case, sorted by subject and session.

    Raises:
        InputError: ``root`` is not a folder, or has no ``sub-`` folder.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give the folder that holds sub-...")
    subjects = sorted(path for path in root.iterdir() if path.name.startswith("sub-"))
    subjects = [path for path in subjects if path.is_dir() or path.is_symlink()]
    if not subjects:
        raise InputError(f"{root} has no folder sub-...: give the root of the BIDS data set")
    masks: dict[str, list[Path]] = {}
    for path in _derived(root / "derivatives", _DEPTH):
        masks.setdefault(re.split(r"[_.]", path.name)[0], []).append(path)
    cases: list[RawCase] = []
    for folder in subjects:
        cases += _scan_subject(folder, masks.get(folder.name, []), root, template)
    return refuse_clashes(cases)


def parse_name(name: str) -> tuple[dict[str, str], str]:
    """The entities and the suffix of a BIDS file name, in lower case."""
    *parts, suffix = _NIFTI.sub("", name).lower().split("_")
    pairs = (part.partition("-") for part in parts if "-" in part)
    return {key: value for key, _, value in pairs}, suffix


def _derived(folder: Path, depth: int) -> Iterator[Path]:
    """What is called after a subject below ``derivatives``: folders, or files."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("sub-"):
            yield path
        elif depth and path.is_dir():
            yield from _derived(path, depth - 1)


def contrast_of(entities: Mapping[str, str], suffix: str) -> tuple[str, str]:
    """The contrast of an image by its name, or why it is none.

    Returns:
        The contrast (``DWI`` for a ``dwi`` that does not say what it is) and an empty reason, or an
        empty contrast and the reason.
    """
    words = [entities[key] for key in ("rec", "desc", "acq") if key in entities]
    derived = next((word for word in words if _MAPS.search(word)), "")
    if derived:
        return "", f"{derived} is no contrast"
    if entities.get("part", "mag") != "mag":
        return "", f"part-{entities['part']} is no magnitude image"
    if suffix == "dwi":
        named = ("ADC" if "adc" in word else "TRACE" for word in words if _NAMED.search(word))
        contrast = next(named, "DWI")
        weightless = contrast == "DWI" and next((word for word in words if _B0.search(word)), "")
        return ("", f"{weightless} has no diffusion weighting") if weightless else (contrast, "")
    contrast = _SUFFIXES.get(suffix, "")
    if not contrast:
        return "", f"{suffix} is no contrast"
    if entities.get("ce", "none") not in _NO_AGENT:
        return ("T1CE", "") if contrast == "T1" else ("", f"{contrast} with a contrast agent")
    told = (word for word in words if _AGENT.search(word) and not _BEFORE.search(word))
    agent = "" if contrast != "T1" or "ce" in entities else next(told, "")
    if agent:
        return "", f"{agent} may be with a contrast agent: add ce-AGENT to its name, or ce-none"
    return contrast, ""


def _scan_subject(
    folder: Path, masks: Sequence[Path], root: Path, template: Template
) -> list[RawCase]:
    subject = case_id(folder.name)
    parts: dict[str, list[Path]] = {}
    try:
        check_inside(folder, folder, root.resolve())
    except CaseError as error:
        return [Found(subject, folder.name, subject, problem=error).raw_case(template, _REMEDY)]
    for child in sorted(folder.iterdir()):
        parts.setdefault(child.name if child.name.startswith("ses-") else "", []).append(child)
    sessions = [name for name in parts if name]
    cases: list[RawCase] = []
    for session in sorted(parts) or [""]:
        source = f"{folder.name}/{session}" if session else folder.name
        found = Found(case_id(source.replace("/", "_")), source, subject)
        images = _list(parts.get(session, []), root, found)
        if sessions and not session and not images and not found.problem:
            continue  # only notes lie beside the sessions
        _add_images(images, root / source, found, template)
        for path in _list(masks, root, found):
            named = _session(path, root)
            only = not sessions or (len(sessions) == 1 and not named and not cases)
            if named == session.lower() or only:
                _add_label(NiftiFile(path, path.relative_to(root).as_posix()), found, template)
            elif not named:
                found.reject(path.relative_to(root).as_posix(), "it names no session")
        cases.append(found.raw_case(template, _REMEDY))
    return cases


def _list(entries: Sequence[Path], root: Path, found: Found) -> list[Path]:
    """The NIfTI files among and below ``entries``; a bad link is noted as the case's problem."""
    files: list[Path] = []
    try:
        for entry in entries:
            if entry.is_dir():
                files += [entry / relative for relative in nifti_files(entry, root.resolve())]
            elif _NIFTI.search(entry.name) and entry.name[0] != ".":
                check_inside(entry, entry.parent, root.resolve())
                files.append(entry)
    except CaseError as error:
        found.problem = found.problem or error
    return files


def _add_images(files: Sequence[Path], folder: Path, found: Found, template: Template) -> None:
    unnamed = []
    for path in files:
        file = NiftiFile(path, path.relative_to(folder).as_posix())
        entities, suffix = parse_name(path.name)
        contrast, reason = contrast_of(entities, suffix)
        if suffix in _MASKS:
            _add_label(file, found, template)
        elif reason:
            found.reject(file.name, reason)
        elif contrast == "DWI":
            unnamed.append(file)
        else:
            found.add(contrast, file)
    named = "TRACE" in found.contrasts
    for file in unnamed:
        trace = "another file is called trace" if named else trace_file(file)
        if isinstance(trace, str):
            found.reject(file.name, trace)
        else:
            found.add("TRACE", trace)


def _add_label(file: NiftiFile, found: Found, template: Template) -> None:
    if parse_name(file.path.name)[1] not in _MASKS:
        return  # an image that someone derived
    parts = [part.rpartition("-") for part in file.path.name.lower().split("_")[:-1]]
    words = [word for key, _, word in parts if key in ("", "desc", "label", "seg", "atlas")]
    if any(_ANATOMY.search(word) for word in words):
        found.reject(file.name, "a mask of anatomy, no label")
    elif not matches(file.name, template.label_patterns):
        found.reject(file.name, "it fits no label pattern of the template")
    else:
        found.labels.append(file)


def _session(path: Path, root: Path) -> str:
    """The session that a mask belongs to, by its name or else its folder, or empty; lower case."""
    entities, _ = parse_name(path.name)
    folders = [part.lower() for part in path.relative_to(root).parts[:-1]]
    sessions = [part for part in folders if part.startswith("ses-")]
    return f"ses-{entities['ses']}" if "ses" in entities else "".join(sessions[-1:])
