#!/bin/bash
# All that issue 9 still asks a GPU, in the order of its worth. Two calls on one machine with an H100 or H200, 120 GB of RAM:
#
#     bash bench/memory.sh first OUT     # about 390 s: gpu tests, approaches, prompts, decoding, masks, sound, Q4_K
#     bash bench/memory.sh second OUT    # about 330 s: a server within 24, 16, 12 and 8 GB, 20 prompts in a row, the peer
#     bash bench/memory.sh smoke OUT     # every command with the tiny model, on any computer; 2 minutes
#
# OUT: a folder for the whole outputs. Ends with one line a step: its exit code and seconds, and what to look at.
# COMFYUI: a ComfyUI source tree whose packages the Python has (for the server). DIFFUSERS: a folder with diffusers in it (the peer).
# PYTHON: which to take. Each step has a limit of its own, so that a slow one costs nobody else's time.
what=${1:?first, second or smoke}
out=${2:?a folder for outputs}
python=${PYTHON:-python3}
folder=${FOLDER:-/dev/shm/memory}
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 PYTHONPATH=$PWD:$PYTHONPATH${DIFFUSERS:+:$DIFFUSERS}
mkdir -p "$out" "$folder"
lines=()

step() {  # name, limit in seconds, what to look at in its output, command ...
    local name=$1 limit=$2 look=$3 begin=$SECONDS
    shift 3
    timeout "$limit" "$@" >"$out/$name.txt" 2>&1
    local code=$?
    lines+=("$name: exit code $code after $((SECONDS - begin)) of $limit s")
    echo "== $name"
    grep -E "$look" "$out/$name.txt" | cut -c1-330 | tail -40
}

gpu_tests() { step tests 80 "passed|failed|skipped|^E  |FAILED|SKIPPED" "$python" -m pytest --noconftest -p no:cacheprovider -o addopts= -q -rfEs --tb=short "$@"; }
bench() { local name=$1 limit=$2 look=$3; shift 3; step "$name" "$limit" "$look" "$python" -m bench "$@"; }

grow() { step grow 60 . "$python" -m bench.grow 100; }

case $what in
first)
    grow
    gpu_tests tests/gpu/test_pages.py tests/gpu/test_quantise.py
    bench approaches 160 "^bf16, |^first load|BITS|Error" streaming --folder "$folder/s" --only shares,approaches
    bench decode-4gb 75 "^\||dB|Error" decode --sizes c --frames 121,1001 --memory 4 --repeats 0
    bench prompts 90 "^\||Error|# libraries" text --folder "$folder/t" --holes layers --budgets stream,auto
    step masked 40 "." "$python" -m bench.masked
    step sound 40 "." "$python" -m bench.sound_memory
    bench q4 90 "^\||bits|Error" quantise --folder "$folder/q" --layers 12 --forms Q8_0,Q4_K --save Q4_K
    ;;
second)
    grow
    step server 400 "^\||rows, |^peer|^bf16" "$python" -m bench comfy --comfyui "${COMFYUI:?a ComfyUI source tree}" \
        --folder "$folder/c" --only short,twenty,rows --seconds 300
    ;;
smoke)
    tests=tests/goldens/tiny
    gpu_tests tests/gpu/test_pages.py
    bench approaches 60 "^tiny, |^first load|BITS|Error" streaming --folder "$folder/s" --only shares,approaches --tiny
    bench decode-4gb 60 "^\||dB|Error" decode --sizes tiny --frames 9,17 --memory 4 --repeats 0 --tiny
    bench prompts 60 "^\||Error|# libraries" text --folder "$folder/t" --tiny --words 20 --budgets stream,auto
    step masked 60 "." "$python" -m bench.masked --small
    step sound 60 "." "$python" -m bench.sound_memory --small
    bench q4 60 "^\||bits|Error" quantise --folder "$folder/q" --checkpoint "$tests/ltx-2.3-tiny.safetensors" --device cpu \
        --forms Q8_0,Q4_K --size tiny --run tiny --steps 1 --text 8 --repeats 1 --save Q4_K
    if [ -n "$COMFYUI" ]; then
        step server 300 "^\||rows, " "$python" -m bench comfy --comfyui "$COMFYUI" --folder "$folder/c" --tiny --cpu \
            --only budgets --seconds 200
    else
        lines+=("server: left out, COMFYUI names no source tree")
    fi
    ;;
*)
    echo "first, second or smoke, not $what" >&2
    exit 2
    ;;
esac
rm -rf "$folder"
echo "== steps"
printf '%s\n' "${lines[@]}"
