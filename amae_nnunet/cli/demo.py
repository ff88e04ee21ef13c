"""``amae-nnunet-demo``: the whole path on synthetic studies, in minutes on a CPU.

Makes studies in which contrasts are missing, converts, plans, pre-trains, trains, predicts and
evaluates, each with the command that one would type, and ends with a report, a table and a picture.
It shows the commands and proves the installation; its scores say nothing about real data. What it
prints before the tables can be pasted into a shell.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import time
from pathlib import Path

from amae_nnunet.cli.command import new_parser, run
from amae_nnunet.cli.stage import Stage, preamble, run_stage
from amae_nnunet.errors import exit_codes
from amae_nnunet.lock import locked

DATASET = 999
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


def stages(num_threads: int) -> list[Stage]:
    """The commands of the demo, to be run in its folder."""
    model = f"{DATASET} 3d_fullres"
    common = "-p AMAEPlans -device cpu"
    network = f"-d {DATASET} -c 3d_fullres -f 0 {common}"
    phantom = f"amae-nnunet-phantom --size small --contrasts {' '.join(CONTRASTS)} -np 1"
    convert = f"amae-nnunet-convert -t template.json -np 1 -d {DATASET} -n Demo"
    return [
        Stage(
            "make training studies with missing contrasts",
            f"{phantom} -o studies/train --num_cases 24",
        ),
        Stage(
            "make complete test studies",
            f"{phantom} -o studies/test --num_cases 8 --split test --availability T2=1 FLAIR=1",
        ),
        Stage("convert the training studies", f"{convert} -i studies/train"),
        Stage(
            "plan and preprocess",
            # its planner wants at least one worker
            f"nnUNet_n_proc_DA=1 nnUNetv2_plan_and_preprocess -d {DATASET} -c 3d_fullres "
            f"--verify_dataset_integrity -npfp {num_threads} -np {num_threads}",
        ),
        Stage("set a small network", f"amae-nnunet-configure {model} {SETTINGS}"),
        Stage("pre-train", f"amae-nnunet-pretrain {model} {common} --c"),
        Stage("train", f"nnUNetv2_train {model} 0 -tr AMAETrainer {common} --c"),
        Stage("convert the test studies", f"{convert} -i studies/test --split test"),
        Stage(
            "predict",
            f"amae-nnunet-predict -i raw/Dataset{DATASET}_Demo/imagesTs -o predictions {network} "
            "-npp 1 -nps 1",
        ),
        Stage(
            "evaluate",
            f"amae-nnunet-evaluate -o evaluation {network} -np 1 --disable_tta --drop T2 T2+FLAIR",
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
    start = time.monotonic()
    args.folder.mkdir(parents=True, exist_ok=True)
    with locked(args.folder):
        run_stages(args.folder, stages(min(4, os.cpu_count() or 1)))
    _report(args.folder)
    print(f"{time.monotonic() - start:.0f} s in all")


def run_stages(folder: Path, steps: list[Stage]) -> None:
    """Run what is not done yet, and print what one would type for it.

    Args:
        folder: of the demo, as seen from where the user stands.
        steps: all of them.

    Raises:
        AMAEError: one failed.
    """
    done = folder / "done"
    done.mkdir(parents=True, exist_ok=True)
    if all((done / stage.file_name).exists() for stage in steps):
        return
    template = json.dumps(TEMPLATE)
    (folder / "template.json").write_text(template + "\n", encoding="utf-8")
    print(
        "# all steps take about ten minutes on two idle cores (11 minutes of CPU time), train half"
    )
    print(f"# of them; what they say: {folder / 'logs'}")
    print(*preamble(folder), f"echo {shlex.quote(template)} > template.json", sep="\n")
    for number, stage in enumerate(steps, 1):
        if (done / stage.file_name).exists():
            continue
        print(f"\n# [{number}/{len(steps)}] {stage.name}\n{stage.command}", flush=True)
        began = time.monotonic()
        run_stage(folder.resolve(), stage)
        (done / stage.file_name).touch()
        print(f"# {time.monotonic() - began:.0f} s", flush=True)


def _report(folder: Path) -> None:
    """Print the tables of the evaluation, draw a case of it, and say where to look."""
    _draw(folder)
    printed = (folder / "logs" / "evaluate.log").read_text(encoding="utf-8")
    print(f"\n{printed[printed.index('mean Dice') : printed.index('report: ')]}", end="")
    print(f"report: {folder / 'evaluation' / 'report.html'}")
    results = folder / "results" / f"Dataset{DATASET}_Demo"
    reconstructions = sorted(results.glob("AMAEPretraining__*/fold_all/*.png"))
    for picture in (folder / "demo.png", *reconstructions):
        print(f"picture: {picture}")
    print("after so short a training, misses and false positives are to be expected")


def _draw(folder: Path) -> None:
    """``demo.png``: the first test case, and what is predicted from less and less of it."""
    import nibabel
    import numpy as np

    from amae_nnunet.evaluation.pictures import save_segmentations

    def load(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        image = nibabel.as_closest_canonical(nibabel.load(path))
        return np.asarray(image.dataobj, dtype=np.float32).T[:, ::-1]

    label = min((folder / "raw" / f"Dataset{DATASET}_Demo" / "labelsTs").iterdir())
    case = label.name.removesuffix(".nii.gz")
    with (folder / "evaluation" / "cases.csv").open(encoding="utf-8", newline="") as file:
        dice = {row["given"]: row["dice"] for row in csv.DictReader(file) if row["case"] == case}
    titles = {
        given: f"predicted from\n{given.replace('+', ', ')}\nDice {float(dice[given]):.3f}"
        for given in GIVEN
    }
    predictions = folder / "evaluation" / "predictions" / "AMAETrainer"
    save_segmentations(
        folder / "demo.png",
        {name: load(folder / "studies/test" / case / f"{name}.nii.gz") for name in CONTRASTS},
        load(label),
        {titles[given]: load(predictions / given / label.name) for given in GIVEN},
        heading=f"test case {case}; Dice is that of the whole case",
    )
