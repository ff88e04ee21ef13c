#!/usr/bin/env bash
# Real MR studies: our four trainers and stock nnU-Net on 30 lower-grade gliomas (TCGA-LGG).
#
#   scripts/run_lgg.sh DATA_DIR [WORK_DIR]
#
# DATA_DIR holds one folder a patient with T1.nii.gz, FLAIR.nii.gz, T1CE.nii.gz (as far as the
# patient has them) and seg.nii.gz. Twenty train, ten test; the test cases are predicted with all
# contrasts, without T1CE, without T1, and from FLAIR alone. WORK_DIR (default ./lgg) receives
# everything; run again to go on where it stopped.
#
# Small networks on a coarse grid, the same for all: about two hours on one CPU core. TRAINERS names
# some of the rivals, SETTINGS other values for amae-nnunet-configure, DEVICE another device.
set -euo pipefail

data=$(realpath "$1")
work=$(realpath -m "${2:-lgg}")
here=$(dirname "$(realpath "$0")")
device=${DEVICE:-cpu}
trainers=${TRAINERS:-AMAETrainer AMAETrainerNoPretraining AMAETrainerUNETR AMAETrainerUNETRNoPretraining nnUNetTrainerShort}
settings=${SETTINGS:-spacing=5.16,3,3 patch_size=16,64,64 batch_size=2 num_strides=3 embed_dim=128
    depth=6 feature_size=16 decoder_embed_dim=128 decoder_depth=2 num_epochs=20 warmup_epochs=1
    iterations_per_epoch=20 val_iterations_per_epoch=2 lr=0.001 loss=dice_ce
    pretraining.num_epochs=240 pretraining.lr=0.001 schedule=cosine}
# Drawn once from the 28 patients with all three contrasts: 6 of 16 of site CS, 4 of 12 of site HT.
test_cases="TCGA_CS_4941_19960909 TCGA_CS_5393_19990606 TCGA_CS_5396_20010302 TCGA_CS_6186_20000601
    TCGA_CS_6666_20011109 TCGA_CS_6669_20020102 TCGA_HT_7684_19950816 TCGA_HT_7693_19950520
    TCGA_HT_7855_19951020 TCGA_HT_8018_19970411"
declare -A given=([all]="T1 FLAIR T1CE" [no_T1CE]="T1 FLAIR" [no_T1]="FLAIR T1CE" [FLAIR]="FLAIR")

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

split_studies() { # the patients that train, and those that test with what each subset leaves them
    local patient name subset contrast
    mkdir -p "$work/studies/train" "$work/studies/test"
    for patient in "$data"/*/; do
        name=$(basename "$patient")
        if ! grep -qw "$name" <<< "$test_cases"; then
            cp -r "$patient" "$work/studies/train"
            continue
        fi
        cp -r "$patient" "$work/studies/test"
        for subset in "${!given[@]}"; do
            mkdir -p "$work/studies/$subset/$name"
            for contrast in ${given[$subset]}; do
                cp "$patient/$contrast.nii.gz" "$work/studies/$subset/$name"
            done
        done
    done
}

# Fold 0 trains on all twenty, fold 1 on five. nnU-Net must validate on something: two, for no choice.
write_split() {
    python - "$nnUNet_preprocessed/Dataset501_LGG/splits_final.json" "$work/studies/train" <<'PYTHON'
import json, pathlib, random, sys
cases = sorted(path.name for path in pathlib.Path(sys.argv[2]).iterdir())
few = sorted(random.Random(0).sample(cases, 5))
splits = [{"train": some, "val": cases[:2]} for some in (cases, few)]
pathlib.Path(sys.argv[1]).write_text(json.dumps(splits))
PYTHON
}

once split split_studies
once convert amae-nnunet-convert -i "$work/studies/train" -d 501 -n LGG -t LGG
once convert_test amae-nnunet-convert -i "$work/studies/test" -d 501 -n LGG -t LGG --split test
once plan nnUNetv2_plan_and_preprocess -d 501 -c 3d_fullres --verify_dataset_integrity --no_pp
once write_split write_split
# shellcheck disable=SC2086  # settings are words
once configure amae-nnunet-configure 501 3d_fullres --name small $settings
once preprocess nnUNetv2_preprocess -d 501 -plans_name AMAEPlans -c small -np 1

# On few cores nnU-Net is fastest without worker processes.
export nnUNet_n_proc_DA=${nnUNet_n_proc_DA:-0} nnUNet_def_n_proc=1
case $trainers in *AMAETrainer\ *|*UNETR\ *|*AMAETrainer|*UNETR)
    once pretrain amae-nnunet-pretrain 501 small -p AMAEPlans -device "$device" ;;
esac
for trainer in $trainers; do
    once "train_$trainer" nnUNetv2_train 501 small 0 -tr "$trainer" -p AMAEPlans -device "$device"
done
for subset in all no_T1CE no_T1 FLAIR; do
    once "inputs_$subset" amae-nnunet-convert -i "$work/studies/$subset" -t LGG -o "$work/inputs/$subset"
    models=()
    for trainer in $trainers; do
        out=$work/predictions/$subset/$trainer
        models+=("$trainer=$out")
        once "predict_${subset}_$trainer" nnUNetv2_predict -i "$work/inputs/$subset" -o "$out" -d 501 \
            -c small -f 0 -tr "$trainer" -p AMAEPlans -device "$device" --disable_tta -npp 1 -nps 1
    done
    once "evaluate_$subset" amae-nnunet-evaluate -m "${models[@]}" -o "$work/evaluation/$subset" -np 1 \
        -i "$nnUNet_raw/Dataset501_LGG/imagesTs" -gt "$nnUNet_raw/Dataset501_LGG/labelsTs"
    echo "predicted from: $subset"
    sed -n '/^mean Dice/,$p' "$work/logs/evaluate_$subset.log"
done
