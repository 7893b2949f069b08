#!/usr/bin/env bash
# Triton 3.6.0's interpreter (TRITON_INTERPRET=1, torch 2.13.0, CPU) cuts float32 to bfloat16 where a GPU rounds to nearest.
# Behaviour: 1 + 2^-8 + 2^-10 lies above the middle of the bfloat16 numbers 1 and 1.0078125. Stored to a bfloat16 tensor, the
# interpreter gives 1.0; torch's own cast (and a compiled kernel) gives 1.0078125. Errors of a kernel measured in the
# interpreter against float64 are therefore about twice those of the same kernel on a device.
# Seen 2026-11-27: interpreter 1.0 torch 1.0078125
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" torch==2.13.0 numpy==2.4.6
python3 -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target "$folder" triton==3.6.0
cat > "$folder/run.py" <<'PY'
import torch
import triton
import triton.language as tl


@triton.jit
def copy(source, target):
    tl.store(target, tl.load(source))


value = torch.tensor([1 + 2**-8 + 2**-10], dtype=torch.float32)
made = torch.zeros(1, dtype=torch.bfloat16)
copy[(1,)](value, made)
print(f"interpreter {made.item()} torch {value.bfloat16().item()}")
PY
seen=$(PYTHONPATH="$folder" TRITON_INTERPRET=1 python3 "$folder/run.py" 2>"$folder/errors") || { cat "$folder/errors"; exit 1; }
echo "$seen"
[ "$seen" = "interpreter 1.0 torch 1.0078125" ]
