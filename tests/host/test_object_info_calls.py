"""/object_info touches no model folder: what its thread asks of the disk while all schemas are built."""
from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.overlay import write_sparse
from tools.host import clean_environment
from tools.install import FRONT_END, Place

LORA = {"diffusion_model.transformer_blocks.0.attn1.to_q.lora_A.weight": ("BF16", (8, 4096)),
        "diffusion_model.transformer_blocks.0.attn1.to_q.lora_B.weight": ("BF16", (4096, 8))}
FILES = 20


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not there to count calls with")
def test_object_info_asks_nothing_of_the_folders(tmp_path: Path) -> None:
    comfy = Place(ROOT).comfy(FRONT_END)
    if not (comfy.source / "main.py").exists():
        pytest.skip(f"No ComfyUI in {comfy.source}: `python3 run.py test` installs it.")
    for number in range(FILES):
        write_sparse(tmp_path / "loras" / f"style-{number:02}.safetensors", LORA)
    log, script = tmp_path / "trace", Path(__file__).with_name("schemas_in_process.py")
    done = subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=%file,getdents64", "-y", "-o", str(log), str(comfy.python), str(script),
         str(comfy.source), str(ROOT), str(tmp_path)],
        check=False, capture_output=True, text=True, env=clean_environment(), cwd=comfy.source, timeout=500)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"nodes": 31, "loras": FILES}
    lines = log.read_text(errors="replace").splitlines()
    begin, end = (next(number for number, line in enumerate(lines) if f'loras/{mark}"' in line)
                  for mark in ("begin", "end"))
    thread = lines[begin].split()[0]
    asked = [line for line in lines[begin + 1:end] if line.split()[0] == thread and str(tmp_path) in line]
    assert asked == []
    assert sum(str(tmp_path / "loras") in line for line in lines) > FILES  # the look itself is seen
