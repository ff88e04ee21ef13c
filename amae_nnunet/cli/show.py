"""``amae-nnunet-show``: what a pre-trained checkpoint makes of preprocessed cases."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from amae_nnunet.cli.command import new_parser, run
from amae_nnunet.errors import ConfigError

if TYPE_CHECKING:
    from amae_nnunet.networks.mae import AdaptiveMAE
    from amae_nnunet.pretraining.studies import Study

EPILOG = """\
A picture a case: each contrast as it is, as the model sees it, and as the model rebuilds it, with
the skills (1 - error / error of a baseline) in CASE.json. --check rebuilds every image under other
contrast names as well and lists cases where another name fits better: images that were swapped.

examples:
  amae-nnunet-show checkpoint_final.safetensors case_001 -d 501 -c 3d_fullres -o pictures --nifti
  amae-nnunet-show checkpoint_final.safetensors -d 501 -c 3d_fullres --check
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    description = "Show what a pre-trained checkpoint makes of preprocessed cases."
    parser = new_parser("amae-nnunet-show", description, EPILOG)
    parser.add_argument("checkpoint", type=Path, help="file that amae-nnunet-pretrain wrote")
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help="cases (with --check: default all)"
    )
    parser.add_argument("-d", dest="dataset", required=True, help="number or name of the data set")
    parser.add_argument("-c", dest="configuration", required=True, help="e.g. 3d_fullres")
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", help="plans to use")
    parser.add_argument(
        "-o", dest="output", type=Path, default=Path(), help="folder to write to (default: here)"
    )
    parser.add_argument("--nifti", action="store_true", help="write NIfTI files as well")
    parser.add_argument("--check", action="store_true", help="find images under a wrong name")
    parser.add_argument("--seed", type=int, default=0, help="of the masks (default: 0)")
    parser.add_argument(
        "-device", choices=("cuda", "cpu", "mps"), help="default: cuda if it is there"
    )
    return run(parser, _show, argv)


def _show(args: argparse.Namespace) -> None:
    import torch

    from amae_nnunet.networks.checkpoint import load_mae, read_checkpoint
    from amae_nnunet.plans.preprocessed import PreprocessedDataset
    from amae_nnunet.pretraining.show import check_spacing, find_studies, show_study

    if not args.cases and not args.check:
        raise ConfigError("name at least one case (or give --check, which takes all)")
    checkpoint = read_checkpoint(args.checkpoint)
    dataset = PreprocessedDataset.open(args.dataset, args.configuration, args.plans)
    check_spacing(dataset, checkpoint, args.checkpoint)
    model = load_mae(checkpoint).eval()
    model.to(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    studies = find_studies(dataset, args.cases, model.config.contrasts)
    args.output.mkdir(parents=True, exist_ok=True)
    mask_ratio = checkpoint.mask_ratio
    if args.check:
        _check(model, studies, args.output / "check.json", mask_ratio, args.seed)
        return
    for study in studies:
        skills = show_study(
            model, study, dataset, args.output, mask_ratio, args.seed, nifti=args.nifti
        )
        print(f"wrote {args.output / study.case}.png")
        for row in study.contrasts:
            name = model.config.contrasts[row]
            mean, linear = (skills[key][name] for key in ("skill_mean", "skill_linear"))
            beside = "" if linear is None else f", against the other contrasts {linear:+.2f}"
            print(f"  {name}: skill against its mean {mean:+.2f}{beside}")


def _check(
    model: AdaptiveMAE, studies: list[Study], path: Path, mask_ratio: float, seed: int
) -> None:
    from tqdm import tqdm

    from amae_nnunet.pretraining.check import DRAWS, MARGIN, check_study

    found = []
    with tqdm(studies, "check", unit="case") as bar:
        for study in bar:
            finding = check_study(model, study, mask_ratio, seed)
            if finding is not None:
                found.append(finding)
                bar.write(str(finding))
    content = {"checked": len(studies), "found": [finding.to_json() for finding in found]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(
        f"{len(found)} of {len(studies)} cases have images that fit another name better, in all of "
        f"{DRAWS} draws and by {MARGIN:.0%} or more ({path}): look at them before you rename"
    )
