#!/usr/bin/env bash
# What a change of the fine-tuning does on the gliomas of scripts/run_lgg.sh:
#
#   scripts/vary_lgg.sh DATA_DIR [WORK_DIR]
#
# Runs what of scripts/run_lgg.sh has not been run, under the same variables, then fine-tunes again
# from the same pre-training, each time with one thing changed. VARIANTS names some of those below,
# TRAINER another trainer. Run again to go on where it stopped.
set -euo pipefail
. "$(dirname "$0")/run_lgg.sh" "$@"

declare -A change=(
    [again]="" # what two runs differ by
    [dropout]="contrast_dropout=0.3"
    [slower]="lr=0.0003"
    [paper_lr]="lr=0.0001"
    [layer_decay]="layer_decay=0.75"
    [longer]="num_epochs=60"
    [longer_dropout]="num_epochs=60 contrast_dropout=0.3"
)
variants=${VARIANTS:-again dropout slower paper_lr layer_decay longer longer_dropout}
trainer=${TRAINER:-AMAETrainer}
results=$nnUNet_results/Dataset501_LGG
models=()
for variant in $variants; do
    name=small_$variant
    # shellcheck disable=SC2086  # settings are words
    once "configure_$variant" amae-nnunet-configure 501 small -p AMAEPlans --name "$name" \
        --checkpoint "$results/AMAEPretraining__AMAEPlans__small/fold_all/checkpoint_final.safetensors" \
        ${change[$variant]}
    once "train_${trainer}_$variant" nnUNetv2_train 501 "$name" 0 -tr "$trainer" -p AMAEPlans \
        -device "$device"
    models+=("$variant=$results/${trainer}__AMAEPlans__$name")
    amae-nnunet-evaluate -m "${models[@]}" -f 0 -i "$nnUNet_raw/Dataset501_LGG/imagesTs" \
        -gt "$nnUNet_raw/Dataset501_LGG/labelsTs" -o "$work/variants_$trainer" -np 0 \
        -device "$device" --disable_tta --subsets FLAIR T1+FLAIR FLAIR+T1CE
done
