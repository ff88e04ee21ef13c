#!/usr/bin/env bash
# What the tables of scripts/reproduce_tables.sh depend on, on the same synthetic studies:
#
#   scripts/study_tables.sh labels SIZE [WORK_DIR]   5, 10, 20, 50 and 100 % of the labels
#   scripts/study_tables.sh masks SIZE [WORK_DIR]    hiding 50, 70 and 90 % of the tokens
#   scripts/study_tables.sh frozen SIZE [WORK_DIR]   the encoder as it is: random, and pre-trained
#   scripts/study_tables.sh trained SIZE [WORK_DIR]  the same encoders, trained as the decoder is
#
# Runs what of scripts/reproduce_tables.sh SIZE WORK_DIR has not been run, under the same variables,
# then goes on in its WORK_DIR. "labels" compares AMAETrainer, AMAETrainerNoPretraining and stock
# nnU-Net, all from the same pre-training, which needs no labels. "masks" compares AMAETrainer
# after pre-trainings that differ in the mask ratio alone, with LABELS (20) per cent of the labels.
# "frozen" trains nothing but the decoder, "trained" the encoder too, RUNS (3) times each, since
# nnU-Net fixes no seed.
# Run again to go on where it stopped.
set -euo pipefail

study=${1:?which study: labels, masks, frozen or trained}
case $study in
    labels|masks|frozen|trained) ;;
    *) echo "unknown study $study: labels, masks, frozen or trained" >&2; exit 2 ;;
esac
shift
. "$(dirname "$0")/reproduce_tables.sh" "$@"

dataset=Dataset501_Phantom
# Fold 0 trains on all labels of its 80 %; folds 5, 6, ... on the first of them in one random order,
# so that a smaller set is part of a larger one. All validate on the same cases.
declare -A fold=([100]=0 [50]=5 [20]=6 [10]=7 [5]=8)

write_folds() {
    python - "$nnUNet_preprocessed/$dataset/splits_final.json" <<'PYTHON'
import json, pathlib, random, sys
file = pathlib.Path(sys.argv[1])
splits = json.loads(file.read_text())[:5]
cases = random.Random(0).sample(splits[0]["train"], len(splits[0]["train"]))
for percent in (50, 20, 10, 5):
    some = cases[: max(1, round(len(cases) * percent / 100))]
    splits.append({"train": sorted(some), "val": splits[0]["val"]})
file.write_text(json.dumps(splits, indent=4))
PYTHON
}

share() { # CONFIGURATION: the pre-training of fold 0 is that of folds 5, 6, ..., too
    local folder=$nnUNet_results/$dataset/AMAEPretraining__AMAEPlans__$1 number
    for number in 5 6 7 8; do ln -sfn fold_0 "$folder/fold_$number"; done
}

train() { # CONFIGURATION FOLD TRAINER...: train and evaluate what is not yet there
    local configuration=$1 number=$2 trainer
    shift 2
    for trainer; do
        once "train_${configuration}_${number}_$trainer" nnUNetv2_train 501 "$configuration" \
            "$number" -p AMAEPlans -tr "$trainer" -device "$device" --c
    done
    once "evaluate_${configuration}_$number" amae-nnunet-evaluate -d 501 -c "$configuration" \
        -p AMAEPlans -f "$number" -tr "$@" --drop T2 -o "evaluation_${configuration}_$number" \
        -device "$device" --disable_tta -np "$processes"
    echo "$configuration, fold $number"
    sed -n '/^mean Dice/,$p' "logs/evaluate_${configuration}_$number.log"
}

once write_folds write_folds
case $study in
    labels)
        share tables
        for percent in 5 10 20 50; do
            echo "$percent % of the labels"
            train tables "${fold[$percent]}" AMAETrainer AMAETrainerNoPretraining nnUNetTrainerShort
        done ;;
    masks)
        number=${fold[${LABELS:-20}]}
        for mask in 50 90; do
            name=mask_$mask
            once "configure_$name" amae-nnunet-configure 501 tables -p AMAEPlans --name "$name" \
                "pretraining.mask_ratio=0.$mask"
            once "pretrain_$name" amae-nnunet-pretrain 501 "$name" -p AMAEPlans -f 0 \
                --unlabeled 502 -device "$device" --c
            share "$name"
            train "$name" "$number" AMAETrainer
        done
        share tables
        train tables "$number" AMAETrainer AMAETrainerNoPretraining nnUNetTrainerShort ;;
    frozen|trained)
        pretrained=$nnUNet_results/$dataset/AMAEPretraining__AMAEPlans__tables/fold_0
        declare -A decay=([frozen]=0 [trained]=1)
        for run in $(seq "${RUNS:-3}"); do
            name=${study}_$run
            export nnUNet_results=$work/$name
            mkdir -p "$nnUNet_results/$dataset" # plans name a checkpoint by its place in the results
            ln -sfn "$(dirname "$pretrained")" "$nnUNet_results/$dataset/"
            once "configure_$name" amae-nnunet-configure 501 tables -p AMAEPlans --name "$name" \
                --checkpoint "$pretrained/checkpoint_final.safetensors" \
                "layer_decay=${decay[$study]}"
            train "$name" 0 AMAETrainerNoPretraining AMAETrainer
        done ;;
esac
