"""``amae-nnunet-predict``: nnU-Net's prediction, from whichever contrasts each case has."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from amae_nnunet.cli.command import device_kind, new_parser, run
from amae_nnunet.errors import ConfigError, exit_codes

if TYPE_CHECKING:
    from amae_nnunet.prediction.inputs import InputCase

_EPILOG = """\
Segmentations are those of nnUNetv2_predict on the same images, whose options it takes by the same
names. On top of it, channel files may simply be missing, a case that cannot be predicted stops no
other one, and beside each segmentation CASE.json says which contrasts it was made from and what
the model scored on these in its validation. Without -f it takes its folds 0, 1, ...

examples:
  amae-nnunet-predict -i inputs -o predictions -d 501 -c 3d_fullres
  amae-nnunet-predict -i inputs -o predictions -m MODEL_FOLDER -f 0 --continue_prediction
"""
_FAILED, _LACKING = 4, 6


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    description = "Predict with nnU-Net from whichever contrasts each case has."
    parser = new_parser(
        "amae-nnunet-predict", description, _EPILOG, exit_codes(3, _FAILED, 5, _LACKING)
    )
    _add_model(parser)
    _add_running(parser)
    return run(parser, _predict, argv)


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what").add_argument
    add("-i", dest="input", metavar="FOLDER", type=Path, required=True,
        help="files CASE_0000.nii.gz, ... by channel; absent contrasts may have none")  # fmt: skip
    add("-o", dest="output", metavar="FOLDER", type=Path, required=True, help="for the results")
    add("-d", dest="dataset", help="number or name of the model's data set")
    add("-c", dest="configuration", help="configuration of the plans, e.g. 3d_fullres")
    add("-p", dest="plans", default="nnUNetPlans", help="plans (default: %(default)s)")
    add("-tr", dest="trainer", default="AMAETrainer", help="trainer (default: %(default)s)")
    add("-m", dest="model", metavar="FOLDER", type=Path, help="the model's folder instead")
    add("-f", dest="folds", nargs="+", default=[],
        help="folds, or all for a model of all cases (default: 0, 1, ...)")  # fmt: skip
    add("-chk", dest="checkpoint", default="checkpoint_final.pth",
        help="file in the fold's folder (default: %(default)s)")  # fmt: skip


def _add_running(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how").add_argument
    add("-step_size", type=float, default=0.5, help="of the sliding window (default: %(default)s)")
    add("--disable_tta", action="store_true", help="no mirrored copies")
    add("--save_probabilities", action="store_true", help="write probabilities, for ensembles")
    add("--continue_prediction", action="store_true", help="skip cases that are done")
    add("-npp", type=int, default=3, help="processes for preprocessing (default: %(default)s)")
    add("-nps", type=int, default=3, help="processes for export (default: %(default)s)")
    add("-num_parts", type=int, default=1, help="predict one of so many parts of the cases")
    add("-part_id", type=int, default=0, help="which part, from 0")
    add("-device", choices=("cuda", "cpu", "mps"), help="default: cuda if it is there")
    add("--disable_progress_bar", action="store_true", help="no progress bar")
    add("--not_on_device", action="store_true", help="keep results in main memory, not the GPU's")


def _check(args: argparse.Namespace) -> None:
    if args.model is None and not (args.dataset and args.configuration):
        raise ConfigError("which model? give -d and -c, or -m FOLDER")
    if not 0 < args.step_size <= 1:
        raise ConfigError(f"-step_size {args.step_size:g}: give a number above 0, at most 1")
    if not 0 <= args.part_id < args.num_parts:
        raise ConfigError(f"-part_id {args.part_id}: give 0 to {args.num_parts - 1} (-num_parts)")
    if min(args.npp, args.nps) < 0:
        raise ConfigError("-npp and -nps: give 0 (in this process) or more")
    if args.output.resolve() == args.input.resolve():
        raise ConfigError(f"-o is the input folder {args.input}, which is never changed")


def _predict(args: argparse.Namespace) -> int:
    _check(args)
    from amae_nnunet.plans.block import channel_contrasts
    from amae_nnunet.plans.preprocessed import read_json
    from amae_nnunet.prediction.folder import find_folds, model_folder
    from amae_nnunet.prediction.inputs import find_cases

    folder = args.model or model_folder(args.dataset, args.trainer, args.plans, args.configuration)
    find_folds(folder, args.folds, args.checkpoint)
    dataset_json = read_json(folder / "dataset.json", "give the folder that nnUNetv2_train made")
    contrasts = channel_contrasts(dataset_json)
    cases = find_cases(args.input, dataset_json["file_ending"], contrasts, folder)
    return _predict_cases(args, folder, cases[args.part_id :: args.num_parts])


def _predict_cases(args: argparse.Namespace, folder: Path, cases: list[InputCase]) -> int:
    import torch

    from amae_nnunet.prediction.model import TrainedModel
    from amae_nnunet.prediction.run import Options, Run

    device = torch.device(device_kind(args.device))
    torch.set_num_threads((os.cpu_count() or 1) if device.type == "cpu" else 1)  # nnU-Net's way
    model = TrainedModel.open(
        folder,
        args.folds,
        args.checkpoint,
        device,
        tile_step_size=args.step_size,
        use_mirroring=not args.disable_tta,
        perform_everything_on_device=not args.not_on_device,
        verbose=args.verbose,
        allow_tqdm=not args.disable_progress_bar,
    )
    options = Options(
        args.output, args.save_probabilities, args.continue_prediction, args.npp, args.nps
    )
    outcome = Run(model, options).predict(cases)
    print(
        f"{args.output.name}: {len(outcome.done)} done, {len(outcome.skipped)} skipped, "
        f"{len(outcome.failed)} failed"
    )
    if outcome.lacking:
        print(f"without a required contrast: {', '.join(outcome.lacking)}")
    return _FAILED if outcome.failed else _LACKING if outcome.lacking else 0
