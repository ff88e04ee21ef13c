#!/usr/bin/env bash
# The paper's experiment in form, on synthetic studies: Tables 1, 2 and 3 with our numbers.
#
#   scripts/reproduce_tables.sh SIZE [WORK_DIR]
#
# Pre-trains on many unlabelled studies of up to seven contrasts, fine-tunes five models on few
# labelled ones of ADC, trace and (in 70 %) T2, tests on many, with T2 and without, and compares the
# models pairwise. SIZE:
#   smoke  does it run? Minutes on two cores; the numbers mean nothing
#   cpu    under two hours on two cores
#   gpu    one H200, stages of under ten minutes
#   paper  the paper's networks, epochs and learning rates; days
# WORK_DIR (default ./tables_SIZE, with TISSUE behind it if given) receives everything. Run again to
# go on where it stopped; what a time limit ends goes on, too: timeout -s TERM 540
# scripts/reproduce_tables.sh gpu
# In the environment: SEED (0), DEVICE, TRAINERS (" " for none), and NUM_TRAIN, NUM_TEST,
# NUM_UNLABELED; TISSUE, what is labelled (infarct; deep_grey is told by its place, where an infarct
# is told voxel by voxel).
set -euo pipefail

size=${1:?which size: smoke, cpu, gpu or paper}
work=$(realpath -m "${2:-tables_$size${TISSUE:+_$TISSUE}}")
here=$(dirname "$(realpath "$0")")
small="embed_dim=96 depth=4 feature_size=8 decoder_embed_dim=96 decoder_depth=2"
short="loss=dice_ce schedule=cosine"
case $size in
    smoke) device=cpu phantom=tiny unlabeled=4 train=5 test=3
        settings="embed_dim=24 depth=2 feature_size=4 decoder_embed_dim=24 decoder_depth=1 $short
            num_epochs=2 iterations_per_epoch=2 val_iterations_per_epoch=1 batch_size=2
            pretraining.num_epochs=2" ;;
    cpu) device=cpu phantom=small unlabeled=200 train=50 test=50
        settings="$small num_strides=3 $short lr=0.001 batch_size=2
            num_epochs=10 iterations_per_epoch=50 val_iterations_per_epoch=4
            pretraining.num_epochs=20 pretraining.lr=0.001" ;;
    gpu) device=cuda phantom=medium unlabeled=1000 train=50 test=200
        settings="encoder=small $short lr=0.0003 batch_size=2
            num_epochs=100 iterations_per_epoch=50 val_iterations_per_epoch=5
            pretraining.num_epochs=60 pretraining.lr=0.0003 pretraining.batch_size=8" ;;
    paper) device=cuda phantom=large unlabeled=45374 train=1841 test=215
        settings="batch_size=2 pretraining.lr=0.00001 pretraining.schedule=constant" ;;
    *) echo "unknown size $size: smoke, cpu, gpu or paper" >&2; exit 2 ;;
esac
device=${DEVICE:-$device} seed=${SEED:-0}
unlabeled=${NUM_UNLABELED:-$unlabeled} train=${NUM_TRAIN:-$train} test=${NUM_TEST:-$test}
tissue=${TISSUE:-infarct}
# Table 1 from above: UNET, UNETR, Adaptive UNETR, AMAE + Adaptive UNETR, AMAE + UNETR. The first is
# stock nnU-Net, as long as the others.
trainers=${TRAINERS:-nnUNetTrainerShort AMAETrainerUNETRNoPretraining AMAETrainerNoPretraining
    AMAETrainer AMAETrainerUNETR}

export nnUNet_raw=$work/raw nnUNet_preprocessed=$work/preprocessed nnUNet_results=$work/results
export nnUNet_extTrainer=$here/stock_trainer${nnUNet_extTrainer:+:$nnUNet_extTrainer}
export OMP_WAIT_POLICY=PASSIVE
mkdir -p "$nnUNet_raw" "$nnUNet_preprocessed" "$nnUNet_results" "$work/logs"
cd "$work"

once() { # NAME COMMAND...: run a stage once, with its output in logs/NAME.log
    local name=$1; shift
    if [ -e "logs/$name.done" ]; then return; fi
    echo "[$(date +%T)] $name: $*"
    "$@" >> "logs/$name.log" 2>&1 || { tail -n 5 "logs/$name.log"; exit 1; }
    touch "logs/$name.done"
}

few="--contrasts ADC TRACE T2"
for split in "unlabeled $unlabeled" "train $train $few" "test $test $few"; do
    read -r name number options <<< "$split"
    # shellcheck disable=SC2086
    once "phantom_$name" amae-nnunet-phantom -o "studies/$name" --split "$name" \
        --num_cases "$number" --size "$phantom" --seed "$seed" --label "$tissue" $options
done

cat > Phantom.json <<JSON
{"name": "Phantom", "description": "Synthetic studies, the contrasts of the fine-tuning",
 "contrasts": {"ADC": ["ADC.nii.gz"], "TRACE": ["TRACE.nii.gz"], "T2": ["T2.nii.gz"]},
 "required": ["ADC", "TRACE"],
 "label": {"patterns": ["seg.nii.gz"], "labels": {"background": 0, "$tissue": 1}}}
JSON
once convert_train amae-nnunet-convert -i studies/train -d 501 -n Phantom -t Phantom.json
once convert_test amae-nnunet-convert -i studies/test -d 501 -n Phantom -t Phantom.json --split test
once convert_unlabeled amae-nnunet-convert -i studies/unlabeled -d 502 -n More -t Infarct \
    --split unlabeled
once plan nnUNetv2_plan_and_preprocess -d 501 -c 3d_fullres --verify_dataset_integrity \
    -npfp 2 -np 2
# shellcheck disable=SC2086
once configure amae-nnunet-configure 501 3d_fullres --name tables $settings
model="501 tables -p AMAEPlans"
processes=3
if [ "$device" = cpu ]; then # on few cores nnU-Net is fastest without worker processes
    export nnUNet_n_proc_DA=0 nnUNet_def_n_proc=1
    processes=0
fi

once preprocess nnUNetv2_preprocess -d 501 -plans_name AMAEPlans -c tables -np 1
# The labelled cases of fold 0's validation are left out, as the test cases are.
# shellcheck disable=SC2086
once pretrain amae-nnunet-pretrain $model -f 0 --unlabeled 502 -device "$device" --c
for trainer in $trainers; do
    # shellcheck disable=SC2086
    once "train_$trainer" nnUNetv2_train 501 tables 0 -p AMAEPlans -tr "$trainer" \
        -device "$device" --c
done

# Tables 1, 2 (T2 withheld) and 3 (Wilcoxon), in evaluation/report.html and results.json.
if [ -n "${trainers// /}" ]; then
    # shellcheck disable=SC2086
    once evaluate amae-nnunet-evaluate -d 501 -c tables -p AMAEPlans -f 0 -tr $trainers --drop T2 \
        -o evaluation -device "$device" --disable_tta -np "$processes"
    sed -n '/^mean Dice/,$p' logs/evaluate.log
fi
