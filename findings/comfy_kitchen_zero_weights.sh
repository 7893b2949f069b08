#!/usr/bin/env bash
# comfy-kitchen 0.2.40 (torch 2.13.0, CPU): a layer of zeros quantised to fp8 or NVFP4 is stored as NaN.
# Behaviour: TensorCoreFP8Layout.quantize of a bfloat16 tensor of zeros gives scale 0.0 and numbers that are all NaN;
# TensorCoreNVFP4Layout.quantize gives scale 0.0 and block scales that are NaN. TensorCoreMXFP8Layout gives finite numbers.
# Whoever reads such a file has to take a scale of 0 for "all zeros", or computes NaN.
# Seen 2026-11-27: fp8 scale 0.0 nan 8192 of 8192 | nvfp4 scale 0.0 nan True | mxfp8 nan False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" \
  torch==2.13.0 comfy-kitchen==0.2.40 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import torch
from comfy_kitchen.tensor import TensorCoreFP8Layout, TensorCoreMXFP8Layout, TensorCoreNVFP4Layout

zeros = torch.zeros(128, 64, dtype=torch.bfloat16)


def tensors(value):
    """Every tensor in the parameters of a quantised weight, by name."""
    return {key: item for key, item in vars(value).items() if isinstance(item, torch.Tensor)}


def has_nan(*found):
    return any(bool(t.float().isnan().any()) for t in found if t.dtype not in (torch.uint8,))


numbers, parameters = TensorCoreFP8Layout.quantize(zeros)
count = int(numbers.float().isnan().sum())
fp8 = f"fp8 scale {float(parameters.scale)} nan {count} of {numbers.numel()}"
numbers, parameters = TensorCoreNVFP4Layout.quantize(zeros)
nvfp4 = f"nvfp4 scale {float(parameters.scale)} nan {has_nan(*tensors(parameters).values())}"
numbers, parameters = TensorCoreMXFP8Layout.quantize(zeros)
mxfp8 = f"mxfp8 nan {has_nan(numbers, *tensors(parameters).values())}"
print(" | ".join((fp8, nvfp4, mxfp8)))
PY
seen=$(PYTHONPATH="$folder" python3 "$folder/run.py")
echo "$seen"
[ "$seen" = "fp8 scale 0.0 nan 8192 of 8192 | nvfp4 scale 0.0 nan True | mxfp8 nan False" ]
