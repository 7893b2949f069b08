#!/usr/bin/env bash
# comfyui-workflow-templates-json 0.1.123: an LTX-2.3 template carries, besides the graph, the API prompt of some earlier
# run under extra.prompt, whose weight files are not among those that the template offers to download.
# Behaviour: video_ltx2_3_i2v.json names a vocoder and a Gemma file of a developer's machine there. A tool that collects
# weight files by searching the whole JSON finds files that nobody can get; only properties.models lists what is offered.
# Seen 2026-11-27: the line printed below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder" \
  comfyui-workflow-templates-json==0.1.123
cat > "$folder/run.py" <<'PY'
import json
import re
import sys
from pathlib import Path

[path] = Path(sys.argv[1]).rglob("video_ltx2_3_i2v.json")
graph = json.loads(path.read_text(encoding="utf-8"))
prompt = json.dumps(graph.get("extra", {}).get("prompt", {}))
offered = {entry["name"] for entry in map(json.loads, re.findall(r'\{[^{}]*"directory"[^{}]*\}', json.dumps(graph)))
           if "url" in entry}
named = {name.rsplit("/", 1)[-1] if "/model" not in name else name
         for name in re.findall(r'"([^"]+\.safetensors)"', prompt)}
print("named in extra.prompt, not offered:", "; ".join(sorted(named - offered)))
PY
seen=$(python3 "$folder/run.py" "$folder" 2>&1)
echo "$seen"
[ "$seen" = "named in extra.prompt, not offered: gemma-3-12b-it-qat-q4_0-unquantized_readout_proj/model/model.safetensors; ltx-av-step-1751000_vocoder_24K.safetensors" ]
