"""``amae-nnunet-convert``: raw studies into a data set of nnU-Net, or into inference inputs."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from amae_nnunet.cli.closing import closing_lines
from amae_nnunet.cli.command import new_parser, run
from amae_nnunet.contrasts import SPLITS
from amae_nnunet.errors import ConfigError, exit_codes

if TYPE_CHECKING:
    from amae_nnunet.convert.dataset import Summary
    from amae_nnunet.convert.inputs import Input, Request
    from amae_nnunet.convert.target import Target
    from amae_nnunet.convert.template import Template

_EPILOG = """\
RAW is a tree of DICOM files, a BIDS data set, a folder with one folder per case, a table of cases
(.csv, .tsv), or a public data set's own layout. All contrasts of a case are brought to one grid,
an absent one is written as an image of zeros, contrasts.json records which are real, and
report.html shows every case and every doubt. Run again to add cases, or the next split: what is
done is skipped.

examples:
  amae-nnunet-convert -i raw -t Infarct --dry_run         look first: a table, and series.tsv
  amae-nnunet-convert -i raw -t Infarct -d 501 --series series.tsv --labels labels     as edited
  amae-nnunet-convert -i raw -t LGG -d 501                or all at once (DICOM: with --labels)
  amae-nnunet-convert -i raw_test -t LGG -d 501 --split test
  amae-nnunet-convert -i new_patients --for_model MODEL_FOLDER -o inputs
  amae-nnunet-convert -i inputs --native predictions -o on_the_scanners_grid
"""
_FAILED = 4
_B_VALUE = 1000.0  # s/mm2
_DICOM_ONLY = ("rules", "b_value", "labels")
_LAYOUTS = (
    "auto", "dicom", "bids", "folders", "table", "nnunet", "brats21", "brats23", "isles22", "soop",
    "ucsf-pdgm",
)  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    description = "Convert raw MR studies into nnUNet_raw, whatever contrasts each has."
    parser = new_parser("amae-nnunet-convert", description, _EPILOG, exit_codes(3, _FAILED))
    _add_input(parser)
    _add_output(parser)
    _add_running(parser)
    return parser


def _add_input(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("input").add_argument
    add("-i", dest="raw", metavar="RAW", type=Path, help="the raw studies")
    add(
        "-t",
        dest="template",
        metavar="TEMPLATE",
        help="template: a shipped one (LGG, Infarct, ...) or a JSON file (default: that of NAME)",
    )
    add("--layout", choices=_LAYOUTS, default="auto", help="what RAW is (default: found out)")
    add(
        "--series",
        metavar="TSV",
        type=Path,
        help="convert exactly what this file of a --dry_run says, edited or not; "
        "with --dry_run: write it there (default: series.tsv)",
    )
    add("--rules", metavar="JSON", type=Path, help="your own contrast rules, tried first (DICOM)")
    add(
        "--b_value",
        metavar="B",
        type=float,
        help="wanted b-value of TRACE, s/mm2 (DICOM; default: 1000)",
    )
    add("--labels", metavar="FOLDER", type=Path, help="labels, CASE.nii.gz (DICOM)")
    add(
        "--ids",
        choices=("keep", "hash"),
        default="keep",
        help="names of cases: of their folders, or keyed hashes (DICOM: always hashes)",
    )
    add("--key", metavar="FILE", type=Path, help="secret key of the hashes (made for new data)")
    add(
        "--register", choices=("rigid",), help="move contrasts onto the case's grid by registration"
    )
    add(
        "--strict",
        action="store_true",
        help="fail a case rather than leave out a damaged contrast or choose between equal series "
        "(docs/bad-inputs.md lists what)",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add("-d", dest="dataset", metavar="ID", type=int, help="number of the data set, 1 to 999")
    add("-n", dest="name", metavar="NAME", help="name of the data set (default: the template's)")
    add("--split", choices=SPLITS, default="train", help="what the cases are (default: train)")
    add(
        "-o",
        dest="output",
        metavar="FOLDER",
        type=Path,
        help="write inputs for nnUNetv2_predict into FOLDER instead; labels are not used",
    )
    add(
        "--for_model",
        metavar="FOLDER",
        type=Path,
        help="with -o: take the contrasts and their order from this trained model",
    )
    add(
        "--native",
        metavar="PREDICTIONS",
        type=Path,
        help="write predictions, made from the inputs RAW, on the scanner's grid into -o FOLDER",
    )
    add("--folds", metavar="N", type=int, help="write N folds by subject (default: 5 if needed)")
    add("--no_pictures", action="store_true", help="no pictures of cases in the report")
    add(
        "--dry_run",
        action="store_true",
        help="only write the table of what would be converted, to edit and give to --series; "
        "exit code 4 says that some cases would fail",
    )


def _add_running(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("running").add_argument
    add("-np", dest="processes", metavar="N", type=int, default=2, help="processes (default: 2)")
    add("--timeout", metavar="S", type=float, default=600, help="seconds per case (default: 600)")
    add("-num_parts", metavar="N", type=int, help="convert one of N parts of the cases")
    add("-part_id", metavar="K", type=int, help="which part, 0 to N-1")
    add("--merge", action="store_true", help="put the parts together (converts nothing)")
    add("--dask", metavar="ADDRESS", help="convert on this Dask cluster, tcp://host:8786 say")


def _body(args: argparse.Namespace) -> int:
    from amae_nnunet.convert.inputs import dry_run, find_cases, find_template
    from amae_nnunet.convert.output import recorded_keys

    _check(args)
    if args.native:
        return _write_native(args)
    if args.merge:
        return _merge(args)
    request = _request(args).known()
    _check_dicom_only(args, request.layout)
    if args.dry_run:
        sheet = args.series or Path("series.tsv")
        found = dry_run(request, sheet)
        print(found.table)
        print(f"wrote {sheet}: edit it, then give it back with --series {sheet}")
        return _FAILED if any(raw.code for raw in found.cases) else 0
    target = _target(args, find_template(request))
    make_key = not recorded_keys(target.folder)
    return _convert(args, target, find_cases(replace(request, make_key=make_key)), request.layout)


def _check(args: argparse.Namespace) -> None:
    """Refuse combinations that mean nothing."""
    if args.raw is None and not args.merge:
        raise ConfigError("what is to be converted? give -i RAW")
    if args.processes < 1:
        raise ConfigError(f"-np {args.processes}: give 1 or more")
    if args.timeout < 0:
        raise ConfigError(f"--timeout {args.timeout:g}: give seconds, or 0 for no limit")
    if args.folds is not None and args.folds < 2:
        raise ConfigError(f"--folds {args.folds}: give 2 or more")
    if args.b_value is not None and not 0 < args.b_value < math.inf:
        raise ConfigError(f"--b_value {args.b_value:g}: give s/mm2, more than 0")
    if args.series and not args.dry_run and not args.series.is_file():
        raise ConfigError(f"--series {args.series} is not there: write it with --dry_run")
    if (args.num_parts is None) != (args.part_id is None):
        raise ConfigError("-num_parts and -part_id belong together: give both")
    if args.native and not args.output:
        raise ConfigError("where to? --native needs -o FOLDER")
    if args.for_model and not (args.output or args.dry_run):
        raise ConfigError("--for_model writes inputs for prediction: give -o FOLDER")
    if args.output and (args.dataset is not None or args.name):
        raise ConfigError("-o writes inference inputs, -d and -n a data set: give one of them")
    if not (args.output or args.dry_run) and args.dataset is None:
        raise ConfigError("where to? give -d NUMBER for a data set, or -o FOLDER")


def _check_dicom_only(args: argparse.Namespace, layout: str) -> None:
    """Refuse options that nothing but DICOM obeys."""
    given = [name for name in _DICOM_ONLY if getattr(args, name) is not None]
    if given and layout != "dicom":
        raise ConfigError(
            f"--{given[0]} is for DICOM, and {args.raw} is read as {layout}: leave it out, or give "
            "--layout dicom"
        )
    if args.labels and not args.labels.is_dir():
        raise ConfigError(f"--labels {args.labels} is not a folder: give the one with CASE.nii.gz")


def _request(args: argparse.Namespace) -> Request:
    from amae_nnunet.convert.inputs import Request

    inference = bool(args.output)
    return Request(
        root=args.raw.absolute(),
        layout=args.layout,
        template=args.template or _template_of_name(args),
        model=args.for_model,
        split="test" if inference else args.split,
        sheet=None if args.dry_run else args.series,
        rules=args.rules,
        b_value=_B_VALUE if args.b_value is None else args.b_value,
        labels=args.labels.absolute() if args.labels else None,
        hash_ids=args.ids == "hash",
        key=args.key,
        strict=args.strict,
        with_label=not inference,
        processes=args.processes,
    )


def _template_of_name(args: argparse.Namespace) -> str:
    """The shipped template that is called like the data set, empty if there is none."""
    from amae_nnunet.convert.template import shipped_templates

    return args.name if args.name in shipped_templates() else ""


def _target(args: argparse.Namespace, template: Template) -> Target:
    from amae_nnunet.convert.target import Target, dataset_target

    if args.output:
        target = Target(args.output.absolute())
    else:
        name = args.name or template.name
        target = dataset_target(args.dataset, name, args.split, args.folds)
    raw = args.raw.resolve() if args.raw and not args.raw.is_file() else None
    if raw and target.folder.resolve().is_relative_to(raw):
        raise ConfigError(f"{target.folder} lies in the input folder {args.raw}: write elsewhere")
    return target


def _convert(args: argparse.Namespace, target: Target, found: Input, layout: str) -> int:
    from amae_nnunet.convert.case import Options
    from amae_nnunet.convert.dataset import convert
    from amae_nnunet.convert.parts import Part

    summary = convert(
        found.cases,
        found.template,
        target,
        args.processes,
        Options(bool(args.register), args.strict, not args.no_pictures),
        timeout=args.timeout,
        part=Part(args.part_id, args.num_parts) if args.num_parts is not None else None,
        dask=args.dask or "",
    )
    return _report(args, target, summary, layout)


def _merge(args: argparse.Namespace) -> int:
    from amae_nnunet.convert.dataset import merge
    from amae_nnunet.convert.inputs import find_template
    from amae_nnunet.convert.template import load_template

    if args.raw:  # which may have a template of its own
        template = find_template(_request(args).known())
    elif args.template or args.name:
        template = load_template(args.template or args.name)
    else:
        raise ConfigError("which template? give -t or -n as for the parts")
    target = _target(args, template)
    return _report(args, target, merge(target, template))


def _report(args: argparse.Namespace, target: Target, summary: Summary, layout: str = "") -> int:
    """Print how it ended and what comes next."""
    print("\n".join(closing_lines(args, target, summary, layout)))
    return _FAILED if summary.failed else 0


def _write_native(args: argparse.Namespace) -> int:
    from amae_nnunet.convert.native import restore

    done, failures = restore(args.native, args.raw, args.output)
    for failure in failures:
        print(failure, file=sys.stderr)
    print(f"{args.output.name}: {done} done, {len(failures)} failed")
    return _FAILED if failures else 0


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    return run(_parser(), _body, argv)
