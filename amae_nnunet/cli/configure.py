"""``amae-nnunet-configure``: set model, training and nnU-Net values in a plans file of our own."""

from __future__ import annotations

import argparse
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from amae_nnunet.cli.command import new_parser, run
from amae_nnunet.contrasts import ContrastMatch
from amae_nnunet.errors import ConfigError, exit_codes
from amae_nnunet.folders import dataset_number, nnunet_folder
from amae_nnunet.plans.block import PLANS_NAME

if TYPE_CHECKING:
    from amae_nnunet.plans.configure import PretrainedModel

EPILOG = """\
keys: nnU-Net's patch_size, batch_size, spacing; any of the model's (embed_dim, depth,
  num_strides, encoder=small|base|large, ...), of the fine-tuning's (num_epochs, lr, loss, ...)
  and of the pre-training's (pretraining.num_epochs, pretraining.lr, mask_ratio, ...).
  docs/configuration.md lists them all.

examples:
  amae-nnunet-configure 501 3d_fullres encoder=small num_epochs=100
  amae-nnunet-configure 501 3d_fullres --name 3d_fullres_tiny embed_dim=48 depth=2
  amae-nnunet-configure 501 3d_fullres_tiny depth=3         change it, keep the rest
  amae-nnunet-configure 501 3d_fullres --checkpoint checkpoint_final.safetensors
  amae-nnunet-configure 501 3d_fullres --checkpoint ORG/NAME     from the Hugging Face hub
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    description = (
        "Set values of the model, the training and nnU-Net itself in a plans file of our own."
    )
    parser = new_parser("amae-nnunet-configure", description, EPILOG, exit_codes(3, 5))
    parser.add_argument("dataset", help="number or name of the data set")
    parser.add_argument("configuration", help="configuration to start from, e.g. 3d_fullres")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="values to set")
    parser.add_argument("--name", help="make a new configuration of this name, which inherits")
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="fine-tune from this pre-trained file, a folder that amae-nnunet-show --export wrote, "
        "or a model of the Hugging Face hub (ORG/NAME)",
    )
    parser.add_argument(
        "-p",
        dest="plans",
        help="plans to start from (default: those of -o if they are there, else nnUNetPlans)",
    )
    parser.add_argument(
        "-o",
        dest="output",
        help=f"plans to write or change (default {PLANS_NAME})",
        default=PLANS_NAME,
    )
    return run(parser, _configure, argv)


def _configure(args: argparse.Namespace) -> None:
    from amae_nnunet.lock import LOCK, locked
    from amae_nnunet.plans.configure import configure, parse_settings
    from amae_nnunet.plans.preprocessed import PreprocessedDataset, dataset_name

    settings = parse_settings(args.settings)
    name = dataset_name(args.dataset)
    folder = nnunet_folder("nnUNet_preprocessed") / name
    pretrained = _pretrained(args.checkpoint) if args.checkpoint else None
    # Of two commands at the same time, one changes what the other has written.
    with locked(folder / LOCK, wait=True) if folder.is_dir() else nullcontext():
        source = _source(args, (folder / f"{args.output}.json").exists())
        dataset = PreprocessedDataset.open(name, args.configuration, source)
        path = configure(dataset, settings, args.name, args.output, pretrained)
    number, configuration = dataset_number(name), args.name or args.configuration
    print(f"wrote {path}")
    written = PreprocessedDataset.open(name, configuration, args.output)
    model = written.block.model_config(written.configuration)
    token = "x".join(map(str, model.token_size))
    print(
        f"{model.num_tokens} tokens of {token} voxels a contrast, {model.num_contrasts} contrasts"
    )
    if pretrained:
        match = ContrastMatch.of(model.contrasts, pretrained.config.contrasts)
        print(f"contrasts: {match}")
        if model.token_size != pretrained.config.token_size:
            theirs = "x".join(map(str, pretrained.config.token_size))
            print(f"the checkpoint's tokens have {theirs} voxels: its kernel will be resampled")
    if "spacing" in settings["nnunet"]:
        print(f"next: nnUNetv2_preprocess -d {number} -plans_name {args.output} -c {configuration}")
    elif pretrained:
        print(f"next: nnUNetv2_train {number} {configuration} 0 -tr AMAETrainer -p {args.output}")
    else:
        print(f"next: amae-nnunet-pretrain {number} {configuration} -p {args.output}")


def _source(args: argparse.Namespace, exists: bool) -> str:
    """The plans to start from; ``exists``: there are those of ``-o``, which are changed then."""
    if not exists:
        return args.plans or "nnUNetPlans"
    if args.plans not in (None, args.output):
        raise ConfigError(
            f"{args.output}.json exists and is what would be changed, not {args.plans}: leave out "
            "-p, or start another file with -o NAME"
        )
    return str(args.output)


def _pretrained(name: str) -> PretrainedModel:
    from amae_nnunet.networks.checkpoint import file_sha256, read_checkpoint
    from amae_nnunet.plans.configure import PretrainedModel
    from amae_nnunet.sharing.folder import find_checkpoint

    path = find_checkpoint(name)
    config = read_checkpoint(path).config
    place = path.parent.resolve() / path.name  # the hub's files are links to nameless ones
    results = os.environ.get("nnUNet_results")
    if results and place.is_relative_to(Path(results).resolve()):
        place = place.relative_to(Path(results).resolve())
    return PretrainedModel(str(place), file_sha256(path), config)
