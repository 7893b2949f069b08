"""Changes of layout, stated with einops: which number goes where, the order in memory, and nowhere in a step."""
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ltx23_core.models.text.feature_extractor import normalize_and_concat
from ltx23_core.models.video_vae.layers import depth_to_space, patchify, space_to_depth, unpatchify

ROOT = Path(__file__).resolve().parents[3]
# What runs at every step.
STEP = ("models/transformer", "models/text/step.py", "ops", "sampling/denoiser.py", "sampling/combine.py",
        "sampling/voice.py", "sampling/solvers.py", "sampling/solve.py")
STRIDES = [(1, 2, 2), (2, 1, 1), (2, 2, 2)]
FORMATS = [torch.contiguous_format, torch.channels_last_3d]


def video(*shape: int, memory_format: torch.memory_format) -> torch.Tensor:
    return torch.randn(shape).to(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("stride", STRIDES)
def test_space_goes_to_depth_and_back(stride, memory_format):
    t, h, w = stride
    x = video(2, 3, 4 * t, 3 * h, 5 * w, memory_format=memory_format)
    deep = space_to_depth(x, stride)
    assert deep.shape == (2, 3 * t * h * w, 4, 3, 5)
    assert deep.is_contiguous(memory_format=torch.channels_last_3d)
    channel = ((2 * t + t - 1) * h + h - 1) * w  # colour 2, the last frame and row of its cell, column 0
    assert torch.equal(deep[:, channel], x[:, 2, t - 1::t, h - 1::h, ::w])
    back = depth_to_space(deep, stride)
    assert torch.equal(back, x)
    assert back.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_pixels_become_patches_and_back(memory_format):
    pixels = video(2, 3, 5, 8, 12, memory_format=memory_format)
    patches = patchify(pixels, 4)
    assert patches.shape == (2, 48, 5, 2, 3)
    assert patches.is_contiguous(memory_format=torch.channels_last_3d)
    # The column stands before the row, as officially: colour 1, column 2, row 3.
    assert torch.equal(patches[:, (1 * 4 + 2) * 4 + 3], pixels[:, 1, :, 3::4, 2::4])
    back = unpatchify(patches, 4)
    assert torch.equal(back, pixels)
    assert back.is_contiguous()


def test_features_are_channel_major():
    states = torch.ones(3, 1, 2, 5) * torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1, 1)
    states[:, :, :, 4] *= 2
    joined = normalize_and_concat(states)
    assert joined.shape == (1, 2, 15)
    assert joined[0, 0, :3].sign().tolist() == [1, -1, 1]
    assert joined[0, 0, 12:].abs().min() > joined[0, 0, :12].abs().max()


def imported(file: Path) -> set[str]:
    tree = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {node.module for node in tree if isinstance(node, ast.ImportFrom) and not node.level}


def test_a_step_calls_no_einops():
    """It parses a pattern or looks it up at each call: microseconds, but thousands of times a step."""
    library = ROOT / "ltx23_core"
    files = []
    for part in STEP:
        files += [library / part] if part.endswith(".py") else (library / part).rglob("*.py")
    assert len(files) > 12
    assert [file.name for file in files if "einops" in imported(file)] == []
    assert "einops" in imported(library / "sampling" / "state.py")


def test_importing_the_library_imports_neither_torch_nor_einops():
    code = "import sys, ltx23_core; print([name for name in ('torch', 'einops') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
