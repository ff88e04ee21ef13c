"""Unlabelled data sets, preprocessed once with the plans of the data set to fine-tune on.

nnU-Net plans and preprocesses labelled data sets only; its preprocessor itself needs no label. The
cases of ``nnUNet_raw/Dataset500_More/imagesTr`` go to::

    nnUNet_preprocessed/Dataset501_Infarct/unlabeled/DATA_IDENTIFIER/Dataset500_More/
        CASE.b2nd, CASE_seg.b2nd, CASE.pkl    as nnU-Net writes them, in half precision
        cases.jsonl                           one line a case that is done
        failures.jsonl                        one line a case that could not be

A case whose files and plan have not changed is not done again. A case that fails, hangs or kills
its process is noted, and the others go on. Not in the paper.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures as concurrent
from concurrent.futures import Future, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from amae_nnunet.contrasts import FILE_NAME, ContrastRecord, check_contrast_names
from amae_nnunet.errors import CannotWrite, InputError
from amae_nnunet.folders import nnunet_folder
from amae_nnunet.lock import LOCK, locked
from amae_nnunet.plans.block import channel_contrasts
from amae_nnunet.plans.half import in_half, small_blocks
from amae_nnunet.plans.preprocessed import (
    NORMALIZATION,
    PreprocessedDataset,
    nonzero_channels,
    read_json,
)
from amae_nnunet.whole import write_whole
from amae_nnunet.workers import reason, workers

log = logging.getLogger(__name__)

LEDGER, FAILURES = "cases.jsonl", "failures.jsonl"
TIMEOUT = 1800.0  # seconds for one case
_ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")
#: What of a configuration decides the preprocessed voxels.
_DECIDES = (
    "preprocessor_name", "spacing", "use_mask_for_norm", "resampling_fn_data",
    "resampling_fn_data_kwargs",
)  # fmt: skip


@dataclass(frozen=True)
class UnlabeledDataset:
    """A preprocessed unlabelled data set.

    Attributes:
        name: ``Dataset500_More``.
        folder: of the preprocessed cases.
        contrasts: names in channel order.
        cases: for each usable case the contrasts that it has, and their channels.
    """

    name: str
    folder: Path
    contrasts: tuple[str, ...]
    cases: dict[str, dict[str, int]]


@dataclass(frozen=True)
class _Job:
    case: str
    files: tuple[Path, ...]
    contrasts: tuple[str, ...]
    recorded: tuple[bool, ...] | None  # what contrasts.json says
    plans: dict[str, Any]
    configuration: dict[str, Any]
    dataset_json: dict[str, Any]
    scratch: Path

    @property
    def key(self) -> str:
        """A hash of what the preprocessed case is made from: files (name, size, time) and plan."""
        files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.files]
        plan = [self.configuration[name] for name in _DECIDES]
        reader = [self.plans["transpose_forward"], self.plans["image_reader_writer"]]
        content = json.dumps([files, self.contrasts, plan, reader, self.recorded])
        return hashlib.sha256(content.encode()).hexdigest()


def _described(name: str) -> dict[str, Any]:
    """``dataset.json`` of a raw data set."""
    path = nnunet_folder("nnUNet_raw") / name / "dataset.json"
    convert = "convert the data set with amae-nnunet-convert"
    described = read_json(path, convert)
    names = described.get("channel_names") or described.get("modality")
    for key, value in (("channel_names", names), ("file_ending", described.get("file_ending"))):
        if not value:
            raise InputError(f"{path} has no {key}: add it, or {convert}")
    return described


def unlabeled_contrasts(name: str) -> tuple[str, ...]:
    """The contrasts of a raw data set in channel order.

    Raises:
        InputError: there is no such data set, or it is not described as nnU-Net wants it.
    """
    return check_contrast_names(channel_contrasts(_described(name)))


def raw_cases(name: str) -> list[str]:
    """The cases of a raw data set, usable or not.

    Raises:
        InputError: it has none, or see ``unlabeled_contrasts``.
    """
    return list(_raw_files(nnunet_folder("nnUNet_raw") / name, _described(name)["file_ending"]))


def _raw_files(raw: Path, ending: str) -> dict[str, dict[str, Path]]:
    """The files of each case of a raw data set, by channel (``0000``)."""
    files: dict[str, dict[str, Path]] = {}
    for path in sorted((raw / "imagesTr").glob(f"*_[0-9][0-9][0-9][0-9]{ending}")):
        case, _, channel = path.name.removesuffix(ending).rpartition("_")
        files.setdefault(case, {})[channel] = path
    if not files:
        raise InputError(f"{raw / 'imagesTr'} holds no case: convert with --split unlabeled")
    return files


def preprocess_unlabeled(
    dataset: PreprocessedDataset, name: str, processes: int = 2
) -> UnlabeledDataset:
    """Preprocess what is not preprocessed yet of an unlabelled data set.

    Waits while another run does the same.

    Args:
        dataset: whose plans are used.
        name: ``Dataset500_More``, another one.
        processes: how many cases at the same time.

    Raises:
        InputError: its raw data are not there, or none of its cases can be used.
    """
    folder = unlabeled_folder(dataset) / name
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, wait=True):  # the folds of a job array come together
        return _preprocess_missing(dataset, name, folder, processes)


def _preprocess_missing(
    dataset: PreprocessedDataset, name: str, folder: Path, processes: int
) -> UnlabeledDataset:
    raw = nnunet_folder("nnUNet_raw") / name
    described = _described(name)
    contrasts = unlabeled_contrasts(name)
    ledger = _read_ledger(folder / LEDGER)
    _write_lines(folder / LEDGER, ledger.values())
    jobs, failures = _jobs(dataset, raw, folder, contrasts, described)
    pending = [job for job in jobs if not _is_done(job, folder, ledger)]
    for job, future in _run(pending, processes, f"preprocess {name}"):
        if problem := _reason(future):
            failures[job.case] = problem
        else:
            ledger[job.case] = {
                "case": job.case,
                "key": job.key,
                "contrasts": future.result(),
                "bytes": _sizes(job.scratch, job.case),
            }
            _publish(job, folder, ledger[job.case])
    shutil.rmtree(folder / ".tmp", ignore_errors=True)
    _report(folder, name, failures)
    cases = {job.case: ledger[job.case] for job in jobs if job.case not in failures}
    if not cases:
        raise InputError(f"none of the {len(failures)} cases of {name} can be used: see above")
    found = {case: dict(entry["contrasts"]) for case, entry in cases.items()}
    return UnlabeledDataset(name, folder, contrasts, found)


def unlabeled_folder(dataset: PreprocessedDataset) -> Path:
    """Where unlabelled data sets lie that were preprocessed with a configuration's plans."""
    return dataset.folder / "unlabeled" / str(dataset.configuration["data_identifier"])


def published_cases(folder: Path) -> dict[str, dict[str, int]]:
    """The preprocessed cases of a folder, and for each its contrasts and their channels."""
    entries = _read_ledger(folder / LEDGER)
    return {case: dict(entry["contrasts"]) for case, entry in entries.items()}


def _jobs(
    dataset: PreprocessedDataset,
    raw: Path,
    folder: Path,
    contrasts: tuple[str, ...],
    described: dict[str, Any],
) -> tuple[list[_Job], dict[str, str]]:
    """A job for each case whose files are all there, and a reason for each other case."""
    files = _raw_files(raw, described["file_ending"])
    plans, configuration = _plan_for(dataset, contrasts)
    record = ContrastRecord.read(raw) if (raw / FILE_NAME).exists() else None
    wanted = [f"{channel:04d}" for channel in range(len(contrasts))]
    jobs, failures = [], {}
    for case, channels in files.items():
        recorded = record.cases.get(case) if record else None
        if sorted(channels) != wanted:
            failures[case] = (
                f"has the channel files {', '.join(channels)}, dataset.json lists "
                f"{len(contrasts)} contrasts: convert it again"
            )
        elif record and recorded is None:
            failures[case] = f"is not in {FILE_NAME}: convert the data set again"
        else:
            jobs.append(
                _Job(
                    case,
                    tuple(channels[channel] for channel in wanted),
                    contrasts,
                    recorded.present if recorded else None,
                    plans,
                    configuration,
                    described,
                    folder / ".tmp" / case,
                )
            )
    return jobs, failures


def _plan_for(
    dataset: PreprocessedDataset, contrasts: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plans and configuration for other channels: what nnU-Net plans by channel, by name."""
    masks = dict(
        zip(dataset.block.contrasts, dataset.configuration["use_mask_for_norm"], strict=True)
    )
    other = any(masks.values())  # nnU-Net decides it for all channels at once
    configuration = {
        **{key: value for key, value in dataset.configuration.items() if key != "amae"},
        "normalization_schemes": [NORMALIZATION] * len(contrasts),
        "use_mask_for_norm": [masks.get(name, other) for name in contrasts],
    }
    plans = {
        **dataset.plans,
        "foreground_intensity_properties_per_channel": {str(c): {} for c in range(len(contrasts))},
    }
    return plans, configuration


def _preprocess(job: _Job) -> dict[str, int]:
    """Write a case into its scratch folder; the contrasts that it has, and their channels."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

    shutil.rmtree(job.scratch, ignore_errors=True)
    configuration = ConfigurationManager(job.configuration)
    data, seg, properties = configuration.preprocessor_class(verbose=False).run_case(
        [str(path) for path in job.files],
        None,
        PlansManager(job.plans),
        configuration,
        job.dataset_json,
    )
    if not np.isfinite(data).all():
        raise InputError("a voxel is NaN or infinite: repair the file and convert it again")
    flags = nonzero_channels(data)
    if not any(flags):
        raise InputError("all its images are zero: leave it out")
    if job.recorded is not None:
        record = ContrastRecord(job.contrasts)
        record.add(job.case, job.recorded, "unlabeled", job.case)
        record.check_voxels(job.case, flags)
    try:
        job.scratch.mkdir(parents=True)
        nnUNetDatasetBlosc2.save_case(
            in_half(data),
            seg.astype(np.int16),
            properties,
            str(job.scratch / job.case),
            **small_blocks(data.shape),
        )
    except (OSError, RuntimeError) as error:  # blosc2 does not say that the disk is full
        raise CannotWrite.of(job.scratch / f"{job.case}.b2nd", error) from None
    return {name: c for c, name in enumerate(job.contrasts) if flags[c]}


def _run(jobs: Sequence[_Job], processes: int, title: str) -> Iterator[tuple[_Job, Future[Any]]]:
    """Preprocess, each case in a process that it may bring down, and yield what is ready.

    Raises:
        CannotWrite: a case could not be written, which is not its fault: no other can be, either.
    """
    if not jobs:
        return
    with workers(min(processes, len(jobs)), TIMEOUT) as schedule, logging_redirect_tqdm():
        futures = {schedule(_preprocess, (job,)): job for job in jobs}
        for future in tqdm(as_completed(futures), title, len(futures), unit="case"):
            if isinstance(error := future.exception(), CannotWrite):
                raise error
            yield futures[future], future


def _reason(future: Future[Any]) -> str:
    """Why a case failed, empty if it did not."""
    error = future.exception()
    if error is None:
        return ""
    if isinstance(error, (TimeoutError, concurrent.TimeoutError)):  # one class from Python 3.11
        return f"took more than {TIMEOUT:.0f} s: look at its files"
    return reason(error)


def _publish(job: _Job, folder: Path, entry: dict[str, Any]) -> None:
    """Move the files of a case into place, then add its line."""
    for ending in _ENDINGS:
        os.replace(job.scratch / f"{job.case}{ending}", folder / f"{job.case}{ending}")
    with (folder / LEDGER).open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(entry)}\n")


def _is_done(job: _Job, folder: Path, ledger: dict[str, dict[str, Any]]) -> bool:
    """Whether a case is there as it was written, from files and a plan that have not changed."""
    entry, sizes = ledger.get(job.case, {}), _sizes(folder, job.case)
    return bool(sizes) and entry.get("key") == job.key and entry.get("bytes", sizes) == sizes


def _sizes(folder: Path, case: str) -> list[int]:
    """The bytes of the files of a case, empty if one is not there."""
    files = [folder / f"{case}{ending}" for ending in _ENDINGS]
    return [path.stat().st_size for path in files] if all(map(Path.is_file, files)) else []


def _read_ledger(path: Path) -> dict[str, dict[str, Any]]:
    """The last line of each case; of one whose line is damaged or half nothing is known."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    entries = {}
    for line in text.split("\n"):
        with suppress(ValueError, LookupError, TypeError):
            entry = json.loads(line)
            entries[entry["case"]] = entry
    return entries


def _write_lines(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    write_whole(path, "".join(f"{json.dumps(entry)}\n" for entry in entries))


def _report(folder: Path, name: str, failures: dict[str, str]) -> None:
    found = sorted(failures.items())
    _write_lines(folder / FAILURES, ({"case": case, "error": why} for case, why in found))
    for case, why in found:
        log.error("%s, case %s: %s", name, case, why)
    if failures:
        log.warning(
            "warning: %d cases of %s are left out (listed in %s)",
            len(failures),
            name,
            folder / FAILURES,
        )
