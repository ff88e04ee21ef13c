"""Layouts of public data sets, kept as data in ``layouts.json``, and which layout a folder has.

A layout says how case folders are called (``case`` and ``subject`` are groups of the pattern; none
for a BIDS tree), which file is which contrast, and what the values of the label mean, so that they
are brought to the template's values by name. Not in the paper.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from amae_nnunet.convert.bids import scan_bids
from amae_nnunet.convert.codes import CaseError
from amae_nnunet.convert.found import Found
from amae_nnunet.convert.nnunet import contrast_of_channel, read_dataset, scan_dataset
from amae_nnunet.convert.scan import (
    case_folders,
    case_id,
    check_inside,
    nifti_files,
    refuse_clashes,
)
from amae_nnunet.convert.source import NiftiFile, RawCase
from amae_nnunet.convert.table import ENDINGS
from amae_nnunet.convert.template import Template, check_channels, matches
from amae_nnunet.errors import ConfigError, ContrastError, InputError

_log = logging.getLogger(__name__)

LAYOUTS: Mapping[str, Any] = json.loads(
    (Path(__file__).parent / "layouts.json").read_text(encoding="utf-8")
)
NNUNET = "nnunet"
_NIFTI = "*.[nN][iI][iI]*"
NAMES = (*LAYOUTS, NNUNET)


def scan_layout(root: Path, name: str, template: Template) -> list[RawCase]:
    """List the cases of a folder in a known layout.

    Args:
        root: the folder.
        name: one of ``NAMES``.
        template: as ``layout_template`` gives it.

    Raises:
        InputError: the folder is not in this layout.
    """
    if name == NNUNET:
        return scan_dataset(root, template)
    if "folder" not in LAYOUTS[name]:
        return scan_bids(root, template)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give the one that holds the case folders")
    cases = [
        raw
        for folder in case_folders(root)
        for raw in _scan_folder(folder, root.resolve(), name, template)
    ]
    if not cases:
        raise InputError(f"{root} has no case folder of {name}: give the one that holds them")
    return refuse_clashes(cases)


def layout_template(
    name: str, root: Path, given: Template | None = None, with_label: bool = True
) -> Template:
    """The template for a layout.

    Args:
        name: one of ``NAMES``.
        root: the folder that is in this layout.
        given: the user's template: its channels and labels are kept; the label's files, and what
            their values mean, are the layout's. Without it all is the layout's.
        with_label: whether the label will be used, so that all its values must have a meaning.

    Raises:
        ConfigError: template and layout have no contrast in common, or the template has no label
            for a value of the layout.
        InputError: the folder is not in this layout.
    """
    own, values = _own_template(name, root)
    if given is None:
        if not values:
            raise ConfigError(f"{root} has regions as labels: say with a template what is meant")
        return own
    template = replace(given, label_patterns=own.label_patterns)
    accepted = {contrast for names in template.accepts.values() for contrast in names}
    offered = own.contrasts
    if name == NNUNET:
        channels = read_dataset(root).channels
        offered = {contrast_of_channel(channel, accepted): () for channel in channels}
    if not accepted & set(offered):
        raise ConfigError(
            f"{name} has {', '.join(offered)}, the template takes {', '.join(sorted(accepted))}: "
            "nothing in common, give another template"
        )
    return _map_labels(values, template, name) if with_label else template


def detect_layout(root: Path) -> str:
    """What kind of input a path is.

    Returns:
        ``table``, ``bids``, ``folders`` (one a case), ``dicom``, or one of ``NAMES``.

    Raises:
        InputError: it is nothing that can be converted.
    """
    if root.is_file():
        if root.suffix.lower() in (*ENDINGS, ".zip"):
            return "table" if root.suffix.lower() in ENDINGS else "dicom"
        raise InputError(f"{root} is a file: give a folder, or a table that ends in .csv or .tsv")
    if not root.is_dir():
        raise InputError(f"{root} is not there: give a folder, or a table")
    if (root / "dataset.json").is_file() and any(root.glob("imagesT[rs]")):
        return NNUNET
    presets = [name for name, layout in LAYOUTS.items() if any(root.glob(layout["mark"]))]
    if len(presets) == 1:
        return presets[0]
    marks = ("sub-*/anat", "sub-*/dwi", "sub-*/ses-*/anat", "sub-*/ses-*/dwi")
    if (root / "dataset_description.json").is_file() or any(any(root.glob(m)) for m in marks):
        return "bids"
    if any(root.glob(f"*/{_NIFTI}")) or any(root.glob(f"*/*/{_NIFTI}")):
        _doubt_folders(root)
        return "folders"
    if any(root.glob(_NIFTI)):
        raise InputError(
            f"{root} holds NIfTI files: put the files of each case into a folder, or give the "
            f"folder above, {root.parent}"
        )
    if any(path.is_file() for path in root.rglob("*")):
        return "dicom"
    raise InputError(f"{root} holds no file: give the folder of the studies")


def _doubt_folders(root: Path) -> None:
    """Warn where most folders hold files and none of NIfTI: it may be an archive of DICOM."""
    folders = [path for path in root.iterdir() if path.is_dir() and path.name[0] != "."]
    without = [path for path in folders if not any(path.rglob(_NIFTI)) and _holds_file(path)]
    if 2 * len(without) > len(folders):
        _log.warning(
            "warning: %s is read as folders of NIfTI files, of which %d of %d hold none: give "
            "--layout dicom if the others are DICOM",
            root.name,
            len(without),
            len(folders),
        )


def _holds_file(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*"))


def _own_template(name: str, root: Path) -> tuple[Template, Mapping[str, int]]:
    """What a layout alone says, and the values in its label files by name."""
    if name == NNUNET:
        dataset = read_dataset(root)
        title, about = dataset.name, f"from nnU-Net's data set {dataset.name}"
        contrasts = {
            contrast_of_channel(channel): [f"*_{index:04d}{dataset.ending}"]
            for index, channel in enumerate(dataset.channels)
        }
        values, patterns = dataset.labels, [f"labelsTr/*{dataset.ending}"]
    else:
        layout = LAYOUTS[name]
        title, about, contrasts = name, layout["about"], layout["contrasts"]
        values, patterns = layout["label"]["labels"], layout["label"]["patterns"]
    try:
        check_channels(tuple(contrasts))
    except ContrastError as error:
        raise ConfigError(f"{root}: {error}") from None
    ordered = sorted(values, key=lambda label: values[label])
    template = Template(
        title,
        about,
        {contrast: tuple(files) for contrast, files in contrasts.items()},
        required=(),
        label_patterns=tuple(patterns),
        labels={label: value for value, label in enumerate(ordered)},
        label_map={values[label]: value for value, label in enumerate(ordered)},
        all_mapped=True,
    )
    return template, values


def _map_labels(values: Mapping[str, int], template: Template, where: str) -> Template:
    """The template with a map from the values of the files to its own, by name; its own map wins.

    A value that neither the layout nor that map has is not taken for the template's of that number.
    One label besides the background is taken for the template's one label, whatever its name.
    """
    meant = {name: value for name, value in values.items() if value}
    wanted = {name: value for name, value in template.labels.items() if value}
    if len(meant) == len(wanted) == 1:
        mapped = dict(zip(meant.values(), wanted.values(), strict=True))
    else:
        mapped = {value: wanted[name] for name, value in meant.items() if name in wanted}
    mapped.update(template.label_map)
    unknown = [f"{name} ({value})" for name, value in meant.items() if value not in mapped]
    if unknown:
        raise ConfigError(
            f"{where} has labels {', '.join(unknown)}, the template has {', '.join(wanted)}: say "
            'in the template what they become, with "map": {"VALUE": VALUE} in its label'
        )
    return replace(template, label_map=mapped, all_mapped=True)


def _scan_folder(folder: Path, root: Path, name: str, template: Template) -> list[RawCase]:
    """The case in a folder; none if the folder is not called like a case and has no image."""
    layout = LAYOUTS[name]
    named = re.fullmatch(layout["folder"], folder.name)
    case = case_id(named["case"] if named else folder.name)
    found = Found(case, folder.name, case_id(named["subject"]) if named else case)
    try:
        check_inside(folder, folder, root)
        for relative in nifti_files(folder, root):
            if not named:
                raise CaseError("E_NAME", f"{folder.name} is not called like a case of {name}")
            _add(NiftiFile(folder / relative, relative), found, layout)
    except CaseError as error:
        found.problem = error
    return [found.raw_case(template, "add its file")] if named or found.problem else []


def _add(file: NiftiFile, found: Found, layout: Mapping[str, Any]) -> None:
    for contrast, patterns in layout["contrasts"].items():
        if matches(file.name, tuple(patterns)):
            found.add(contrast, file)
            return
    if matches(file.name, tuple(layout["label"]["patterns"])):
        found.labels.append(file)
    elif not matches(file.name, tuple(layout.get("other", ()))):
        found.reject(file.name, "no file of this layout")
