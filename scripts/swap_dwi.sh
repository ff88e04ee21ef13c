#!/usr/bin/env bash
# Real diffusion studies: does a model find ADC and trace under each other's name?
#
#   scripts/swap_dwi.sh DTI_DIR ISLES_DIR [WORK_DIR]
#
# DTI_DIR holds DICOM of diffusion-weighted EPI, a folder each scan (b = 0 and one other b-value in
# some directions), of which ADC and trace are computed here; ISLES_DIR a study of ISLES 2022
# (ADC.nii.gz, DWI.nii.gz). Each study is converted twice, with the right names and with the two
# swapped. One model is pre-trained on the first scan, one on all scans, one on the ISLES study, each
# on right names, and shown all studies. About ten minutes of one CPU core. Needs the extra "dicom".
set -euo pipefail

dti=$(realpath "$1")
isles=$(realpath "$2")
work=$(realpath -m "${3:-swap_dwi}")
export nnUNet_raw=$work/raw nnUNet_preprocessed=$work/preprocessed nnUNet_results=$work/results
export OMP_WAIT_POLICY=PASSIVE nnUNet_def_n_proc=1
mkdir -p "$nnUNet_raw" "$nnUNet_preprocessed" "$nnUNet_results" "$work/scans"
cd "$work"

dcm2niix -z y -f '%t_%s' -o scans "$dti" > dcm2niix.log
python - "$isles" <<'PYTHON'
import sys
from pathlib import Path

import nibabel as nib
import numpy as np


def write(study, affine, adc, trace):
    """The study with right names and with swapped ones; fluid as the label that nnU-Net wants."""
    fluid = (adc > 2 * np.median(adc[adc > 0])).astype(np.uint8)
    right = {"ADC": adc, "TRACE": trace, "seg": fluid}
    for name, images in ((study, right), (f"{study}_swapped", right | {"ADC": trace, "TRACE": adc})):
        folder = Path("studies", name)
        folder.mkdir(parents=True, exist_ok=True)
        for image, voxels in images.items():
            dtype = np.uint8 if image == "seg" else np.float32
            nib.save(nib.Nifti1Image(voxels.astype(dtype), affine), folder / f"{image}.nii.gz")


for number, values in enumerate(sorted(Path("scans").glob("*.bval"))):
    scan = nib.load(values.with_suffix(".nii.gz"))
    voxels, b = np.maximum(scan.get_fdata(), 1), np.loadtxt(values)
    plain, trace = voxels[..., b == 0].mean(-1), np.exp(np.log(voxels[..., b > 0]).mean(-1))
    adc = np.log(plain / trace) / b.max() * 1e6  # 1e-6 mm2/s
    head = plain > 0.15 * np.percentile(plain, 99)  # outside it there is noise
    write(f"dti_{number}", scan.affine, np.where(head, adc, 0).clip(0, 4000), trace)
adc, trace = (nib.load(Path(sys.argv[1], f"{name}.nii.gz")) for name in ("ADC", "DWI"))
write("isles", adc.affine, adc.get_fdata(), trace.get_fdata())
PYTHON
cat > DWI.json <<'JSON'
{"name": "DWI", "description": "Diffusion", "contrasts": {"ADC": ["ADC.nii.gz"], "TRACE": ["TRACE.nii.gz"]},
 "label": {"patterns": ["seg.nii.gz"], "labels": {"background": 0, "fluid": 1}}}
JSON
amae-nnunet-convert -i studies -d 601 -n DWI -t DWI.json --layout folders -np 1
nnUNetv2_plan_and_preprocess -d 601 -c 3d_fullres --no_pp -npfp 1 > plan.log 2>&1
export nnUNet_n_proc_DA=0
python - <<'PYTHON'
import json
from pathlib import Path

cases = sorted(path.name for path in Path("studies").iterdir())
right = [case for case in cases if not case.endswith("_swapped")]
scans = [case for case in right if case.startswith("dti")]
splits = [{"train": some, "val": [c for c in cases if c not in some]} for some in (scans[:1], scans, ["isles"])]
Path("preprocessed/Dataset601_DWI/splits_final.json").write_text(json.dumps(splits))
PYTHON
amae-nnunet-configure 601 3d_fullres --name dwi spacing=4,3,3 patch_size=16,64,64 num_strides=3 \
    embed_dim=96 depth=4 decoder_embed_dim=96 decoder_depth=2 pretraining.lr=0.001 \
    pretraining.schedule=cosine pretraining.num_epochs=40 pretraining.iterations_per_epoch=20
nnUNetv2_preprocess -d 601 -plans_name AMAEPlans -c dwi -np 1 > preprocess.log 2>&1
for fold in 0 1 2; do
    amae-nnunet-pretrain 601 dwi -p AMAEPlans -f $fold -device cpu
    amae-nnunet-show "results/Dataset601_DWI/AMAEPretraining__AMAEPlans__dwi/fold_$fold/checkpoint_final.safetensors" \
        -d 601 -c dwi -p AMAEPlans --check -o "check_$fold" -device cpu
done
