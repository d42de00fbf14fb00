#!/usr/bin/env bash
# Check the GPU code on a machine with a GPU and no network, in the project's top folder:
#   bash benchmarks/gpu_check.sh [FOLDER]
# FOLDER (.gpu) is what `gpu_check.py --prepare` wrote. Results go to $OUT, or to FOLDER/out. Ten minutes at most.
set -euo pipefail
folder=$(realpath "${1:-.gpu}")
out=${OUT:-$folder/out}
mkdir -p "$out"
python3 -m pip install --quiet --no-index --no-deps --upgrade --target "$folder/site" "$folder"/wheels/*.whl
export PYTHONPATH="$folder/site:$PWD" PYTHONUNBUFFERED=1
nvidia-smi --query-gpu=name,driver_version,clocks.sm,temperature.gpu --format=csv,noheader
timeout 80 python3 -m pytest -q -p no:cacheprovider tests/flow/methods/tvl1/test_tvl1_torch.py -k test_a_gpu || true
python3 benchmarks/gpu_check.py --data "$folder" --results "$out/gpu.jsonl" 2> "$out/log.txt" || true
python3 benchmarks/gpu_check.py --report "$out/gpu.jsonl" > "$out/gpu.md"
nvidia-smi --query-gpu=clocks.sm,clocks_throttle_reasons.active,temperature.gpu --format=csv,noheader
