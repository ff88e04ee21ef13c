"""``amae-nnunet-demo``: the whole path on synthetic studies, in minutes on a CPU.

Makes studies in which contrasts are missing, converts, plans, pre-trains, trains, predicts and
evaluates, each with the command that one would type, and ends with a report, a table and a picture.
It shows the commands and proves the installation; its scores say nothing about real data.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from amae_nnunet.cli.command import new_parser, run
from amae_nnunet.errors import AMAEError, exit_codes

DATASET = 999
NUM_TRAIN, NUM_TEST = 24, 8
CONTRASTS = ("ADC", "TRACE", "T2", "FLAIR")
#: What the evaluation gives to the model, as its folders of predictions are called.
GIVEN = ("ADC+TRACE+T2+FLAIR", "ADC+TRACE+FLAIR", "ADC+TRACE")
TEMPLATE = {
    "name": "Demo",
    "description": "Synthetic acute infarcts",
    "contrasts": {name: [f"{name}.nii.gz"] for name in CONTRASTS},
    "required": ["ADC", "TRACE"],
    "label": {"patterns": ["seg.nii.gz"], "labels": {"background": 0, "infarct": 1}},
}
SETTINGS = (
    "num_strides=3 embed_dim=96 depth=4 feature_size=8 decoder_embed_dim=96 decoder_depth=2 "
    "num_epochs=5 iterations_per_epoch=50 val_iterations_per_epoch=4 lr=0.002 loss=dice_ce "
    "batch_size=2 pretraining.num_epochs=30 pretraining.lr=0.001 schedule=cosine"
)


@dataclass(frozen=True)
class Stage:
    """One step: what it is for, and the command that a user would type."""

    name: str
    command: str


def stages(num_threads: int) -> list[Stage]:
    """The commands of the demo, to be run in its folder."""
    model = f"{DATASET} 3d_fullres"
    common = "-p AMAEPlans -device cpu"
    network = f"-d {DATASET} -c 3d_fullres -f 0 {common}"
    return [
        Stage(
            "convert the training studies",
            f"amae-nnunet-convert -t template.json -np 1 -i studies/train -d {DATASET} -n Demo",
        ),
        Stage(
            "plan and preprocess",
            f"nnUNetv2_plan_and_preprocess -d {DATASET} -c 3d_fullres "
            f"--verify_dataset_integrity -npfp {num_threads} -np {num_threads}",
        ),
        Stage("set a small network", f"amae-nnunet-configure {model} {SETTINGS}"),
        Stage("pre-train", f"amae-nnunet-pretrain {model} {common} --c"),
        Stage("train", f"nnUNetv2_train {model} 0 -tr AMAETrainer {common} --c"),
        Stage(
            "convert the test studies",
            "amae-nnunet-convert -t template.json -np 1 -i studies/test -o inputs",
        ),
        Stage("predict", f"amae-nnunet-predict -i inputs -o predictions {network} -npp 1 -nps 1"),
        Stage(
            "evaluate",
            f"amae-nnunet-evaluate -i inputs -gt labels -o evaluation {network} -np 1 "
            "--disable_tta --drop T2 T2+FLAIR",
        ),
    ]


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    description = (__doc__ or "").partition("\n\n")[2]
    parser = new_parser("amae-nnunet-demo", description, "", exit_codes())
    parser.add_argument(
        "-o",
        dest="folder",
        type=Path,
        default=Path("amae-nnunet-demo"),
        help="where everything goes; run again to go on where it stopped (default: %(default)s)",
    )
    return run(parser, _demo, argv)


def _demo(args: argparse.Namespace) -> None:
    folder = args.folder.resolve()
    (folder / "done").mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    if _pending(folder, "studies"):
        _write_studies(folder)
        _finish(folder, "studies")
    steps = stages(min(4, os.cpu_count() or 1))
    for number, stage in enumerate(steps, 1):
        if _pending(folder, stage.name):
            print(f"[{number}/{len(steps)}] {stage.name}\n    {stage.command}", flush=True)
            began = time.monotonic()
            run_stage(folder, stage)
            _finish(folder, stage.name)
            print(f"    {time.monotonic() - began:.0f} s", flush=True)
    _report(folder)
    print(f"{time.monotonic() - start:.0f} s in all")


def _pending(folder: Path, name: str) -> bool:
    return not (folder / "done" / name.replace(" ", "_")).exists()


def _finish(folder: Path, name: str) -> None:
    (folder / "done" / name.replace(" ", "_")).touch()


def _write_studies(folder: Path) -> None:
    """Training studies with contrasts missing at random, and test studies with all of them."""
    from amae_nnunet.phantom.dataset import AVAILABILITY, write_studies

    for name in ("studies", "labels"):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
    (folder / "template.json").write_text(json.dumps(TEMPLATE, indent=1), encoding="utf-8")
    availability = {name: AVAILABILITY[name] for name in CONTRASTS}
    write_studies(folder / "studies/train", NUM_TRAIN, 0, CONTRASTS, availability=availability)
    complete = dict.fromkeys(CONTRASTS, 1.0)
    cases = write_studies(
        folder / "studies/test", NUM_TEST, 1, CONTRASTS, availability=complete, prefix="test"
    )
    (folder / "labels").mkdir()
    for case in cases:
        (case / "seg.nii.gz").replace(folder / "labels" / f"{case.name}.nii.gz")


def run_stage(folder: Path, stage: Stage) -> None:
    """Run a command in a fresh process, with its output in a log file."""
    environment = dict(os.environ)
    for name in ("raw", "preprocessed", "results"):
        (folder / name).mkdir(exist_ok=True)
        environment[f"nnUNet_{name}"] = str(folder / name)
    # On few cores nnU-Net is fastest without workers (its planner wants at least one).
    environment["nnUNet_n_proc_DA"] = "1" if "plan" in stage.name else "0"
    environment["nnUNet_def_n_proc"] = "1"
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    words = shlex.split(stage.command)
    program = shutil.which(words[0], path=str(Path(sys.executable).parent)) or words[0]
    log = folder / "logs" / f"{stage.name.replace(' ', '_')}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        result = subprocess.run(
            [program, *words[1:]],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if result.returncode:
        last = (log.read_text(encoding="utf-8").strip().splitlines() or ["nothing was printed"])[-1]
        raise AMAEError(f"{words[0]} ended with code {result.returncode}: {last} (all in {log})")


def _report(folder: Path) -> None:
    """Print the tables of the evaluation, and draw a case of it."""
    import nibabel
    import numpy as np

    from amae_nnunet.evaluation.pictures import save_segmentations

    def load(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        image = nibabel.as_closest_canonical(nibabel.load(path))
        return np.asarray(image.dataobj, dtype=np.float32).T[:, ::-1]

    label = min((folder / "labels").iterdir())
    case = label.name.removesuffix(".nii.gz")
    predictions = folder / "evaluation" / "predictions" / "AMAETrainer"
    save_segmentations(
        folder / "demo.png",
        {name: load(folder / "studies/test" / case / f"{name}.nii.gz") for name in CONTRASTS},
        load(label),
        {given: load(predictions / given / label.name) for given in GIVEN},
    )
    printed = (folder / "logs" / "evaluate.log").read_text(encoding="utf-8")
    print(f"\n{printed[printed.index('mean Dice') :]}")
    results = folder / "results" / f"Dataset{DATASET}_Demo"
    reconstructions = sorted(results.glob("AMAEPretraining__*/fold_all/*.png"))
    for picture in (folder / "demo.png", *reconstructions):
        print(f"picture: {picture}")
