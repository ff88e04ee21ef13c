"""The template: which files are which contrast, and what the label's values mean.

A template is a JSON file, so that a group describes its own files without code::

    {"name": "LGG", "description": "...",
     "contrasts": {"T1": ["T1.nii*", "*_T1.nii*"], "FLAIR": ["FLAIR.nii*"]},    channel order
     "accepts": {"T1": ["T1", "T1CE"]},
     "required": ["FLAIR", "T1|T2"],
     "label": {"patterns": ["seg*"], "labels": {"background": 0, "abnormality": 1},
               "map": {"4": 1}}}

``accepts`` is for the readers that know contrasts by themselves (BIDS, tables, layouts, DICOM): the
contrasts that may feed a channel, the best first; without it each channel takes its own.
``required`` lists what a case must have, ``A|B`` at least one of the two. ``map`` turns values of
the label files into the template's. Not in the paper, which describes no conversion.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from amae_nnunet.contrasts import check_contrast_names, check_required, missing_required
from amae_nnunet.errors import ConfigError, ContrastError, unknown_key
from amae_nnunet.parse import parse_json

_KEYS = {"name", "description", "contrasts", "accepts", "required", "label"}
_NEEDED = ("name", "contrasts", "label")
_ROOM = Path(__file__).resolve().parent
#: Shipped templates: in the installed package, or beside the package in a source checkout.
_FOLDERS = (_ROOM / "templates", _ROOM.parents[1] / "nnUNet_raw_templates")
#: nnU-Net takes these channel names as an order not to z-score, which absent contrasts need.
_NORMALIZATION_NAMES = {"ct", "nonorm", "rescale_to_0_1", "rgb_to_0_1"}
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Template:
    """A checked template.

    Attributes:
        name: letters, digits, ``_`` and ``-``; the default name of the data set.
        description: free text for ``dataset.json``.
        contrasts: channel -> file name patterns, in channel order.
        required: channels without which a case is refused; ``A|B`` asks for one of them.
        label_patterns: file name patterns of the label.
        labels: name -> value, 0 upwards without a gap.
        accepts: channel -> contrasts that may feed it, the best first; all channels.
        label_map: value in a label file -> value of ``labels``, where the two differ.
        all_mapped: whether ``label_map`` has all values that a label file may have, but 0.
    """

    name: str
    description: str
    contrasts: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...]
    label_patterns: tuple[str, ...]
    labels: Mapping[str, int]
    accepts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    label_map: Mapping[int, int] = field(default_factory=dict)
    all_mapped: bool = False

    def __post_init__(self) -> None:
        accepts = {channel: self.accepts.get(channel, (channel,)) for channel in self.contrasts}
        object.__setattr__(self, "accepts", accepts)

    @property
    def digest(self) -> str:
        """A hash of all that the template says."""
        content = json.dumps([asdict(self), list(self.contrasts)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def missing_required(self, present: Collection[str]) -> list[str]:
        """The entries of ``required`` that the channels of a case do not meet."""
        return missing_required(self.required, present)

    def feed(self, found: Mapping[str, _Found]) -> dict[str, tuple[str, _Found]]:
        """Choose what feeds each channel: the first contrast it accepts that was found.

        Args:
            found: contrast -> what was found of it.

        Returns:
            Channel -> the contrast chosen and what was found of it, in channel order.
        """
        fed = {}
        for channel, accepted in self.accepts.items():
            best = next((contrast for contrast in accepted if contrast in found), None)
            if best is not None:
                fed[channel] = (best, found[best])
        return fed


def matches(relative: str, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern fits the file's path in the case folder, or its name; case is ignored."""
    path = relative.lower()
    names = (path, path.rsplit("/", 1)[-1])
    return any(fnmatchcase(name, pattern.lower()) for pattern in patterns for name in names)


def shipped_templates() -> list[str]:
    """Names of the templates that come with the package."""
    return sorted({file.stem for folder in _FOLDERS for file in folder.glob("*.json")})


def load_template(name_or_path: str) -> Template:
    """Load a shipped template by its name, or any template by its path.

    Raises:
        ConfigError: there is no such template, or it is not a valid one.
    """
    known = name_or_path in shipped_templates()
    files = [folder / f"{name_or_path}.json" for folder in _FOLDERS] if known else []
    path = next((path for path in files if path.is_file()), Path(name_or_path))
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(
            f"template {name_or_path} is not a readable file: give a path or one of "
            f"{', '.join(shipped_templates())}"
        ) from None
    except ValueError as error:
        raise ConfigError(f"template {path.name} is not valid JSON: {error}") from None
    try:
        return make_template(content)
    except (ConfigError, ContrastError) as error:
        raise ConfigError(f"template {path.name}: {error}") from None


def make_template(content: Any) -> Template:
    """Check the content of a template file.

    Raises:
        ConfigError: it is not a template.
        ContrastError: a contrast's name cannot be one.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"it must be an object with the keys {', '.join(_NEEDED)}")
    for key in sorted(set(content) - _KEYS):
        raise unknown_key(key, sorted(_KEYS))
    if lacking := [key for key in _NEEDED if key not in content]:
        raise ConfigError(f"it has no {' and no '.join(lacking)}: add that")
    name, contrasts, label = content["name"], content["contrasts"], content["label"]
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ConfigError(f"name {name!r}: use letters, digits, '_' and '-' only")
    if not isinstance(contrasts, dict):
        raise ConfigError("contrasts must be an object of contrast -> patterns")
    check_channels(tuple(contrasts))
    if not isinstance(label, dict) or not {"patterns", "labels"} <= set(label) <= {
        "patterns",
        "labels",
        "map",
    }:
        raise ConfigError("label must have the keys patterns and labels, and may have map")
    labels = _check_labels(label["labels"])
    return Template(
        name,
        str(content.get("description", "")),
        {key: _check_patterns(key, patterns) for key, patterns in contrasts.items()},
        _check_required(content.get("required", []), contrasts),
        _check_patterns("label", label["patterns"]),
        labels,
        _check_accepts(content.get("accepts", {}), contrasts),
        _check_map(label.get("map", {}), labels),
    )


def check_channels(names: tuple[str, ...]) -> None:
    """Check the names of the channels.

    Raises:
        ConfigError: nnU-Net reads a name as an order not to z-score.
        ContrastError: a name is not letters, digits, ``_``, ``-``.
    """
    for contrast in check_contrast_names(names):
        if contrast.casefold() in _NORMALIZATION_NAMES:
            raise ConfigError(
                f"contrast {contrast}: nnU-Net would not z-score it under this name, rename it"
            )


def _check_patterns(name: str, patterns: Any) -> tuple[str, ...]:
    if not _is_texts(patterns):
        raise ConfigError(f"{name}: patterns must be a list of file name patterns")
    return tuple(patterns)


def _check_required(required: Any, contrasts: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        if required != [] and not _is_texts(required):
            raise ContrastError("it is not a list of names")
        check_required(required, tuple(contrasts))
    except ContrastError:
        raise ConfigError(
            f"required must list contrasts of {', '.join(contrasts)} (or A|B for one of two), "
            f"not {required}"
        ) from None
    return tuple(required)


def _check_accepts(accepts: Any, contrasts: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    if not isinstance(accepts, dict) or not set(accepts) <= set(contrasts):
        raise ConfigError(f"accepts must be an object with keys of {', '.join(contrasts)}")
    fed: dict[str, str] = {}
    for channel in contrasts:
        names = accepts.get(channel, [channel])
        if not _is_texts(names):
            raise ConfigError(f"accepts of {channel} must be a list of contrasts")
        for name in check_contrast_names(names):
            other = fed.setdefault(name, channel)
            if other != channel:
                raise ConfigError(
                    f"accepts: {name} would feed both {other} and {channel}: give it to one"
                )
    return {channel: tuple(names) for channel, names in accepts.items()}


def _check_labels(labels: Any) -> dict[str, int]:
    whole = isinstance(labels, dict) and all(type(value) is int for value in labels.values())
    if not whole or labels.get("background") != 0 or len(labels) > 255:
        raise ConfigError("labels must be name -> whole number, with background 0")
    for name in labels:
        if not name.strip() or not name.isprintable():
            raise ConfigError(f"label {name!r}: use printable signs")
    if sorted(labels.values()) != list(range(len(labels))):
        raise ConfigError(
            f"label values {sorted(labels.values())}: nnU-Net needs 0, 1, 2, ... without a gap"
        )
    return dict(labels)


def _check_map(values: Any, labels: Mapping[str, int]) -> dict[int, int]:
    digits = isinstance(values, dict) and all(re.fullmatch(r"\d+", value) for value in values)
    if not digits or not all(
        type(value) is int and value in labels.values() for value in values.values()
    ):
        known = ", ".join(map(str, sorted(labels.values())))
        raise ConfigError(f'map must be like {{"4": 3}}, to values of {known}')
    return {int(source): value for source, value in values.items()}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(x) is str and x for x in value)
