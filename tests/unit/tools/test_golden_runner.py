"""The golden runner must not pass what it did not check: a made-up data set, run as `LTX23_GOLDENS=... pytest`."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[3]
Tensors = dict[str, torch.Tensor]


def write_case(folder: Path, name: str, settings: dict[str, Any], inputs: Tensors, outputs: Tensors) -> dict[str, Any]:
    """Write a case file; gives its entry of the index."""
    tensors = {f"in.{k}": v for k, v in inputs.items()} | {f"out.{k}": v for k, v in outputs.items()}
    save_file(tensors, folder / f"{name}.safetensors")
    return {"file": f"{name}.safetensors", "settings": settings, "inputs": {k: {"key": f"in.{k}"} for k in inputs},
            "outputs": {k: {"key": f"out.{k}", "tolerance": 1e-6} for k in outputs}}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], str]:
    """Case -> PASSED or FAILED, and all that pytest printed. The cases need no model."""
    folder = tmp_path_factory.mktemp("goldens") / "cases"
    folder.mkdir()
    cond, uncond, image = torch.randn(1, 5, 3), torch.randn(1, 5, 3), torch.zeros(32, 32, 3, dtype=torch.uint8)
    passes = {"cond": cond, "uncond": uncond, "perturbed": torch.zeros(1), "modality": torch.zeros(1)}
    steps = {"x": torch.full((1, 2, 2), torch.nan), "x0": torch.ones(1, 2, 2), "noise": torch.ones(1, 2, 2),
             "sigmas": torch.tensor([1.0, 0.5])}
    black = torch.full((1, 3, 1, 32, 32), -1.0)
    cases = {
        # Right, and asks for less than the handler computes elsewhere.
        "guider": write_case(folder, "guider", {"doubled": {"cfg_scale": 2.0}, "not_asked_for": {"cfg_scale": 5.0}},
                             passes, {"doubled": 2 * cond - uncond}),
        "scheduler": write_case(folder, "scheduler", {"default_tokens": 4096, "terminal": 0.1}, {},
                                {"default.steps1": torch.tensor([1.0, 0.1])}),
        "steps": write_case(folder, "steps", {"res2s_h": [0.5]}, steps, {"euler.0": torch.ones(1, 2, 2)}),
        "image_resize": write_case(folder, "image_resize", {"black": {"height": 32, "width": 32}}, {"black": image},
                                   {"black_pixels": black, "black_mask": torch.ones(1)}),
        "brand_new": write_case(folder, "brand_new", {}, {}, {"result": torch.ones(1)}),
    }
    (folder / "index.json").write_text(json.dumps({"cases": cases, "checkpoint": "none.safetensors"}))
    command = [sys.executable, "-m", "pytest", "-rA", "--color=no", "-p", "no:cacheprovider", "tests/goldens"]
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, "LTX23_GOLDENS": str(folder.parent)},
                         capture_output=True, text=True)
    found = re.findall(r"^(PASSED|FAILED|SKIPPED|ERROR)\b.*test_case\[(\w+)\]", run.stdout, re.MULTILINE)
    assert run.returncode == 1 and {name for _, name in found} == set(cases), run.stdout + run.stderr
    return {name: outcome for outcome, name in found}, run.stdout


def test_a_right_case_passes(outcomes: tuple[dict[str, str], str]) -> None:
    assert outcomes[0]["guider"] == "PASSED"


@pytest.mark.parametrize(("name", "reason"), [
    ("brand_new", "a case 'brand_new' that this runner does not know"),
    ("image_resize", "outputs never checked: ['black_mask']"),
    ("scheduler", "scheduler/default.steps1: error 1.00e-01"),
    ("steps", "steps/euler.0: error nan"),
])
def test_what_must_fail_fails(outcomes: tuple[dict[str, str], str], name: str, reason: str) -> None:
    assert outcomes[0][name] == "FAILED"
    assert reason in outcomes[1]
