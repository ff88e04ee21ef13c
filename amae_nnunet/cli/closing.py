"""The last lines of ``amae-nnunet-convert``: how it ended, and the command that comes next."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from amae_nnunet.folders import dataset_number

if TYPE_CHECKING:
    from amae_nnunet.convert.dataset import Summary
    from amae_nnunet.convert.target import Target

_CONFIGURATION = "3d_fullres"  # there is one for every data set
_TRAINER = "AMAETrainer"
_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")  # the first is nnU-Net's default


def closing_lines(
    args: argparse.Namespace, target: Target, summary: Summary, layout: str = ""
) -> list[str]:
    """What is printed at the end of a conversion or a merge.

    Args:
        args: the user's.
        target: where the cases are.
        summary: how it ended.
        layout: what the input is; empty if it was not looked at.
    """
    lines = [
        f"{target.folder.name}: {summary.done} done, {summary.skipped} skipped, "
        f"{summary.failed} failed"
    ]
    lines += [f"  {name:<8} {_cases(count, 5)}" for name, count in summary.present.items()]
    if summary.folds:
        lines.append(f"folds: {summary.folds}, no subject on both sides (splits_final.json)")
    if summary.failed:
        lines.append(
            f"failed: {_cases(summary.failed)}, see above or failures.jsonl: correct the input and "
            "convert again, or go on without"
        )
    if args.num_parts:
        return [*lines, f"next: the other parts, then {shlex.join(_merge(args))}"]
    lines.append(f"look: {target.folder / 'report.html'}")
    steps = _predict_inputs(args, layout) if args.output else _dataset_steps(target, summary)
    return [*lines, *steps]


def _cases(count: int, width: int = 0) -> str:
    return f"{count:>{width}} case{'s' * (count != 1)}"


def _merge(args: argparse.Namespace) -> list[str]:
    """The command that puts parts together: what says where and of which contrasts they are."""
    options = {"-i": args.raw, "-d": args.dataset, "-n": args.name, "-t": args.template}
    options |= {"-o": args.output, "--for_model": args.for_model, "--folds": args.folds}
    options |= {"--layout": args.layout if args.layout != "auto" else None}
    options |= {"--split": args.split if args.split != "train" else None}
    words = [str(word) for pair in options.items() if pair[1] is not None for word in pair]
    return ["amae-nnunet-convert", *words, "--merge"]


def _dataset_steps(target: Target, summary: Summary) -> list[str]:
    """What comes next for a data set, by the splits that it has and those just written."""
    dataset = target.folder.name
    number = str(int(dataset_number(dataset)))
    if "unlabeled" in summary.written:
        words = ["amae-nnunet-pretrain", "DATASET", _CONFIGURATION, "--unlabeled", number]
        return [f"next: {shlex.join(words)}  # DATASET: the labelled cases, once planned"]
    steps = []
    if "train" in summary.written:
        words = ["nnUNetv2_plan_and_preprocess", "-d", number, "-c", _CONFIGURATION]
        steps.append(f"next: {shlex.join([*words, '--verify_dataset_integrity'])}")
    if "test" in summary.written:
        images = ["-i", str(target.images("test")), "-o", f"{dataset}_predicted"]
        model = _model_of(dataset)
        if model:
            said = "next" if not steps else "then train again, and"
            steps.append(f"{said}: {shlex.join(_predict(images, model))}")
        elif not summary.training:
            steps.append("next: convert the training cases, too (--split train)")
        else:
            words = ["amae-nnunet-predict", *images, "-d", number, "-c", _CONFIGURATION, "-tr"]
            steps.append(f"once it is trained: {shlex.join([*words, _TRAINER, '-f', '0'])}")
    return steps


def _predict_inputs(args: argparse.Namespace, layout: str) -> list[str]:
    """What comes next for inference inputs, which DICOM studies to draw on are as well."""
    images = ["-i", str(args.output), "-o", f"{args.output}_predicted"]
    if args.for_model:
        return [f"next: {shlex.join(_predict(images, args.for_model.resolve()))}"]
    words = ["amae-nnunet-predict", *images, "-d", "ID", "-c", _CONFIGURATION, "-tr", _TRAINER]
    steps = [
        f"next: {shlex.join([*words, '-f', '0'])}  # ID: the model's data set; or give --for_model"
    ]
    if layout == "dicom":
        steps.append(
            "to draw labels: save them as labels/CASE.nii.gz, then convert with --labels labels"
        )
    return steps


def _predict(images: list[str], model: Path) -> list[str]:
    """The command that predicts with a model: by its names if it lies where nnU-Net looks."""
    results = os.environ.get("nnUNet_results")
    found = re.fullmatch(r"(.+)__(.+)__(.+)", model.name)
    number = re.match(r"Dataset(\d+)_", model.parent.name)
    if results and found and number and model.parents[1] == Path(results).resolve():
        trainer, plans, configuration = found.groups()
        words = ["amae-nnunet-predict", *images, "-d", str(int(number[1])), "-c", configuration]
        words += ["-tr", trainer, "-p", plans]
    else:
        words = ["amae-nnunet-predict", *images, "-m", str(model)]
    for checkpoint in _CHECKPOINTS:
        folds = sorted(path.parent.name[5:] for path in model.glob(f"fold_*/{checkpoint}"))
        if folds:
            numbers = [fold for fold in folds if fold != "all"] or folds
            other = ["-chk", checkpoint] if checkpoint != _CHECKPOINTS[0] else []
            return [*words, "-f", *numbers, *other]
    return words


def _model_of(dataset: str) -> Path | None:
    """The model of a data set that was trained last."""
    results = os.environ.get("nnUNet_results")
    found = Path(results, dataset).glob("*__*__*/fold_*/checkpoint_final.pth") if results else ()
    last = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    return last.parents[1].resolve() if last else None
