#!/bin/bash
# What issues 10 and 14 ask a GPU, each step within its own limit: bench/speed.sh one|ends|two|smoke OUT
#   one: one H100 or H200, about 450 s.   ends: the same with 120 GB of RAM, about 400 s.   two: two GPUs of one host, about 430 s.
#   smoke: every command small, on a CPU, 60 s.
# PACKAGES: folders with diffusers, FlashAttention 3, comfy-kitchen, PyAV, joined by ":".  BUDGET: seconds of all steps together.
# The whole output of all steps is OUT/$what.txt, written as it comes; here the end of each step's tables.
set -u
what=$1 out=$2 budget=${BUDGET:-540}
export PYTHONPATH=$PWD:${PACKAGES:-} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
mkdir -p "$out"
log=$out/$what.txt
: >"$log"
ASYNC="env PYTORCH_CUDA_ALLOC_CONF=backend:cudaMallocAsync LTX23_GRAPHS=1"
PY=${PYTHON:-python3}
TEST="$PY -m pytest --noconftest -p no:cacheprovider -o addopts= -q -rfEs --tb=short"
W=${FOLDER:-/dev/shm/speed}

step() {  # name, limit in seconds, lines of its tables to show, command
  local name=$1 limit=$2 lines=$3 begin=$SECONDS left=$((budget - SECONDS)) at own rc; shift 3
  if [ "$left" -lt "$limit" ]; then limit=$left; fi
  if [ "$limit" -lt 15 ]; then echo "== $name: not run, $left s left"; return; fi
  echo "== $name: $*" >>"$log"
  at=$(wc -l <"$log")
  timeout -k 5 "$limit" "$@" >>"$log" 2>&1 </dev/null
  rc=$? own=$(tail -n "+$((at + 1))" "$log")
  echo "== $name: rc $rc, $((SECONDS - begin)) s of $limit" | tee -a "$log"
  # The table comes last; of a step that did not reach it, the rows as they came.
  if ! grep -E "^\| " <<<"$own" | grep -v "^| ---" | cut -c1-200 | tail -"$lines" | grep .; then
    grep -E "^# [{[]" <<<"$own" | cut -c1-200 | tail -"$lines"
  fi
  grep -E "^RAM |TFLOP/s:|TB/s|GB in|passed|failed|^FAILED|^E  |Error|^# kernels|^# fp8|^# no mp4" <<<"$own" | cut -c1-200 | tail -8
}

files() {  # a whole set of random files: 46 and 23.5 GB with their true sizes; in memory of their own where that is allowed
  mkdir -p "$W"
  mount -t tmpfs -o size=100g none "$W" 2>/dev/null || df -h "$W"
  $PY -m bench generate_weights --monolith "$W/ltx.safetensors" --gemma "$W/gemma" --upsampler "$W/up.safetensors"
}
export -f files; export W PY

case $what in
one)
  # Ours, the peer and fp8 in one process; the ways (ops/pick.WAYS) beside the default decide what the default is. At c a
  # quarter of the blocks tells as much of them.
  step forward-a 170 16 $PY -m bench transformer --sizes a --conditioned --repeats 5 --heat 1 --guided-sizes a --guided-repeats 3 \
    --peers diffusers,fp8,gates-apart,gelu-kernel,sound-aside,whole-tables,cudnn --profile ours,diffusers,fp8
  step generate 50 4 $PY -m bench generate --tokens 128 --profile
  step forward-c 210 10 $PY -m bench transformer --sizes c --conditioned --repeats 3 --heat 1 --guided-sizes c --peers diffusers,fp8 \
    --profile ours,diffusers,fp8
  step forward-b 100 8 $PY -m bench transformer --sizes b --repeats 3 --heat 1 --peers diffusers,fp8
  step ways-c 60 8 $PY -m bench transformer --sizes c --layers 12 --repeats 5 --heat 1 \
    --peers cudnn,gates-apart,gelu-kernel,sound-aside,whole-tables
  step ops 60 9 $PY -m bench ops --tokens 6144,32640
  step kitchen 35 14 $PY -m bench kitchen --tokens 6144,32640
  step graphs 90 4 $ASYNC $TEST tests/gpu/test_graphs.py -k "bf16 or both_allocators"
  ;;
ends)
  step decode 70 5 $PY -m bench decode --sizes c --repeats 2
  step grow 60 1 $PY -m bench.grow 90
  step files 130 4 bash -c files
  # One work after the other, so that a limit costs the last ones alone.
  step ends 300 10 $PY -m bench end-to-end --checkpoint "$W/ltx.safetensors" --text-encoder "$W/gemma" \
    --upsampler "$W/up.safetensors" --work one_stage:a,distilled:c --matmul-dtypes default,fp8 --steps 30 --first-steps 2 --runs 2
  umount "$W" 2>/dev/null; rm -rf "$W"
  ;;
two)
  step grow 90 1 $PY -m bench.grow 150
  step tests 110 4 env LTX23_WORKER_LOG=INFO $TEST -x -s tests/gpu/test_parallel.py
  step guided-b 90 26 $PY -m bench parallel --gpus 2 --sizes b --what guided,single --pieces 1,2 --repeats 2
  step rest-b 70 26 $PY -m bench parallel --gpus 2 --sizes b --what decode,queue --repeats 2
  step guided-c 110 26 $PY -m bench parallel --gpus 2 --sizes c --what guided,single --ways "tokens,as planned" --repeats 1
  step recorded 60 26 $PY -m bench parallel --gpus 2 --sizes half-b --what recorded --ways "tokens,as planned" ;;
smoke)
  tiny=tests/goldens/tiny
  step forward 100 20 $PY -m bench transformer --tiny --sizes tiny --conditioned --repeats 1 --guided-sizes tiny \
    --peers "${SMOKE_PEERS:-gates-apart,gelu-kernel,sound-aside,whole-tables,cudnn,fp8}" --guided-peers fp8,gates-apart
  step generate 60 4 $PY -m bench generate --tiny --layers 2 --tokens 8 --prompt 20
  step kitchen 60 14 $PY -m bench kitchen --tokens 64
  step decode 60 5 $PY -m bench decode --tiny --sizes tiny --repeats 1
  step parallel 120 14 $PY -m bench parallel --tiny --gpus 2 --sizes tiny --what guided,single,decode,queue --repeats 1
  step scaling 60 20 $PY -m bench scaling
  step ends 120 10 $PY -m bench end-to-end --checkpoint $tiny/ltx-2.3-tiny.safetensors --text-encoder $tiny/gemma \
    --upsampler $tiny/ltx-2.3-tiny-spatial-upscaler-x2.safetensors --work one_stage:tiny,distilled:tiny \
    --matmul-dtypes default,fp8 --steps 2 --first-steps 1 --runs 2 ;;
*) echo "one, ends, two or smoke"; exit 2 ;;
esac
