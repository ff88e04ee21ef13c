"""Raw studies made for the tests: small NIfTI files with known voxels and geometry."""

import json

import nibabel as nib
import numpy as np

SHAPE = (12, 10, 8)
AFFINE = np.array([[-2.0, 0, 0, 10], [0, -2.0, 0, 12], [0, 0, 3.0, -7], [0, 0, 0, 1]])
TEMPLATE = {
    "name": "Tiny",
    "description": "for tests",
    "contrasts": {"T1": ["T1.nii*"], "FLAIR": ["FLAIR.nii*"], "T1CE": ["T1CE.nii*"]},
    "required": ["FLAIR"],
    "label": {"patterns": ["seg.nii*"], "labels": {"background": 0, "lesion": 1}},
}


def write_template(folder, **changes):
    path = folder / "tiny.json"
    path.write_text(json.dumps({**TEMPLATE, **changes}))
    return path


def voxels(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(1, 1000, shape).astype(np.int16)


def lesion(shape=SHAPE):
    label = np.zeros(shape, np.uint8)
    label[2:5, 3:6, 2:4] = 1
    return label


def save(path, data, affine=AFFINE, codes=(1, 1)):
    """Save voxels; ``codes`` are those of sform and qform."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1], strip_shears=True)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def make_case(root, name, contrasts=("T1", "FLAIR", "T1CE"), label=True):
    for seed, contrast in enumerate(contrasts):
        save(root / name / f"{contrast}.nii.gz", voxels(seed))
    if label:
        save(root / name / "seg.nii.gz", lesion())
    return root / name


def load(path):
    image = nib.load(path)
    return np.asanyarray(image.dataobj), image.affine


def tree(folder):
    """Every file below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def ledger(folder, name="cases.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def contents(folder):
    """Every file below a folder, hidden ones too, with its bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
