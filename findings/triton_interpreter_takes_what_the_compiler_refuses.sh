#!/usr/bin/env bash
# Triton 3.6.0: its interpreter (TRITON_INTERPRET=1, torch 2.13.0, CPU) runs a kernel that its compiler refuses.
# Behaviour: a loop over tl.static_range sets a tl.constexpr variable anew in every turn. Interpreted, the kernel runs and gives the
# right number; compiled (for sm_90, which needs no GPU) it ends in a CompilationError. So a kernel that is tested in the interpreter
# alone may never have compiled.
# Seen 2026-11-28: interpreter 3 compiler CompilationError: constexpr cannot be reassigned
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" torch==2.13.0 numpy==2.4.6
python3 -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target "$folder" triton==3.6.0
cat > "$folder/kernel.py" <<'PY'
import triton
import triton.language as tl


@triton.jit
def kernel(target):
    total = 0
    for number in tl.static_range(2):
        width: tl.constexpr = number + 1
        total += width
    tl.store(target, total)
PY
cat > "$folder/interpreted.py" <<'PY'
import torch
from kernel import kernel

made = torch.zeros(1, dtype=torch.int32)
kernel[(1,)](made)
print(f"interpreter {made.item()}", end=" ")
PY
cat > "$folder/compiled.py" <<'PY'
import triton
from kernel import kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

try:
    triton.compile(ASTSource(kernel, {"target": "*i32"}), target=GPUTarget("cuda", 90, 32))
    print("compiler took it")
except triton.compiler.errors.CompilationError as error:
    said = "constexpr cannot be reassigned" if "constexpr cannot be reassigned" in str(error) else str(error)
    print(f"compiler CompilationError: {said}")
PY
export PYTHONPATH="$folder"
seen=$(TRITON_INTERPRET=1 python3 "$folder/interpreted.py" 2>"$folder/errors" && python3 "$folder/compiled.py" 2>>"$folder/errors") ||
  { cat "$folder/errors"; exit 1; }
echo "$seen"
[ "$seen" = "interpreter 3 compiler CompilationError: constexpr cannot be reassigned" ]
