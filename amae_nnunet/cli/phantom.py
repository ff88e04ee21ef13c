"""``amae-nnunet-phantom``: synthetic studies for benchmarks, tests and trials.

Writes one folder per case with NIfTI files, as amae-nnunet-convert reads them with the template
Infarct: brains with acute infarcts and with what can be mistaken for them, on up to seven contrasts
of which some are missing. The same seed gives the same studies. Run again to go on where it
stopped, or with more cases. What they are made of: docs/phantom.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from amae_nnunet.cli.command import new_parser, run
from amae_nnunet.contrasts import PAPER_CONTRASTS, SPLITS
from amae_nnunet.errors import ConfigError, exit_codes

_EPILOG = """example:
  amae-nnunet-phantom -o studies/more --num_cases 1000 --split unlabeled
  amae-nnunet-phantom -o studies/train --num_cases 50
  amae-nnunet-phantom -o studies/test --num_cases 100 --split test
  amae-nnunet-convert -i studies/train -t Infarct -d 501 -n Phantom
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    parser = new_parser(
        "amae-nnunet-phantom", (__doc__ or "").partition("\n\n")[2], _EPILOG, exit_codes()
    )
    parser.add_argument("-o", dest="folder", type=Path, required=True, help="where to write")
    parser.add_argument("--num_cases", type=int, required=True, metavar="N", help="how many cases")
    parser.add_argument("--seed", type=int, default=0, help="of all randomness (default: 0)")
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="train",
        help="cases of different splits differ; unlabeled ones have no label and acute infarcts in "
        "half of them (default: train)",
    )
    parser.add_argument(
        "--size",
        choices=("tiny", "small", "medium", "large"),
        default="medium",
        help="16x32x32, 24x64x64, 26x128x128 or 28x192x192 voxels (default: medium)",
    )
    parser.add_argument(
        "--contrasts",
        nargs="+",
        default=list(PAPER_CONTRASTS),
        metavar="NAME",
        help=f"some of {' '.join(PAPER_CONTRASTS)} (default: all)",
    )
    parser.add_argument(
        "--availability",
        nargs="+",
        default=[],
        metavar="NAME=P",
        help="probability that a case has a contrast, where it is not to be the default, as T2=1",
    )
    parser.add_argument(
        "--label",
        default="infarct",
        metavar="TISSUE",
        help="what is labelled: infarct, deep_grey, haemorrhage, ... (default: %(default)s)",
    )
    parser.add_argument("--sites", nargs="+", metavar="SITE", help="some of A B C D E")
    parser.add_argument(
        "--motion", type=float, metavar="P", help="probability of motion in a scan (default: 0.15)"
    )
    parser.add_argument(
        "-np",
        dest="num_processes",
        type=int,
        default=os.cpu_count() or 1,
        help="cases made at once (default: all cores)",
    )
    return run(parser, _write, argv)


def _write(args: argparse.Namespace) -> None:
    from amae_nnunet.phantom.dataset import AVAILABILITY, SIZES, SPLITS, write_studies
    from amae_nnunet.phantom.scanner import MOTION, SITES

    split = SPLITS[args.split]
    if args.num_cases > split.most:
        raise ConfigError(f"--num_cases {args.num_cases}: --split {args.split} has {split.most}")
    shape, spacing = SIZES[args.size]
    write_studies(
        args.folder,
        args.num_cases,
        args.seed,
        args.contrasts,
        shape,
        spacing,
        {**AVAILABILITY, **dict(map(_probability, args.availability))},
        split.first_case,
        "phantom",
        sites=args.sites or tuple(SITES),
        motion=MOTION if args.motion is None else args.motion,
        infarct=split.infarct,
        labels=split.labels,
        label=args.label,
        num_processes=args.num_processes,
        resume=True,
    )
    option = "" if args.split == "train" else f" --split {args.split}"
    template, folder = "Infarct", shlex.quote(str(args.folder))
    if args.label != "infarct" or not {"ADC", "TRACE"} <= set(args.contrasts):
        template = "Phantom.json"
        print(
            f"name the label {args.label} in a copy of the template Infarct, {template}, with only "
            "what is there as required, then"
        )
    print(f"next: amae-nnunet-convert -i {folder} -t {template} -d 501 -n Phantom{option}")


def _probability(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ConfigError(f"--availability {text}: write NAME=P, as T2=0.5") from None
