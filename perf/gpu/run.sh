#!/bin/sh
# The measurements of README.md in the order of worth, each with a limit of seconds, in 7 minutes on an H200.
#     sh perf/gpu/run.sh OUT
# OUT/log.txt keeps all that was printed, OUT/*.json what was written; a step that fails does not stop the others.
OUT=${1:?a folder for what is printed}
mkdir -p "$OUT"
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
[ "$(df --output=avail -m /dev/shm | tail -1)" -gt 40000 ] && export TMPDIR=/dev/shm
BASE=${TMPDIR:-/tmp}/mistral_7b_shape
step() {
    name=$1 limit=$2 && shift 2
    echo "##### $name, $(date +%T)" | tee -a "$OUT/log.txt"
    timeout "$limit" python3 "$@" > "$OUT/step.txt" 2>&1
    echo "exit code $?" >> "$OUT/step.txt"
    cat "$OUT/step.txt" >> "$OUT/log.txt"
    grep -v -i warning "$OUT/step.txt" | tail -60 | cut -c1-400
    cp perf/results/gpu_*.json "$OUT" 2>/dev/null
}
SELECTIVE="--methods full --set gradient_checkpointing=selective --set micro_batch_tokens=4096 --set max_steps=4"
step kernels 90 perf/gpu/kernel_checks.py
step "every weight, products kept" 100 perf/gpu/pretrain.py $SELECTIVE --name selective
step "the same, compiled" 110 perf/gpu/pretrain.py $SELECTIVE --name selective_compiled --set compile=true
step "questions beside lm-eval" 170 perf/gpu/questions.py --base "$BASE"
step "light models" 200 perf/gpu/quantized.py --base "$BASE"
step "adapters" 100 perf/gpu/pretrain.py --methods lora,qlora --name adapters --set gradient_checkpointing=selective --set max_steps=4
step merging 90 perf/gpu/merge.py
step tests 150 -m pytest -q -n 12 tests/test_training_kernels.py tests/test_training_run.py tests/test_training_resume.py \
    tests/test_training_memory.py tests/test_quantized_models.py tests/test_bitsandbytes.py tests/test_finetune_qlora.py \
    tests/test_evaluate.py tests/test_merge_fused.py
rm -f "$OUT/step.txt"
