#!/bin/bash
# All that issue 9 still asks a GPU, in the order of its worth. Two calls, best on one machine: an H100 or H200, 120 GB of RAM.
#
#     bash bench/memory.sh first OUT     # 455 s at most: tests, decoding, prompts, sound; approaches; budgets and the peer; fp8
#     bash bench/memory.sh second OUT    # 395 s at most: the peer and cards alone, a server within 24, 16, 12 and 8 GB, 20 prompts;
#                                        # 565 s with quantising and Q4_K
#     bash bench/memory.sh smoke OUT     # every command with the tiny model, on any computer; 5 minutes
#
# OUT: a folder for the whole outputs, one file a step. FOLDER: for weights, a tmpfs; the second call takes those of the first.
# COMFYUI: a ComfyUI source tree whose packages the Python has (for the server); NEWER: another, that pages weights itself. DIFFUSERS: a folder with diffusers in it (the peer).
# PYTHON: which to take. STEPS: names of those to run, all by default. SECONDS_IN_ALL: when to stop. Each step has a limit of its own too: a slow one costs no other's time.
# The first group runs at once, beside the writing of the weights: its results are bytes, not seconds.
what=${1:?first, second or smoke}
out=${2:?a folder for outputs}
python=${PYTHON:-python3}
folder=${FOLDER:-/dev/shm/memory}
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 PYTHONPATH=$PWD:$PYTHONPATH${DIFFUSERS:+:$DIFFUSERS}
mkdir -p "$out" "$folder/steps"
rm -f "$folder"/steps/*
shared=$folder/c/base/models/checkpoints
bf16=$shared/ltx-2.3-22b-dev.safetensors fp8=$folder/ltx-2.3-22b-dev-fp8.safetensors

run() {  # name, limit in seconds, command ...
    local name=$1 limit=$2 begin=$SECONDS left=$((${SECONDS_IN_ALL:-3600} - SECONDS))
    shift 2
    [[ " ${STEPS:-$name} " == *" $name "* ]] || return
    [ $limit -gt $left ] && limit=$left
    [ $limit -lt 15 ] && { echo "$name: no time left" >>"$folder/steps/all"; return; }
    timeout -k 5 "$limit" "$@" >"$out/$name.txt" 2>&1
    echo "$name: exit code $? after $((SECONDS - begin)) of $limit s, at $SECONDS s" >>"$folder/steps/all"
}

show() {  # name, what to look at in its output, characters of a line
    [ -f "$out/$1.txt" ] || return
    echo "== $1"
    grep -hE "$2" "$out/$1.txt" | cut -c"1-${3:-160}" | tail -45
}

bench() { local name=$1 limit=$2; shift 2; run "$name" "$limit" "$python" -m bench "$@"; }
gpu_tests() {  # name, limit, what: a test that hangs shows where
    run "$1" "$2" "$python" -m pytest --noconftest -p no:cacheprovider -o addopts= -o faulthandler_timeout=$(($2 / 2)) \
        -v -rfEs --tb=short "${@:3}"
}

case $what in
first)
    SECONDS_IN_ALL=${SECONDS_IN_ALL:-455}
    mount -o remount,size=125G /dev/shm 2>/dev/null
    bench files 110 generate_weights --monolith "$bf16" --fp8 "$fp8" &
    { gpu_tests tests 80 tests/gpu/test_pages.py -k "not goes"; gpu_tests goes 40 tests/gpu/test_pages.py -k goes; } &
    bench decode 75 decode --sizes c --frames 121,1001 --memory 4 --repeats 0 &
    bench prompts 90 text --folder "$folder/t" --holes layers --budgets stream,auto &
    run sound 60 "$python" -m bench.sound_memory &
    wait
    show tests "passed|failed|skipped|^E  |FAILED|SKIPPED"
    show goes "passed|failed|skipped|^E  |FAILED|SKIPPED|Fatal"
    show decode "^\| c|Error"
    show prompts "^\| (stream|auto)|Error|# libraries"
    show sound .
    bench approaches 125 streaming --folder "$folder/s" --bf16 "$bf16" --only loads,approaches
    show approaches "^ranges|^component|^bf16, |^first load|Error" 250
    bench rows 260 streaming --folder "$folder/s" --bf16 "$bf16" --only bf16,peer,cards
    show rows "^bf16|^peer|Error" 205
    bench fp8 120 streaming --folder "$folder/s" --fp8 "$fp8" --only fp8
    show fp8 "^ranges|^component|^fp8|Error" 205
    rm -rf "$folder/s" "$folder/t" "$fp8"  # the rest is for the second call
    ;;
second)
    SECONDS_IN_ALL=${SECONDS_IN_ALL:-395}
    mount -o remount,size=125G /dev/shm 2>/dev/null
    [ -f "$bf16" ] || bench files 60 generate_weights --monolith "$bf16"
    bench copies 30 small-copies
    show copies .
    gpu_tests pages 80 tests/gpu/test_pages.py -k "not goes"
    gpu_tests goes 40 tests/gpu/test_pages.py -k goes
    show pages "passed|failed|skipped|^E  |FAILED|SKIPPED" 300
    show goes "passed|failed|skipped|^E  |FAILED|SKIPPED|Fatal" 300
    bench rows2 170 streaming --folder "$folder/s" --bf16 "$bf16" --only peer,cards
    show rows2 "^bf16|^peer|Error" 205
    bench server 330 comfy --comfyui "${COMFYUI:?a ComfyUI source tree}" --folder "$folder/c" --only short,twenty --seconds 290
    show server "^# |rows, |Error" 150
    bench quantise 50 quantise --folder "$folder/q" --layers 12 --forms Q8_0,Q4_K --save Q4_K --steps 6 --repeats 3
    show quantise "^\||bits|Error" 200
    bench q4 70 streaming --folder "$folder/s" --only q4
    show q4 "^ranges|^component|^Q4_K|Error" 205
    if [ -n "$NEWER" ]; then
        bench newer 120 comfy --comfyui "$NEWER" --folder "$folder/c" --only least
        show newer "^# |rows, |Error" 150
    fi
    gpu_tests tests 40 tests/gpu/test_quantise.py
    show tests "passed|failed|skipped|^E  |FAILED|SKIPPED"
    cp "$folder"/c/base/server-*.log "$out/" 2>/dev/null
    rm -rf "$folder/s" "$folder/q"
    ;;
smoke)
    tests=tests/goldens/tiny
    gpu_tests tests 60 tests/gpu/test_pages.py &
    bench decode 60 decode --sizes tiny --frames 9,17 --memory 4 --repeats 0 --tiny &
    wait
    show tests "passed|failed|skipped|^E  |FAILED|SKIPPED"
    show decode "^\| tiny|Error"
    bench prompts 60 text --folder "$folder/t" --tiny --words 20 --budgets stream,auto
    show prompts "^\| (stream|auto)|Error|# libraries"
    run sound 90 "$python" -m bench.sound_memory --small
    show sound .
    bench approaches 90 streaming --folder "$folder/s" --only approaches --tiny
    show approaches "^tiny, |^first load|Error" 250
    bench quantise 90 quantise --folder "$folder/q" --checkpoint "$tests/ltx-2.3-tiny.safetensors" --device cpu \
        --forms Q8_0,Q4_K --size tiny --run tiny --steps 1 --text 8 --repeats 1 --save Q4_K
    show quantise "^\||bits|Error" 200
    if [ -n "$COMFYUI" ]; then
        bench server 400 comfy --comfyui "$COMFYUI" --folder "$folder/c" --tiny --cpu --only short,twenty --seconds 300
        show server "^# |rows, |Error" 150
    fi
    rm -rf "$folder"/[a-z]
    ;;
*)
    echo "first, second or smoke, not $what" >&2
    exit 2
    ;;
esac
echo "== steps"
cat "$folder/steps/all"
df -h /dev/shm | tail -1
grep MemTotal /proc/meminfo
