#!/usr/bin/env bash
# The whole path on real MR studies: 30 lower-grade gliomas, two of them with FLAIR only.
#
#   scripts/run_lgg.sh DATA_DIR [WORK_DIR]
#
# DATA_DIR holds one folder a patient with T1.nii.gz, FLAIR.nii.gz, T1CE.nii.gz (as far as the
# patient has them) and seg.nii.gz. WORK_DIR (default ./lgg) receives everything; run again to go on
# where it stopped. Small networks at half the in-plane resolution: about an hour on two CPU cores.
set -euo pipefail

data=$(realpath "$1")
work=$(realpath -m "${2:-lgg}")
here=$(dirname "$(realpath "$0")")
device=${DEVICE:-cpu}
export nnUNet_raw=$work/raw nnUNet_preprocessed=$work/preprocessed nnUNet_results=$work/results
export nnUNet_extTrainer=$here/stock_trainer${nnUNet_extTrainer:+:$nnUNet_extTrainer}
export OMP_WAIT_POLICY=PASSIVE
mkdir -p "$nnUNet_raw" "$nnUNet_preprocessed" "$nnUNet_results" "$work/logs"

once() { # NAME COMMAND...: run a stage once, with its output in logs/NAME.log
    local name=$1; shift
    if [ -e "$work/logs/$name.done" ]; then return; fi
    echo "[$(date +%T)] $name: $*"
    "$@" > "$work/logs/$name.log" 2>&1 || { tail -n 5 "$work/logs/$name.log"; exit 1; }
    touch "$work/logs/$name.done"
}

once convert amae-nnunet-convert -i "$data" -d 501 -n LGG -t LGG
once plan nnUNetv2_plan_and_preprocess -d 501 -c 3d_fullres --verify_dataset_integrity -np 2
once configure amae-nnunet-configure 501 3d_fullres --name half spacing=5.16,1.875,1.875 \
    patch_size=16,64,64 batch_size=2 num_strides=3 embed_dim=128 depth=4 feature_size=8 \
    decoder_embed_dim=96 decoder_depth=2 num_epochs=10 iterations_per_epoch=30 \
    val_iterations_per_epoch=10 lr=0.001 loss=dice_ce pretraining.num_epochs=200 \
    pretraining.lr=0.001 schedule=cosine
once preprocess nnUNetv2_preprocess -d 501 -plans_name AMAEPlans -c half -np 2

# On few cores nnU-Net is fastest without worker processes.
export nnUNet_n_proc_DA=${nnUNet_n_proc_DA:-0} nnUNet_def_n_proc=1
once pretrain amae-nnunet-pretrain 501 half -p AMAEPlans -f 0 -device "$device"
for trainer in ${TRAINERS:-AMAETrainer AMAETrainerNoPretraining AMAETrainerUNETR nnUNetTrainerShort}; do
    once "train_$trainer" nnUNetv2_train 501 half 0 -tr "$trainer" -p AMAEPlans -device "$device" --npz
done

# The validation cases again, with all contrasts and with FLAIR alone.
inputs=$work/inputs
if [ ! -e "$inputs" ]; then
    python - "$nnUNet_preprocessed" "$data" "$inputs.tmp" <<'PYTHON'
import json, pathlib, shutil, sys
preprocessed, data, inputs = map(pathlib.Path, sys.argv[1:])
for case in json.loads((preprocessed / "Dataset501_LGG" / "splits_final.json").read_text())[0]["val"]:
    shutil.copytree(data / case, inputs / "all" / case)
    (inputs / "flair" / case).mkdir(parents=True)
    shutil.copy(data / case / "FLAIR.nii.gz", inputs / "flair" / case)
PYTHON
    mv "$inputs.tmp" "$inputs"
fi
for what in all flair; do
    once "inputs_$what" amae-nnunet-convert -i "$inputs/$what" -t LGG -o "$work/predict_$what"
    for trainer in ${TRAINERS:-AMAETrainer AMAETrainerNoPretraining AMAETrainerUNETR nnUNetTrainerShort}; do
        out=$work/predictions/$what/$trainer
        once "predict_${what}_$trainer" nnUNetv2_predict -i "$work/predict_$what" -o "$out" -d 501 \
            -c half -f 0 -tr "$trainer" -p AMAEPlans -device "$device" --disable_tta -npp 1 -nps 1 \
            --save_probabilities
        once "score_${what}_$trainer" nnUNetv2_evaluate_simple \
            "$nnUNet_raw/Dataset501_LGG/labelsTr" "$out" -l 1 -np 1 --chill
    done
done
once ensemble nnUNetv2_ensemble -np 1 -o "$work/predictions/all/ensemble" \
    -i "$work/predictions/all/AMAETrainer" "$work/predictions/all/nnUNetTrainerShort"
