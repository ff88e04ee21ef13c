"""``amae-nnunet-pretrain``: masked-autoencoder pre-training on preprocessed studies."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from amae_nnunet.cli import command
from amae_nnunet.errors import ConfigError, exit_codes
from amae_nnunet.folders import dataset_number, nnunet_folder
from amae_nnunet.plans.block import PLANS_NAME

if TYPE_CHECKING:
    import torch

    from amae_nnunet.plans.preprocessed import PreprocessedDataset
    from amae_nnunet.pretraining.loop import Options
    from amae_nnunet.pretraining.ranks import Ranks

EPILOG = """\
All values of the model and the training are set with amae-nnunet-configure. The checkpoint goes to
$nnUNet_results/DATASET/AMAEPretraining__PLANS__CONFIGURATION/fold_FOLD/, where AMAETrainer
finds it: fold 0 takes fold_0, or else fold_all.

examples:
  amae-nnunet-pretrain 501 3d_fullres
  amae-nnunet-pretrain 501 3d_fullres --unlabeled 500 502     more studies, of any contrasts
  torchrun --nproc_per_node=4 -m amae_nnunet.cli.pretrain 501 3d_fullres     four GPUs
  amae-nnunet-pretrain 501 3d_fullres --unlabeled 502 --add_contrast PD    then one more contrast
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    description = "Pre-train the encoder as a masked autoencoder on preprocessed studies."
    parser = command.new_parser("amae-nnunet-pretrain", description, EPILOG, exit_codes(3, 5))
    parser.add_argument("dataset", help="number or name of the data set")
    parser.add_argument("configuration", help="configuration of the plans, e.g. 3d_fullres")
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", help="plans to use")
    parser.add_argument(
        "-f", dest="fold", default="all", help="pre-train on all cases or a fold's training cases"
    )
    parser.add_argument(
        "--unlabeled",
        nargs="+",
        default=[],
        metavar="DATASET",
        help="numbers or names of data sets converted with --split unlabeled, to train on as well",
    )
    parser.add_argument(
        "-np", type=int, default=2, help="processes that preprocess them (default: %(default)s)"
    )
    parser.add_argument(
        "--pictures",
        nargs="+",
        default=[],
        metavar="CASE",
        help="cases to draw as the run goes (default: three that together show most contrasts)",
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write the numbers for TensorBoard as well"
    )
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="run some steps, and print memory, time and disk of the whole run; nothing is written "
        "but what comes before it: preprocessed unlabelled studies, and with -f the folds",
    )
    parser.add_argument(
        "--add_contrast",
        metavar="NAME",
        help="pre-train nothing, but fit the vectors of one new contrast to the studies that have "
        "it, and write a checkpoint beside the old one",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="to add it to (default: what the pre-training of this configuration and fold wrote)",
    )
    parser.add_argument("--c", dest="resume", action="store_true", help="continue a stopped run")
    parser.add_argument(
        "--shard",
        action="store_true",
        help="under torchrun: cut weights and optimizer in pieces, one a process (FSDP2), for "
        "encoders that are too large for one GPU",
    )
    parser.add_argument(
        "-device", choices=("cuda", "cpu", "mps"), help="default: cuda if it is there"
    )
    return command.run(parser, _pretrain, argv)


def _check(args: argparse.Namespace) -> None:
    """Refuse, before torch is imported, what cannot be; under torchrun the first process does."""
    if args.checkpoint and not args.add_contrast:
        raise ConfigError("--checkpoint goes with --add_contrast")
    unused = [f"--{name}" for name in ("estimate", "pictures", "tensorboard", "shard")
              if getattr(args, name)] + ["--c"] * args.resume  # fmt: skip
    if args.add_contrast and unused:
        raise ConfigError(f"--add_contrast trains nothing: leave out {unused[0]}")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return
    from amae_nnunet.plans.preprocessed import (
        dataset_name,
        pretraining_folder,
        read_plans,
    )
    from amae_nnunet.pretraining.folder import check_unused

    name = dataset_name(args.dataset)
    read_plans(nnunet_folder("nnUNet_preprocessed") / name, args.configuration, args.plans)
    if not (args.resume or args.estimate or args.add_contrast):
        check_unused(pretraining_folder(name, args.plans, args.configuration, args.fold))


def _pretrain(args: argparse.Namespace) -> int:
    _check(args)
    from amae_nnunet.pretraining.ranks import join

    with join(command.device_kind(args.device)) as (ranks, device):
        if ranks.rank:
            logging.getLogger("amae_nnunet").setLevel(logging.ERROR)  # the first one says it all
        return _pretrain_on(args, ranks, device)


def _pretrain_on(args: argparse.Namespace, ranks: Ranks, device: torch.device) -> int:
    from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

    from amae_nnunet.plans.preprocessed import PreprocessedDataset
    from amae_nnunet.pretraining.estimate import estimate
    from amae_nnunet.pretraining.loop import Options, prepare, pretrain
    from amae_nnunet.pretraining.stop import Stopped

    if args.add_contrast and ranks.size > 1:
        raise ConfigError("--add_contrast runs in one process: leave torchrun out")
    dataset = ranks.from_first(
        lambda: PreprocessedDataset.open(args.dataset, args.configuration, args.plans)
    )
    options = Options(
        args.fold,
        tuple(args.unlabeled),
        tuple(args.pictures),
        device,
        get_allowed_n_proc_DA(),
        max(1, args.np),
        args.tensorboard,
        ranks,
        args.shard,
    )
    if args.add_contrast:
        return _add_contrast(args, dataset, options)
    say = print if ranks.rank == 0 else lambda _: None
    if args.estimate:
        run, _, batches = prepare(dataset, options)
        say(estimate(run, batches, options.num_workers))
        return 0
    try:
        path = pretrain(dataset, options, args.resume)
    except Stopped as stop:
        say(stop)
        return stop.exit_code
    say(f"wrote {path}")
    if dataset.block.checkpoint:  # which the trainers would take instead
        say(f"next: {_configure(args, dataset, path)}")
        return 0
    plans = f" -p {args.plans}" if args.plans != "nnUNetPlans" else ""
    number = dataset_number(dataset.name)
    fold = "0" if args.fold == "all" else args.fold
    kind = "" if device.type == "cuda" else f" -device {device.type}"
    say(f"next: nnUNetv2_train {number} {args.configuration} {fold} -tr AMAETrainer{plans}{kind}")
    return 0


def _add_contrast(args: argparse.Namespace, dataset: PreprocessedDataset, options: Options) -> int:
    from amae_nnunet.plans.preprocessed import CHECKPOINT_NAME
    from amae_nnunet.pretraining.add_contrast import add_contrast
    from amae_nnunet.pretraining.loop import results_folder

    source = args.checkpoint or results_folder(dataset, args.fold) / CHECKPOINT_NAME
    path = add_contrast(source, args.add_contrast, dataset, options)
    print(f"wrote {path}")
    if args.add_contrast in dataset.block.contrasts:
        print(f"next: {_configure(args, dataset, path)}")
    else:
        file = shlex.quote(str(path))
        print(
            f"next: amae-nnunet-configure DATASET 3d_fullres --checkpoint {file}  # DATASET: one "
            f"that has {args.add_contrast}"
        )
    return 0


def _configure(args: argparse.Namespace, dataset: PreprocessedDataset, path: Path) -> str:
    """The command that names a checkpoint in the plans."""
    number = dataset_number(dataset.name)
    plans = "" if args.plans in ("nnUNetPlans", PLANS_NAME) else f" -o {args.plans}"
    file = shlex.quote(str(path))
    return f"amae-nnunet-configure {number} {args.configuration} --checkpoint {file}{plans}"


if __name__ == "__main__":  # for torchrun
    sys.exit(main())
