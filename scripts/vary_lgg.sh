#!/usr/bin/env bash
# What a change of the fine-tuning does on the gliomas of scripts/run_lgg.sh, and whether it is more
# than two trainings differ by:
#
#   scripts/vary_lgg.sh DATA_DIR [WORK_DIR]
#
# Runs what of scripts/run_lgg.sh has not been run, under the same variables, then fine-tunes again
# from the same pre-training, RUNS (3) times each, with one thing changed a variant. VARIANTS names
# some of those below, TRAINER another trainer, LABELS=5 fine-tunes on five of the twenty studies (the
# pre-training needs no labels, and keeps all). Run again to go on where it stopped.
set -euo pipefail
. "$(dirname "$0")/run_lgg.sh" "$@"

declare -A change=(
    [plain]=""
    [dropout]="contrast_dropout=0.3"
    [slower]="lr=0.0003"
    [paper_lr]="lr=0.0001"
    [layer_decay]="layer_decay=0.75"
    [frozen]="layer_decay=0" # the encoder stays what it was
    [short]="num_epochs=10"
    [longer]="num_epochs=60"
    [longer_dropout]="num_epochs=60 contrast_dropout=0.3"
)
declare -A fold=([20]=0 [5]=1)
variants=${VARIANTS:-plain dropout slower paper_lr layer_decay longer longer_dropout}
trainer=${TRAINER:-AMAETrainer}
labels=${LABELS:-20}
results=$nnUNet_results/Dataset501_LGG
pretrained=$results/AMAEPretraining__AMAEPlans__small/fold_all/checkpoint_final.safetensors
models=()
for variant in $variants; do
    for run in $(seq "${RUNS:-3}"); do
        name=small_${variant}_$run
        # shellcheck disable=SC2086  # settings are words
        once "configure_$name" amae-nnunet-configure 501 small -p AMAEPlans --name "$name" \
            --checkpoint "$pretrained" ${change[$variant]}
        once "train_${trainer}_${name}_$labels" nnUNetv2_train 501 "$name" "${fold[$labels]}" \
            -tr "$trainer" -p AMAEPlans -device "$device"
        models+=("$variant=$results/${trainer}__AMAEPlans__$name")
    done
done
amae-nnunet-evaluate -m "${models[@]}" -f "${fold[$labels]}" -i "$nnUNet_raw/Dataset501_LGG/imagesTs" \
    -gt "$nnUNet_raw/Dataset501_LGG/labelsTs" -o "$work/variants_${trainer}_$labels" -np 0 \
    -device "$device" --disable_tta --subsets FLAIR T1+FLAIR FLAIR+T1CE
