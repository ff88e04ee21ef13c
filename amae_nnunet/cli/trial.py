"""The last checks of ``amae-nnunet-doctor``: the whole path on two tiny cases, command by command.

Makes two synthetic cases in a temporary folder, converts, plans, pre-trains, trains and predicts
them with the installed commands, each in a fresh process. It proves that they work together here;
what it trains is of no use.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from amae_nnunet.cli.check import Check
from amae_nnunet.cli.stage import Stage, run_stage
from amae_nnunet.errors import AMAEError

DATASET = "998"
CONTRASTS = ("ADC", "TRACE")
_TEMPLATE = {
    "name": "Trial",
    "contrasts": {name: [f"{name}.nii.gz"] for name in CONTRASTS},
    "label": {"patterns": ["seg.nii.gz"], "labels": {"background": 0, "infarct": 1}},
}
_TINY = (
    "embed_dim=12 depth=2 decoder_embed_dim=12 decoder_depth=1 feature_size=2 batch_size=2 "
    "num_epochs=1 iterations_per_epoch=1 val_iterations_per_epoch=1 pretraining.num_epochs=1"
)


def stages(device: str) -> list[Stage]:
    """The commands, to be run in the folder of the trial."""
    model, tail = f"{DATASET} 3d_fullres", f"-p AMAEPlans -device {device}"
    predict = f"nnUNetv2_predict -d {DATASET} -c 3d_fullres -f all -tr AMAETrainer {tail}"
    return [
        Stage("convert", f"amae-nnunet-convert -t t.json -i studies -d {DATASET} -n Trial -np 1"),
        Stage(
            "plan and preprocess",
            f"nnUNet_n_proc_DA=1 nnUNetv2_plan_and_preprocess -d {DATASET} -c 3d_fullres "
            "-npfp 1 -np 1",
        ),
        Stage("configure", f"amae-nnunet-configure {model} {_TINY}"),
        Stage("pre-train", f"amae-nnunet-pretrain {model} {tail}"),
        Stage("train", f"nnUNetv2_train {model} all -tr AMAETrainer {tail}"),
        Stage(
            "predict",
            f"{predict} -i raw/Dataset{DATASET}_Trial/imagesTr -o out -npp 1 -nps 1 --disable_tta",
        ),
    ]


def trial(device: str) -> Iterator[Check]:
    """A check for each command; the first that fails is the last one, and its folder stays.

    Args:
        device: to train and predict on, ``cpu`` or ``cuda``.
    """
    from amae_nnunet.phantom.dataset import write_studies

    folder = Path(tempfile.mkdtemp(prefix="amae_doctor_"))
    (folder / "t.json").write_text(json.dumps(_TEMPLATE), encoding="utf-8")
    always = dict.fromkeys(CONTRASTS, 1.0)
    with redirect_stderr(StringIO()):  # its progress bar would stand between the checks
        write_studies(folder / "studies", 2, 0, CONTRASTS, (16, 32, 32), (6.0, 5.0, 5.0), always)
    for stage in stages(device):
        began = time.monotonic()
        try:
            run_stage(folder, stage)
        except AMAEError as error:
            fix = f"look at the logs in {folder / 'logs'}; the command was: {stage.command}"
            yield Check(stage.name, str(error), ok=False, fix=fix)
            return
        yield Check(stage.name, f"two tiny cases on {device}, {time.monotonic() - began:.0f} s")
    found = sorted(path.name for path in (folder / "out").glob("case_*.nii.gz"))
    if len(found) != 2:
        fix = f"look at the logs in {folder / 'logs'}"
        yield Check("predictions", f"{len(found)} of 2 were written", ok=False, fix=fix)
        return
    shutil.rmtree(folder)
