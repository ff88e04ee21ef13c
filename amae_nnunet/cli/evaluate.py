"""``amae-nnunet-evaluate``: the paper's tables, and what each contrast is worth."""

from __future__ import annotations

import argparse
from pathlib import Path

from amae_nnunet.cli.command import new_parser, run
from amae_nnunet.errors import ConfigError, InputError, exit_codes

_EPILOG = """\
A model is a folder that nnUNetv2_train made, whatever the trainer, or a folder of predictions. From
model folders it predicts each case as it is and, with --drop and --subsets, from less than it has;
what is predicted already is kept in OUT/predictions. Without -f a model takes its folds 0, 1, ...
Models that are given the same name are trainings of one method, and methods are compared.

It writes report.html, results.json (the same numbers), cases.csv (rows: case, model, subset and
label) and scores.jsonl (what is scored, for the next run).

examples:
  amae-nnunet-evaluate -d 501 -c 3d_fullres -tr AMAETrainer nnUNetTrainer -o evaluation --drop T2
  amae-nnunet-evaluate -d 501 -c 3d_fullres -o crossval --crossval --subsets all
  amae-nnunet-evaluate -m ours=MODEL_FOLDER -i inputs -gt labels -o evaluation --subsets all
  amae-nnunet-evaluate -m ours=ONE ours=TWO stock=THREE stock=FOUR -i inputs -gt labels -o out
  amae-nnunet-evaluate -m one=PREDICTIONS other=PREDICTIONS -gt labels -o evaluation
"""
_FAILED = 4


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    description = "Score and compare models, as each case is and with contrasts withheld."
    parser = new_parser("amae-nnunet-evaluate", description, _EPILOG, exit_codes(3, _FAILED, 5))
    _add_what(parser)
    _add_withheld(parser)
    _add_running(parser)
    return run(parser, _evaluate, argv)


def _add_what(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what").add_argument
    add("-m", dest="models", metavar="[NAME=]FOLDER", nargs="+", default=[],
        help="model folders or folders of predictions")  # fmt: skip
    add("-d", dest="dataset", help="number or name of a data set, instead of -m, -i and -gt")
    add("-tr", dest="trainers", nargs="+", default=["AMAETrainer"],
        help="with -d: trainers to compare (default: AMAETrainer)")  # fmt: skip
    add("-p", dest="plans", default="nnUNetPlans", help="with -d: plans (default: %(default)s)")
    add("-c", dest="configuration", help="with -d: configuration of the plans, e.g. 3d_fullres")
    add("-i", dest="images", metavar="FOLDER", type=Path,
        help="images CASE_0000.nii.gz, ... (with -d: its imagesTs)")  # fmt: skip
    add("-gt", dest="labels", metavar="FOLDER", type=Path,
        help="labels CASE.nii.gz (with -d: its labelsTs)")  # fmt: skip
    add("-o", dest="output", metavar="FOLDER", type=Path, required=True, help="for the results")
    add("--crossval", action="store_true",
        help="with -d: its training cases, each by the fold that validated on it")  # fmt: skip
    add("-djfile", metavar="FILE", type=Path, help="dataset.json, where none lies beside the input")
    add("-tolerance", type=float, default=2.0,
        help="of the surface Dice, in mm (default: %(default)s)")  # fmt: skip


def _add_withheld(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is withheld").add_argument
    add("--drop", metavar="CONTRAST", nargs="+", default=[],
        help="contrasts to withhold where there are any, each alone (A+B: together)")  # fmt: skip
    add("--subsets", metavar="SUBSET", nargs="+", default=[],
        help="all: every subset of what a case has, for the value of each contrast; required: "
             "those that keep what the data set requires; A+B C ...: these")  # fmt: skip


def _add_running(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how").add_argument
    add("-f", dest="folds", nargs="+", default=[],
        help="folds, or all for a model of all cases (default: 0, 1, ...)")  # fmt: skip
    add("-chk", dest="checkpoint", default="checkpoint_final.pth",
        help="file in the fold's folder (default: %(default)s)")  # fmt: skip
    add("-step_size", type=float, default=0.5, help="of the sliding window (default: %(default)s)")
    add("--disable_tta", action="store_true", help="no mirrored copies")
    add("-np", dest="processes", type=int, default=3,
        help="processes, 0 for none but this one (default: %(default)s)")  # fmt: skip
    add("-device", choices=("cuda", "cpu", "mps"), help="default: cuda if it is there")
    add("--disable_progress_bar", action="store_true", help="no progress bar")


def _check(args: argparse.Namespace) -> None:
    if bool(args.models) == bool(args.dataset):
        raise ConfigError("which models? give -m [NAME=]FOLDER ..., or -d and -c")
    if args.dataset and not args.configuration:
        raise ConfigError("-d needs -c: the configuration of the plans, 3d_fullres say")
    if args.crossval and (args.models or args.images or args.labels):
        raise ConfigError("--crossval takes the training cases of a data set: give -d and no -m, "
                          "-i or -gt")  # fmt: skip
    if args.models and args.labels is None:
        raise ConfigError("give the folder of the labels with -gt")
    if not args.tolerance >= 0:
        raise ConfigError(f"-tolerance {args.tolerance:g}: give a length in mm, at least 0")
    if not 0 < args.step_size <= 1:
        raise ConfigError(f"-step_size {args.step_size:g}: give a number above 0, at most 1")
    if args.processes < 0:
        raise ConfigError("-np: give 0 (in this process) or more")


def _evaluate(args: argparse.Namespace) -> int:
    _check(args)
    from amae_nnunet.cli.evaluation import Evaluation, find_trainings
    from amae_nnunet.evaluation.report import write_report
    from amae_nnunet.evaluation.scores import Failure, Scores, write_csv
    from amae_nnunet.evaluation.summary import Summary
    from amae_nnunet.evaluation.text import tables
    from amae_nnunet.evaluation.worst import draw_worst

    evaluation = Evaluation(args)
    predictions, failures = evaluation.predict()
    rows, unread = evaluation.score(predictions)
    refused = [Failure(case, "", (), why) for case, why in evaluation.failed.items()]
    failures = [*refused, *failures, *unread]
    if not rows:
        raise InputError(f"nothing could be scored: {failures[0].case}: {failures[0].reason}")
    models = [model.name for model in evaluation.models]
    trained = [model.name for model in evaluation.trained]
    scores = Scores(rows, models, trained, list(evaluation.labels.values))
    args.output.mkdir(parents=True, exist_ok=True)
    write_csv(args.output / "cases.csv", scores)
    summary = Summary.of(
        scores,
        evaluation.wanted,
        evaluation.contrasts,
        find_trainings(evaluation.models),
        title=args.output.resolve().name,
        tolerance=args.tolerance,
        failures=failures,
    )
    worst = draw_worst(scores, evaluation.cases, predictions, evaluation.labels)
    page = write_report(args.output, summary, worst)
    print(f"\n{tables(summary)}\n\nreport: {page}")
    if failures:
        first = failures[0]
        print(f"{len(failures)} failed, listed there; first: case {first.case}: {first.reason}")
    return _FAILED if failures else 0
