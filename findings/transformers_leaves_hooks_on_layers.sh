#!/usr/bin/env bash
# transformers 5.23.0 (torch 2.13.0, CPU): one pass of Gemma 3 with output_hidden_states=True leaves a forward hook on every
# decoder layer for good.
# Behaviour: before the pass no layer has a hook, after it each has one, and it stays. Code that takes any hook on a layer for
# a sign of offloading (or counts hooks to see whether a model is in its plain state) is misled after the first prompt.
# Seen 2026-11-27: before [0, 0] after [1, 1]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import torch
from transformers import Gemma3TextConfig, Gemma3TextModel

config = Gemma3TextConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                          num_attention_heads=2, num_key_value_heads=1, head_dim=16)
model = Gemma3TextModel(config).eval()
before = [len(layer._forward_hooks) for layer in model.layers]
with torch.no_grad():
    model(input_ids=torch.arange(5)[None], output_hidden_states=True)
print("before", before, "after", [len(layer._forward_hooks) for layer in model.layers])
PY
seen=$(PYTHONPATH="$folder" python3 "$folder/run.py" 2>"$folder/errors") || { cat "$folder/errors"; exit 1; }
echo "$seen"
[ "$seen" = "before [0, 0] after [1, 1]" ]
