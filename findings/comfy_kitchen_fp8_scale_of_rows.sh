#!/usr/bin/env bash
# comfy-kitchen 0.2.40 (torch 2.13.0, triton 3.6.0, CPU with Triton's interpreter): fp8 weights with a scale for each row
# are read in three ways. dequantize_per_tensor_fp8 of the eager backend multiplies each row by its own scale, that of the
# Triton backend multiplies all rows by the first one and says nothing, that of the CUDA backend asserts that there is one
# scale (read in its source, backends/cuda/__init__.py:629). TensorCoreFP8Layout accepts such scales in all of them.
# So a file with such scales gives right pictures on a CPU and an error or wrong pictures on a GPU: write one scale a weight.
# Seen 2026-11-28: eager [1.0, 100.0] triton [1.0, 1.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" \
  torch==2.13.0 comfy-kitchen==0.2.40 numpy==2.4.6
python3 -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target "$folder" triton==3.6.0
cat > "$folder/run.py" <<'PY'
import torch
from comfy_kitchen.backends.eager.quantization import dequantize_per_tensor_fp8 as eager
from comfy_kitchen.backends.triton.quantization import dequantize_per_tensor_fp8 as kernel

codes = torch.ones(2, 256).to(torch.float8_e4m3fn)
scale = torch.tensor([[1.0], [100.0]])
print("eager", eager(codes, scale, torch.float32)[:, 0].tolist(), "triton", kernel(codes, scale, torch.float32)[:, 0].tolist())
PY
seen=$(PYTHONPATH="$folder" TRITON_INTERPRET=1 python3 "$folder/run.py")
echo "$seen"
[ "$seen" = "eager [1.0, 100.0] triton [1.0, 1.0]" ]
