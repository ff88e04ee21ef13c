"""``amae-nnunet-show``: what a pre-trained checkpoint is, and what it makes of cases."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from amae_nnunet.cli.command import device_kind, new_parser, run
from amae_nnunet.errors import ConfigError, exit_codes
from amae_nnunet.whole import write_json, write_whole

if TYPE_CHECKING:
    from amae_nnunet.networks.mae import AdaptiveMAE
    from amae_nnunet.pretraining.studies import Study

EPILOG = """\
One picture per case: each contrast as it is, as the model sees it, and as the model rebuilds it,
with the skills (1 - error / error of a baseline) in CASE.json. --check rebuilds every image under
other contrast names as well and lists cases where another name fits better: images that were
swapped.
Without -d, -c and -p it takes the data set, the configuration and the plans of the pre-training.
--card and --export need no data set: the first writes what the checkpoint is as a model card, the
second a folder as the Hugging Face hub has them (model, config.json, card), to be shared.

examples:
  amae-nnunet-show checkpoint_final.safetensors case_001 -o pictures --nifti
  amae-nnunet-show checkpoint_final.safetensors -d 501 -c 3d_fullres --check
  amae-nnunet-show checkpoint_final.safetensors --export my_model --license cc-by-4.0
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    description = "Show what a pre-trained checkpoint makes of preprocessed cases, or share it."
    parser = new_parser("amae-nnunet-show", description, EPILOG, exit_codes(3, 5))
    parser.add_argument(
        "checkpoint",
        help="file that amae-nnunet-pretrain wrote, a folder of --export, or ORG/NAME of the hub",
    )
    parser.add_argument(
        "cases",
        nargs="*",
        metavar="CASE",
        help="cases, or DATASET for all of a preprocessed data set (with --check: default -d)",
    )
    parser.add_argument(
        "-d", dest="dataset", help="number or name of the data set (default: the checkpoint's)"
    )
    parser.add_argument(
        "-c", dest="configuration", help="e.g. 3d_fullres (default: the checkpoint's)"
    )
    parser.add_argument(
        "-p",
        dest="plans",
        help="plans to use (default: the checkpoint's; nnUNetPlans for another data set)",
    )
    parser.add_argument(
        "-o", dest="output", type=Path, default=Path(), help="folder to write to (default: here)"
    )
    parser.add_argument("--nifti", action="store_true", help="write NIfTI files as well")
    parser.add_argument("--check", action="store_true", help="find images under a wrong name")
    parser.add_argument("--seed", type=int, default=0, help="of the masks (default: 0)")
    parser.add_argument(
        "-device", choices=("cuda", "cpu", "mps"), help="default: cuda if it is there"
    )
    sharing = parser.add_argument_group("sharing")
    sharing.add_argument(
        "--card", action="store_true", help="write a model card into the folder -o: CHECKPOINT.md"
    )
    sharing.add_argument("--export", metavar="FOLDER", type=Path, help="write a folder to share")
    sharing.add_argument(
        "--license", dest="licence", metavar="ID", default="", help="for the card, e.g. cc-by-4.0"
    )
    return run(parser, _body, argv)


def _body(args: argparse.Namespace) -> None:
    from amae_nnunet.sharing.folder import find_checkpoint

    if not re.fullmatch(r"[\w.-]*", args.licence):
        raise ConfigError("--license: give an identifier such as cc-by-4.0")
    if not 0 <= args.seed < 2**31:
        raise ConfigError(f"--seed {args.seed}: give a number from 0 to {2**31 - 1}")
    if args.nifti and args.check:
        raise ConfigError("--check writes no images: leave out --nifti")
    if args.card or args.export:
        if args.cases or args.check or args.nifti:
            raise ConfigError("--card and --export look at no case: leave the rest out")
        _share(args, find_checkpoint(args.checkpoint))
        return
    if args.licence:
        raise ConfigError("--license goes with --card or --export")
    if not args.cases and not args.check:
        raise ConfigError("name at least one case (or give --check, which takes all)")
    _show(args, find_checkpoint(args.checkpoint))


def _share(args: argparse.Namespace, path: Path) -> None:
    from amae_nnunet.networks.checkpoint import file_sha256, read_checkpoint
    from amae_nnunet.sharing.card import model_card
    from amae_nnunet.sharing.folder import export_folder

    if args.card:
        card = model_card(read_checkpoint(path), file_sha256(path), args.licence)
        args.output.mkdir(parents=True, exist_ok=True)
        target = args.output / f"{path.stem}.md"
        write_whole(target, card)
        print(f"wrote {target}")
    if args.export:
        print(f"wrote {export_folder(path, args.export, args.licence)}")
    if not args.licence:
        print("no licence is named: give --license, or fill it in where the card says so")


def _show(args: argparse.Namespace, path: Path) -> None:
    from amae_nnunet.networks.checkpoint import load_mae, read_checkpoint
    from amae_nnunet.plans.preprocessed import PreprocessedDataset
    from amae_nnunet.pretraining.check import doubtful
    from amae_nnunet.pretraining.show import check_spacing, find_studies, show_study

    checkpoint = read_checkpoint(path)
    dataset = PreprocessedDataset.open(*_place(args, checkpoint.plan))
    check_spacing(dataset, checkpoint, path)
    model = load_mae(checkpoint).eval()
    model.to(device_kind(args.device))
    studies = find_studies(dataset, args.cases, model.config.contrasts)
    twice = [case for case, count in Counter(s.case for s in studies).items() if count > 1]
    if twice and not args.check:
        raise ConfigError(
            f"several of the data sets have a case {twice[0]}, and files are called by cases: show "
            "one data set after the other, each into a folder of its own (-o)"
        )
    args.output.mkdir(parents=True, exist_ok=True)
    mask_ratio = checkpoint.mask_ratio
    if args.check:
        _check(model, studies, args.output / "check.json", mask_ratio, args.seed)
        if doubt := doubtful(checkpoint.facts):
            print(doubt)
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


def _place(args: argparse.Namespace, plan: dict[str, str]) -> tuple[str, str, str]:
    """Data set, configuration and plans: the user's, and else those of the checkpoint."""
    from amae_nnunet.plans.preprocessed import dataset_name

    dataset = args.dataset or plan.get("dataset")
    configuration = args.configuration or plan.get("configuration")
    if not (dataset and configuration):
        raise ConfigError("the checkpoint does not say of which cases: give -d and -c")
    name = dataset_name(dataset)
    plans = plan.get("plans") if name == plan.get("dataset") else None
    return name, configuration, args.plans or plans or "nnUNetPlans"


def _check(
    model: AdaptiveMAE, studies: list[Study], path: Path, mask_ratio: float, seed: int
) -> None:
    from tqdm import tqdm

    from amae_nnunet.pretraining.check import MARGIN, check_study

    found = []
    with tqdm(studies, "check", unit="case") as bar:
        for study in bar:
            finding = check_study(model, study, mask_ratio, seed)
            if finding is not None:
                found.append(finding)
                bar.write(str(finding))
    found.sort(key=lambda finding: -finding.gain)
    content = {"checked": len(studies), "found": [finding.to_json() for finding in found]}
    write_json(path, content)
    print(
        f"{len(found)} of {len(studies)} cases have images that fit another name better, by "
        f"{MARGIN:.0%} or more and by more than chance ({path}): look at them before you rename"
    )
