"""Programs that run on several ranks at once: fresh processes, gloo, CPU; what each rank returns comes back."""
from __future__ import annotations

import importlib
import os
import subprocess
import sys
import uuid
from pathlib import Path

import torch

from tests.support.tiny_model import ROOT, environment


def run_ranks(program: str, size: int, folder: Path, *arguments: str, seconds: float = 300) -> list[object]:
    """Run "module:function" as function(world, *arguments) on so many ranks; what they return, by rank."""
    meeting = folder / f"meeting-{uuid.uuid4().hex}"
    started = []
    for rank in range(size):
        command = [sys.executable, "-m", "tests.support.ranks", program, str(rank), str(size), str(meeting), *arguments]
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True))
    told = [process.communicate(timeout=seconds) for process in started]
    for process, (_, errors) in zip(started, told, strict=True):
        assert process.returncode == 0, errors[-4000:]
    return [torch.load(f"{meeting}.{rank}", weights_only=False) for rank in range(size)]


def main() -> None:
    """One rank."""
    program, rank, size, meeting, *arguments = sys.argv[1:]
    from ltx23_core.parallel.world import World
    torch.set_num_threads(1)
    module, _, name = program.partition(":")
    world = World.join(int(rank), int(size), torch.device("cpu"), Path(meeting))
    with torch.no_grad():
        made = getattr(importlib.import_module(module), name)(world, *arguments)
    torch.save(made, f"{meeting}.{rank}")
    world.close()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads have nothing more to say


if __name__ == "__main__":
    main()
