#!/usr/bin/env bash
# What only a GPU can show, on one GPU and real gliomas: flash attention against the loop, the
# benchmark's tables in bfloat16, steps of a pre-training with and without its loader, a pre-training
# of ViT-Base on the full grid, its pictures of four patients it never saw, and a training from it
# beside one without it.
#
#   scripts/measure_gpu.sh DATA_DIR [WORK_DIR]
#
# DATA_DIR holds one folder a patient, as for run_lgg.sh. WORK_DIR (default ./gpu) receives logs,
# pictures and numbers in report/; where nnU-Net's folders in it hold the planned data set already, it
# is used. A stage that fails is told, and the next one runs. MINUTES (default 2) of pre-training,
# EPOCHS (default 3) of 100 iterations of training; CONFIGURATION is another one that is planned;
# DEVICE=cpu tries the script.
set -uo pipefail

data=$1 work=$(realpath -m "${2:-gpu}") here=$(dirname "$(realpath "$0")")
device=${DEVICE:-cuda} configuration=${CONFIGURATION:-base} workers=${WORKERS:-$(nproc)}
export nnUNet_raw=$work/raw nnUNet_preprocessed=$work/preprocessed nnUNet_results=$work/results
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
report=$work/report folder=$nnUNet_preprocessed/Dataset501_LGG begin=$SECONDS
mkdir -p "$nnUNet_raw" "$folder" "$nnUNet_results" "$report"

stage() { # NAME COMMAND...: with its output in report/NAME.log
    local name=$1; shift
    "$@" > "$report/$name.log" 2>&1
    echo "$name: exit code $?, done after $((SECONDS - begin)) s" | tee -a "$report/stages.txt"
}

amae() { # COMMAND ARGUMENTS... on the configuration that is measured
    local command=$1; shift
    "amae-nnunet-$command" 501 "$configuration" -p AMAEPlans "$@"
}

plan() {
    amae-nnunet-convert -i "$data" -d 501 -n LGG -t LGG || return
    nnUNetv2_plan_and_preprocess -d 501 -c 3d_fullres --no_pp || return
    amae-nnunet-configure 501 3d_fullres --name "$configuration" pretraining.slot_budget=12 \
        pretraining.iterations_per_epoch=250 num_epochs="${EPOCHS:-3}" iterations_per_epoch=100 \
        val_iterations_per_epoch=5
}

preprocess() { # nnU-Net copies the labels when it plans and preprocesses in one go
    [ -d "$folder/gt_segmentations" ] || cp -r "$nnUNet_raw/Dataset501_LGG/labelsTr" "$folder/gt_segmentations"
    nnUNetv2_preprocess -d 501 -plans_name AMAEPlans -c "$configuration" -np "$(((workers + 1) / 2))"
}

train() { nnUNetv2_train 501 "$configuration" 0 -tr "$1" -p AMAEPlans -device "$device"; }

[ -e "$folder/AMAEPlans.json" ] || stage plan plan
# Four patients, two of each site, are held out of both trainings.
python3 - "$folder/splits_final.json" "$nnUNet_raw/Dataset501_LGG/labelsTr" <<'PYTHON'
import json, pathlib, sys
cases = sorted(path.name[:-7] for path in pathlib.Path(sys.argv[2]).glob("*.nii.gz"))
held = ["TCGA_CS_4941_19960909", "TCGA_CS_6669_20020102", "TCGA_HT_7684_19950816", "TCGA_HT_8018_19970411"]
split = {"train": [case for case in cases if case not in held], "val": held}
pathlib.Path(sys.argv[1]).write_text(json.dumps([split]))
PYTHON
stage preprocess preprocess &
stage attention python3 -m pytest -q -p no:cacheprovider "$here/../tests/networks/test_attention.py" -k flash_attention_gives
[ "$device" = cpu ] || stage tables python3 "$here/benchmark_pretraining.py" --device cuda --studies 16 --dtype bfloat16
wait
stage loop python3 "$here/benchmark_loop.py" 501 "$configuration" -p AMAEPlans -device "$device" \
    --steps "${STEPS:-100}" --workers "$workers"
step=$(sed -n 's/^| with the loader | \([^ ]*\) .*/\1/p' "$report/loop.log")  # ms
epochs=$(python3 -c "print(max(2, int(${MINUTES:-2} * 60_000 / ${step:-100} / 250)))")
stage configure amae configure pretraining.num_epochs="$epochs"
export nnUNet_n_proc_DA=$workers
stage pretrain amae pretrain -f 0 -device "$device"
results=$nnUNet_results/Dataset501_LGG
pretrained=$results/AMAEPretraining__AMAEPlans__$configuration/fold_0
cp "$pretrained"/*.png "$pretrained"/*.jsonl "$report"
export nnUNet_n_proc_DA=$(((workers + 1) / 3))
stage show amae-nnunet-show "$pretrained/checkpoint_final.safetensors" TCGA_CS_6669_20020102 -o "$report" -device "$device" &
stage AMAETrainerNoPretraining train AMAETrainerNoPretraining &
stage AMAETrainer train AMAETrainer
wait
for trainer in AMAETrainer AMAETrainerNoPretraining; do
    cp "$results/${trainer}__AMAEPlans__$configuration/fold_0/validation/summary.json" "$report/$trainer.json"
    cp "$results/${trainer}__AMAEPlans__$configuration/fold_0/progress.png" "$report/$trainer.png"
done
if [ "$device" = cuda ] && [ -z "${QUICK:-}" ]; then
    stage compiled python3 "$here/benchmark_pretraining.py" --device cuda --studies 16 --dtype bfloat16 \
        --parts peers --counts 4 mixed --compile
    stage unetr python3 "$here/benchmark_unetr.py" --device cuda --dtype bfloat16 --parts training
fi
