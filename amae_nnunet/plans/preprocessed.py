"""A data set as nnU-Net preprocessed it: its plans, cases, splits and contrast record.

Not in the paper.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from amae_nnunet.config import check_three_axes
from amae_nnunet.contrasts import FILE_NAME, ContrastRecord
from amae_nnunet.errors import ConfigError, InputError
from amae_nnunet.folders import FOLDERS, dataset_number, nnunet_folder
from amae_nnunet.intact import said
from amae_nnunet.parse import parse_json
from amae_nnunet.plans.block import PLANS_NAME, AMAEBlock, channel_contrasts
from amae_nnunet.whole import write_whole

#: The checkpoint that a finished pre-training leaves in its folder.
CHECKPOINT_NAME = "checkpoint_final.safetensors"
#: nnU-Net's only normalization that keeps an all-zero channel zero and others not.
NORMALIZATION = "ZScoreNormalization"
_SHOWN = 12  # numbers of data sets in a message


def pretraining_folder(name: str, plans_name: str, configuration: str, fold: str) -> Path:
    """Where the pre-training of a data set, plans, configuration and fold keeps its results."""
    folder = nnunet_folder("nnUNet_results") / name
    return folder / f"AMAEPretraining__{plans_name}__{configuration}" / f"fold_{fold}"


def dataset_name(name_or_id: str) -> str:
    """The full name (``Dataset501_Infarct``) of a data set given by name or number.

    Raises:
        InputError: there is none, or there are several.
    """
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    try:
        return str(maybe_convert_to_dataset_name(name_or_id))
    except (RuntimeError, ValueError):
        raise InputError(_not_found(name_or_id)) from None


def _not_found(name_or_id: str) -> str:
    """Why a data set is not found, and which ones there are."""
    folders = [Path(os.environ[variable]) for variable in FOLDERS if os.environ.get(variable)]
    found = (path.name for folder in folders for path in folder.glob("Dataset[0-9][0-9][0-9]*_*"))
    names = sorted(set(found))
    if not name_or_id.isdecimal():
        return f"data set {name_or_id!r}: give its number (501) or its whole name (Dataset501_LGG)"
    same = [name for name in names if int(dataset_number(name)) == int(name_or_id)]
    if same:
        return f"data set {name_or_id} is {' or '.join(same)}: give the whole name"
    numbers = list(dict.fromkeys(map(dataset_number, names)))
    there = ", ".join([*numbers[:_SHOWN], *(["..."] if len(numbers) > _SHOWN else [])])
    unset = [variable for variable in FOLDERS if not os.environ.get(variable)]
    return (
        f"there is no data set {name_or_id} in {', '.join(FOLDERS[:-1])} or {FOLDERS[-1]}; "
        + (f"there are {there}" if numbers else "they hold none: convert it first")
        + (f" ({' and '.join(unset)} not set)" if unset else "")
    )


def read_json(path: Path, next_step: str) -> dict[str, Any]:
    """A JSON file of nnU-Net's.

    Raises:
        InputError: it is missing (``next_step`` says what writes it) or not JSON.
    """
    try:
        content: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: {next_step}") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): {next_step}") from None
    return content


def read_plans(folder: Path, configuration: str, plans_name: str) -> dict[str, Any]:
    """A plans file of a preprocessed data set, which has the configuration.

    Args:
        folder: ``nnUNet_preprocessed/DatasetXXX_Name``.
        configuration: ``3d_fullres``, say.
        plans_name: ``nnUNetPlans``, say.

    Raises:
        InputError: there are no such plans, or they have no such configuration.
    """
    step = _planning(folder.name, configuration, plans_name)
    plans = read_json(folder / f"{plans_name}.json", step)
    if not isinstance(plans, dict) or not isinstance(plans.get("configurations"), dict):
        raise InputError(f"{folder / plans_name}.json is no plans file: name another, or {step}")
    if configuration not in plans["configurations"]:
        others = (path for path in sorted(folder.glob("[!.]*.json")) if path.stem != plans_name)
        other = next((path.stem for path in others if _has(path, configuration)), None)
        known = ", ".join(plans["configurations"])
        raise InputError(
            f"{plans_name} of {folder.name} has no configuration {configuration}: "
            + (f"{other} has it: add -p {other}" if other else f"it has {known}")
        )
    return plans


def _has(path: Path, configuration: str) -> bool:
    """Whether a JSON file is one of plans that have the configuration."""
    try:
        return configuration in parse_json(path.read_text(encoding="utf-8"))["configurations"]
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _planning(name: str, configuration: str, plans_name: str) -> str:
    """What writes plans of this name."""
    raw = Path(os.environ.get("nnUNet_raw", ""), name)
    if (raw / "imagesTr").is_dir() and not (raw / "labelsTr").exists():
        return f"it has no labels: name the labelled data set, and {name} with --unlabeled"
    if plans_name == PLANS_NAME:
        return f"run amae-nnunet-configure {dataset_number(name)} {configuration}"
    return f"run nnUNetv2_plan_and_preprocess -d {dataset_number(name)}"


@dataclass(frozen=True)
class PreprocessedDataset:
    """One configuration of one preprocessed data set.

    Attributes:
        name: ``Dataset501_Infarct``.
        plans: ``plans.json``, whole.
        configuration_name: ``3d_fullres``, say.
        configuration: its values, inheritance resolved.
        dataset_json: ``dataset.json``.
        block: the configuration's ``"amae"`` block, with the data set's contrasts.
    """

    name: str
    plans: dict[str, Any]
    configuration_name: str
    configuration: dict[str, Any]
    dataset_json: dict[str, Any]
    block: AMAEBlock

    @classmethod
    def open(cls, name_or_id: str, configuration: str, plans_name: str) -> PreprocessedDataset:
        """Open what ``nnUNetv2_plan_and_preprocess`` wrote.

        Raises:
            InputError: there is no such data set, plans or configuration.
            ConfigError: a 2d configuration, or a normalization that breaks the presence rule.
        """
        name = dataset_name(name_or_id)
        folder = nnunet_folder("nnUNet_preprocessed") / name
        plans = read_plans(folder, configuration, plans_name)
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        resolved = PlansManager(plans).get_configuration(configuration).configuration
        check_three_axes(resolved)
        dataset_json = read_json(
            folder / "dataset.json", _planning(name, configuration, plans_name)
        )
        check_normalization(resolved["normalization_schemes"])
        block = AMAEBlock.read(resolved).for_dataset(dataset_json)
        return cls(name, plans, configuration, resolved, dataset_json, block)

    @property
    def folder(self) -> Path:
        """``nnUNet_preprocessed/DatasetXXX_Name``."""
        return nnunet_folder("nnUNet_preprocessed") / self.name

    @property
    def data_folder(self) -> Path:
        """The folder with the preprocessed cases of this configuration."""
        return self.folder / str(self.configuration["data_identifier"])

    def cases(self) -> list[str]:
        """Names of the preprocessed cases, sorted.

        Raises:
            InputError: there are none.
        """
        found: list[str] = []
        if self.data_folder.is_dir():
            found = sorted(case_reader(self.data_folder).get_identifiers(str(self.data_folder)))
        if not found:
            number = dataset_number(self.name)
            raise InputError(
                f"{self.data_folder} holds no preprocessed case: run nnUNetv2_preprocess -d "
                f"{number} -plans_name {self.plans['plans_name']} -c {self.configuration_name}"
            )
        return found

    def training_cases(self, fold: str) -> list[str]:
        """The cases of a fold's training part, or all of them.

        Args:
            fold: ``all``, or a number of ``splits_final.json``, which is made as nnU-Net makes it
                where it does not exist yet.

        Raises:
            ConfigError: the split file has no such fold.
            InputError: it is no split file, or the fold names cases that are not preprocessed.
        """
        cases = self.cases()
        if fold == "all":
            return cases
        path = self.folder / "splits_final.json"
        if not path.exists():
            from nnunetv2.utilities.crossval_split import generate_crossval_split

            stock = generate_crossval_split(cases, seed=12345, n_splits=5)
            write_whole(path, json.dumps(stock, indent=4))
        again = "repair it, or delete it and nnU-Net's own split is taken"
        splits: Any = read_json(path, again)
        try:
            parts = [sorted(map(str, split["train"])) for split in splits]
        except (TypeError, LookupError):
            raise InputError(f"{path} is no list of folds with train and val: {again}") from None
        if fold not in map(str, range(len(parts))):
            raise ConfigError(f"fold {fold}: give 'all' or a number under {len(parts)}")
        training = parts[int(fold)]
        missing = sorted(set(training) - set(cases))
        if missing:
            raise InputError(
                f"case {missing[0]} of fold {fold} is not in {self.data_folder}: preprocess again"
            )
        return training


def check_normalization(schemes: Iterable[str]) -> None:
    """Raise ConfigError unless every channel is z-scored, which the presence rule needs."""
    others = sorted({scheme for scheme in schemes if scheme != NORMALIZATION})
    if others:
        raise ConfigError(
            f"{others[0]} breaks the rule that an all-zero channel is an absent contrast: only "
            f"{NORMALIZATION} keeps it; name the channels of dataset.json by contrast (T1, ADC, "
            "...) and plan again"
        )


def case_reader(folder: Path) -> Any:
    """nnU-Net's class for the files of a preprocessed folder.

    Raises:
        InputError: they are not all of one kind, as where a preprocessing was killed.
    """
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    try:
        return infer_dataset_class(str(folder))
    except (AssertionError, KeyError) as error:
        raise InputError(
            f"{folder} has no preprocessed cases, or other files beside them: delete the folder "
            "and run nnUNetv2_preprocess again"
        ) from error


def nonzero_channels(data: Any) -> list[bool]:
    """Whether any voxel of each channel is not zero.

    Reads a slice at a time from the middle outwards, so a present contrast costs one or two.

    Args:
        data: (C, Z, Y, X), an array or a lazily read file of nnU-Net's.
    """
    depth = data.shape[1]
    order = sorted(range(depth), key=lambda z: abs(z - depth // 2))
    return [any(np.any(data[c, z]) for z in order) for c in range(data.shape[0])]


def travel_record(name: str) -> ContrastRecord | None:
    """The contrast record of a data set, copied to ``nnUNet_preprocessed`` where it changed.

    The converter writes it beside the raw data; nnU-Net does not carry it along.

    Returns:
        None where there is none, as with a data set of another converter.
    """
    preprocessed = nnunet_folder("nnUNet_preprocessed") / name
    raw, ours = os.environ.get("nnUNet_raw"), preprocessed / FILE_NAME
    if raw and (theirs := Path(raw) / name / FILE_NAME).exists():
        record = ContrastRecord.read(theirs.parent)
        if not ours.exists() or ours.read_bytes() != theirs.read_bytes():
            record.write(preprocessed)
        return record
    return ContrastRecord.read(preprocessed) if ours.exists() else None


def check_cases(
    name: str,
    data_folder: Path,
    dataset_json: dict[str, Any],
    cases: Iterable[str],
    report: Callable[[str], object],
) -> dict[str, tuple[bool, ...]]:
    """Check cases against the contrast record before they train anything.

    Without a record only the number of channels is checked, and ``report`` is told.

    Returns:
        For each case, which of its channels are present.

    Raises:
        ContrastError: a case whose voxels or channels are not what the record says.
        InputError: a case cannot be read, has another number of channels, or voxels that are not
            finite.
    """
    contrasts = channel_contrasts(dataset_json)
    record = travel_record(name)
    if record is None:
        report(f"{name} has no {FILE_NAME}: absent contrasts are known by their zeros alone")
    elif record.contrasts != contrasts:
        raise InputError(
            f"{FILE_NAME} of {name} lists {', '.join(record.contrasts)} but dataset.json "
            f"{', '.join(contrasts)}: convert and preprocess again"
        )
    cases = list(cases)
    reader = case_reader(data_folder)(str(data_folder), list(cases))
    present = {}
    for case in tqdm(cases, desc="checking contrasts", unit="case", disable=len(cases) < 100):
        try:
            data = reader.load_case(case)[0]
            flags, middle = nonzero_channels(data), np.asarray(data[:, data.shape[1] // 2])
        except Exception as error:  # whatever nnU-Net, blosc2 and pickle raise
            raise InputError(
                f"case {case}: its files in {data_folder} are damaged, or not all there "
                f"({said(error, data_folder)}): run nnUNetv2_preprocess again"
            ) from None
        if data.shape[0] != len(contrasts):
            raise InputError(
                f"case {case} has {data.shape[0]} channels, dataset.json {len(contrasts)} "
                f"({', '.join(contrasts)}): a channel file is missing in nnUNet_raw; convert and "
                "preprocess the case again"
            )
        if not np.isfinite(middle).all():  # normalized, all voxels are
            raise InputError(
                f"case {case} has voxels that are NaN or infinite: repair its images in nnUNet_raw "
                "and preprocess it again"
            )
        if record is not None:
            record.check_voxels(case, flags)
        present[case] = tuple(flags)
    return present
