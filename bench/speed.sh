#!/bin/bash
# What issues 10 and 14 ask a GPU, each step within its own limit: bench/speed.sh one|ends|two|smoke OUT
#   one: one H100 or H200, about 370 s.   ends: the same with 120 GB of RAM, about 320 s.   two: two GPUs of one host, about 430 s.
#   smoke: every command small, on a CPU, 190 s.
# DIFFUSERS: a folder with the package; WHEELS: folders of further ones (PyAV, FlashAttention 3), joined by ":".
set -u
what=$1 out=$2; shift 2
export PYTHONPATH=$PWD:${DIFFUSERS:-}:${WHEELS:-} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
mkdir -p "$out"
ASYNC="env PYTORCH_CUDA_ALLOC_CONF=backend:cudaMallocAsync LTX23_GRAPHS=1"
TEST="python3 -m pytest --noconftest -p no:cacheprovider -o addopts= -q -rfEs --tb=short"
PY=${PYTHON:-python3}
W=${FOLDER:-/dev/shm/speed}

step() {  # name, limit in seconds, command
  local name=$1 limit=$2 begin; shift 2
  begin=$(date +%s)
  timeout "$limit" "$@" >"$out/$name.txt" 2>&1
  echo "== $name: rc $?, $(( $(date +%s) - begin )) s of $limit"
  grep -hE "^\| |^RAM |^# \{|TFLOP|passed|failed|^FAILED|^E  |Error|not complete" "$out/$name.txt" | grep -v "^| ---" | cut -c1-230 | tail -"${LINES_SHOWN:-26}"
}

weights() {  # a whole set of random files: 46 GB and 23.5 GB with their true sizes, or small ones
  mkdir -p "$W"
  $PY -m bench generate_weights --monolith "$W/ltx.safetensors" --gemma "$W/gemma" --lora "$W/lora.safetensors" \
    --upsampler "$W/up.safetensors"
}

run_files() { $PY -m bench end-to-end --checkpoint "$W/ltx.safetensors" --text-encoder "$W/gemma" --upsampler "$W/up.safetensors" \
  --distilled-lora "$W/lora.safetensors" "$@"; }
export -f weights run_files; export W PY

case $what in
one)
  # The ways (ops/pick.WAYS) beside the default, the peer and fp8 in one process: the table decides the defaults.
  step forward-a 110 $PY -m bench transformer --sizes a --conditioned --repeats 5 --heat 1.5 --guided-sizes a --guided-repeats 3 \
    --peers diffusers,gates-apart,gelu-kernel,whole-tables,fp8 --out "$out/a.json"
  step forward-c 130 $PY -m bench transformer --sizes c --repeats 3 --heat 1 --guided-sizes c \
    --peers diffusers,gates-apart,gelu-kernel,sound-aside,whole-tables,flash3,fp8 --out "$out/c.json"
  step forward-b 60 $PY -m bench transformer --sizes b --repeats 3 --heat 1 --peers diffusers,sound-aside,fp8 --out "$out/b.json"
  step ops 40 $PY -m bench ops --tokens 6144,32640
  step graphs 40 $ASYNC $TEST tests/gpu/test_graphs.py -k "bf16 or both_allocators"
  step decode 30 $PY -m bench decode --sizes c --repeats 2
  ;;
ends)
  step grow 60 $PY -m bench.grow 100
  step weights 150 bash -c weights
  step end-a 90 bash -c "run_files --recipe one_stage --sizes a --steps 30 --runs 2"
  step end-c 80 bash -c "run_files --recipe distilled --sizes c --runs 2"
  rm -rf "$W" ;;
two)
  step grow 90 $PY -m bench.grow 150
  step tests 110 env LTX23_WORKER_LOG=INFO $TEST -x -s tests/gpu/test_parallel.py
  step guided-b 90 $PY -m bench parallel --gpus 2 --sizes b --what guided,single --pieces 1,2 --repeats 2 --out "$out/b2.json"
  step rest-b 70 $PY -m bench parallel --gpus 2 --sizes b --what decode,queue --repeats 2 --out "$out/r2.json"
  step guided-c 110 $PY -m bench parallel --gpus 2 --sizes c --what guided,single --ways "tokens,as planned" --repeats 1 --out "$out/c2.json"
  step recorded 60 $PY -m bench parallel --gpus 2 --sizes half-b --what recorded --ways "tokens,as planned" --out "$out/h2.json" ;;
smoke)
  step forward 100 $PY -m bench transformer --tiny --sizes tiny --conditioned --repeats 1 --guided-sizes tiny \
    --peers "${SMOKE_PEERS:-gates-apart,gelu-kernel,sound-aside,whole-tables,flash3,fp8}"
  step decode 60 $PY -m bench decode --tiny --sizes tiny --repeats 1
  step parallel 120 $PY -m bench parallel --tiny --gpus 2 --sizes tiny --what guided,single,decode,queue --repeats 1
  step scaling 60 $PY -m bench scaling
  step ends 120 $PY -m bench end-to-end --checkpoint tests/goldens/tiny/ltx-2.3-tiny.safetensors --text-encoder tests/goldens/tiny/gemma \
    --recipe one_stage --sizes tiny --steps 2 --runs 1 ;;
*) echo "one, ends, two or smoke"; exit 2 ;;
esac
