#!/usr/bin/env bash
# nodesafe 0.6.0 (a scanner of ComfyUI custom nodes): a pack of one file whose only call is re.compile of a fixed pattern.
# Behaviour: verdict "malicious", score 0.85, confidence "high", recommendation "do_not_install", for one finding: the text `compile(` of
# "re.compile(" is taken for the builtin. Without that line the same pack is "clean". Whoever publishes a pack has to explain the verdict.
# Seen 2026-11-28: with malicious 0.85 high do_not_install, without clean
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder/site" nodesafe==0.6.0
mkdir "$folder/with" "$folder/without"
printf '"""Looks for words in a text."""\nimport re\n\nNODE_CLASS_MAPPINGS: dict = {}\n' | tee "$folder/with/__init__.py" > "$folder/without/__init__.py"
echo 'WORDS = re.compile("[a-z]+")' >> "$folder/with/__init__.py"
scan() { PYTHONPATH="$folder/site" HOME="$folder" python3 "$folder/site/bin/nodesafe" scan --format json "$folder/$1" 2>/dev/null; }
seen="with $(scan with | python3 -c 'import json, sys
made = json.load(sys.stdin)
verdict = made["verdict"]
print(verdict["label"], verdict["score"], verdict["confidence"], made["recommendation"])'), without $(scan without |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["verdict"]["label"])')"
echo "$seen"
[ "$seen" = "with malicious 0.85 high do_not_install, without clean" ]
