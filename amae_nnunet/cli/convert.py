"""``amae-nnunet-convert``: raw studies into a data set of nnU-Net, or into inference inputs."""

from __future__ import annotations

import argparse
from pathlib import Path

from amae_nnunet.cli.command import new_parser, run
from amae_nnunet.contrasts import SPLITS
from amae_nnunet.errors import ConfigError

_EPILOG = """\
RAW holds one folder a case; a template says which file in it is which contrast. All contrasts of
a case are brought to one grid, an absent one is written as an image of zeros, and contrasts.json
records which are real. Run again to add cases, or the next split: what is done is skipped.

examples:
  amae-nnunet-convert -i raw -t LGG --dry_run
  amae-nnunet-convert -i raw -d 501 -n LGG
  amae-nnunet-convert -i raw_test -d 501 -n LGG --split test
  amae-nnunet-convert -i new_patients -t LGG -o inputs
"""
_FAILED = 4


def _parser() -> argparse.ArgumentParser:
    description = "Convert raw MR studies (NIfTI) into nnUNet_raw, whatever contrasts each has."
    parser = new_parser("amae-nnunet-convert", description, _EPILOG)
    add = parser.add_argument
    add("-i", dest="raw", metavar="RAW", type=Path, required=True, help="one folder a case")
    add("-d", dest="dataset", metavar="ID", type=int, help="number of the data set, 1 to 999")
    add("-n", dest="name", metavar="NAME", help="name of the data set (default: the template's)")
    add(
        "-t",
        dest="template",
        metavar="TEMPLATE",
        help="template: LGG, Infarct, or the path of a JSON file (default: that of NAME)",
    )
    add("--split", choices=SPLITS, default="train", help="what the cases are (default: train)")
    add(
        "-o",
        dest="output",
        metavar="FOLDER",
        type=Path,
        help="write inputs for nnUNetv2_predict into FOLDER instead; labels are not used",
    )
    add("-np", dest="processes", metavar="N", type=int, default=2, help="processes (default: 2)")
    add("--dry_run", action="store_true", help="print what would be converted, write nothing")
    return parser


def _body(args: argparse.Namespace) -> int:
    from amae_nnunet.convert.dataset import convert, find_cases, table
    from amae_nnunet.convert.target import Target, dataset_target
    from amae_nnunet.convert.template import load_template

    if not (args.template or args.name):
        raise ConfigError("which template? give -t LGG, -t Infarct or -t FILE.json")
    if args.output and (args.dataset is not None or args.name):
        raise ConfigError("-o writes inference inputs, -d and -n a data set: give one of them")
    if args.processes < 1:
        raise ConfigError(f"-np {args.processes}: give 1 or more")
    template = load_template(args.template or args.name)
    split = "test" if args.output else args.split
    if args.dry_run:
        cases = find_cases(args.raw, template, split)
        print(table(cases, template))
        return _FAILED if any(raw.problem for raw in cases) else 0
    if args.output:
        target = Target(args.output)
    elif args.dataset is None:
        raise ConfigError("where to? give -d NUMBER for a data set, or -o FOLDER")
    else:
        target = dataset_target(args.dataset, args.name or template.name, split)
    summary = convert(args.raw, template, target, args.processes)
    print(
        f"{target.folder.name}: {summary.done} done, {summary.skipped} skipped, "
        f"{summary.failed} failed"
    )
    for name, count in summary.present.items():
        print(f"  {name:<8}{count:>6} cases")
    if args.split != "unlabeled":  # a data set of its own, which no stage of this version reads yet
        print(f"next: {_next(args)}")
    return _FAILED if summary.failed else 0


def _next(args: argparse.Namespace) -> str:
    if args.output:
        model = "-d DATASET -c 3d_fullres -f 0 -tr AMAETrainer"
        return f"nnUNetv2_predict -i {args.output} -o PREDICTIONS {model}"
    return (
        f"nnUNetv2_plan_and_preprocess -d {args.dataset} -c 3d_fullres --verify_dataset_integrity"
    )


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    return run(_parser(), _body, argv)
