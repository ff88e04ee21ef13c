"""Every block of shell in the README and the guide does what it says, run as it stands.

The studies are small synthetic DICOM trees. Shell functions called like the commands add what a
reader with two cores and three minutes would: ``-device cpu``, tiny networks.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import TINY
from convert.dicom.scanner import ADC, TRACE, uid, write_series

from amae_nnunet.phantom.dataset import write_studies

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
#: Blocks that other tests run, by how they begin.
ELSEWHERE = {
    "bash scripts/demo.sh": "test_pipeline.py, and the tests themselves",
    "python3 -m venv ": "test_packaging.py",
    "export nnUNet_extTrainer=": "test_packaging.py",
}
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
#: What a reader with a small machine would do, as functions that stand before each command.
WRAPPERS = """
set -euo pipefail
on_cpu() { nnUNet_n_proc_DA=0 command "$@" -device cpu; }
nnUNetv2_train() { on_cpu nnUNetv2_train "$@"; }
nnUNetv2_predict() { on_cpu nnUNetv2_predict "$@" -npp 1 -nps 1; }
amae-nnunet-pretrain() { on_cpu amae-nnunet-pretrain "$@"; }
amae-nnunet-predict() { on_cpu amae-nnunet-predict "$@" -npp 1 -nps 1; }
amae-nnunet-evaluate() { on_cpu amae-nnunet-evaluate "$@" -np 0; }
amae-nnunet-configure() { command amae-nnunet-configure "$@" TINY; }
nnUNetv2_plan_and_preprocess() {
    command nnUNetv2_plan_and_preprocess "$@" -npfp 1 -np 1
    command amae-nnunet-configure 501 3d_fullres TINY -o nnUNetPlans
}
""".replace("TINY", " ".join(TINY))
#: contrast: SeriesNumber and what else its headers say.
SERIES = {
    "ADC": (1, {"image_type": ADC}),
    "TRACE": (2, {"image_type": TRACE, "b": 1000, "directionality": "isotropic"}),
    "T2": (3, {"description": "t2_tse_tra", "echo_time": 95.0, "EchoTrainLength": 15}),
}


def blocks(page):
    """The blocks of shell of a page that this file runs."""
    found = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [block for block in found if not block.startswith(tuple(ELSEWHERE))]


def write_dicom(folder, first, count, labels=None):
    """Studies of the phantom as a scanner sends them, and their labels as a reader draws them."""
    made = folder.parent / f"{folder.name}_nifti"
    cases = write_studies(
        made, count, first_case=first, contrasts=tuple(SERIES), shape=(16, 36, 32),
        spacing=(6.0, 5.0, 5.0), availability={"ADC": 1.0, "TRACE": 1.0, "T2": 0.6},
    )  # fmt: skip
    for case in cases:
        for contrast, (number, header) in SERIES.items():
            file = case / f"{contrast}.nii.gz"
            if file.exists():
                image = nibabel.load(file)
                voxels = np.asarray(image.dataobj)
                voxels = np.rint(1000 * voxels / voxels.max()).clip(0).astype(np.int16)
                write_series(
                    folder / case.name / contrast, voxels, image.affine, number=number,
                    patient=case.name, study=case.name, **header,
                )  # fmt: skip
        if labels:
            labels.mkdir(exist_ok=True)
            (case / "seg.nii.gz").rename(labels / f"{uid('study', case.name)}.nii.gz")


@pytest.fixture
def reader(tmp_path):
    """Runs blocks in one folder, each in a shell of its own; exported variables stay."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment |= {"nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    environment |= {name: str(tmp_path / name) for name in FOLDERS}
    for name in FOLDERS:
        (tmp_path / name).mkdir()

    def run(block):
        script = f"{WRAPPERS}\n{block}\nexport -p > variables\n"
        before = ". ./variables\n" if (tmp_path / "variables").exists() else ""
        done = subprocess.run(
            ["bash", "-c", before + script], cwd=tmp_path, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert done.returncode == 0, f"{block}\n{output[-3000:]}"
        return output

    run.folder = tmp_path
    return run


def test_the_readme_does_what_it_says(reader):
    folder = reader.folder
    write_dicom(folder / "raw", 0, 6, folder / "labels")
    write_dicom(folder / "new_patients", 20, 2)
    for block in blocks(ROOT / "README.md"):
        reader(block)
    segmentations = list((folder / "on_the_scanners_grid").rglob("*.nii.gz"))
    assert len(segmentations) == 2


def test_the_guide_does_what_it_says(reader):
    folder = reader.folder
    write_dicom(folder / "raw" / "labelled", 0, 6, folder / "labels")
    write_dicom(folder / "raw" / "test", 10, 2, folder / "labels")
    write_dicom(folder / "raw" / "more", 20, 2)
    write_dicom(folder / "raw" / "new", 30, 2)
    for block in blocks(ROOT / "docs" / "guide.md"):
        reader(block)
    for name in ("predictions", "ensemble"):
        assert len(list((folder / name).glob("*.nii.gz"))) == 2
    assert (folder / "evaluation" / "report.html").exists()
    assert (folder / "infarct.zip").exists()
    assert (folder / "shared_pretraining" / "model.safetensors").exists()
