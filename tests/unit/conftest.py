"""What the unit tests share: the tiny model, described and ready."""
from __future__ import annotations

from pathlib import Path

import pytest

from ltx23_core import Overlay, Pipeline, materialize

TINY = Path(__file__).resolve().parents[1] / "goldens" / "tiny"


@pytest.fixture(scope="session")
def tiny_overlay(tmp_path_factory: pytest.TempPathFactory) -> Overlay:
    """The tiny checkpoint with its upscalers and distilled LoRA."""
    return materialize(TINY / "ltx-2.3-tiny.safetensors", TINY / "gemma",
                       upsamplers=sorted(TINY.glob("*-upscaler-*.safetensors")),
                       distilled_lora=TINY / "ltx-2.3-tiny-distilled-lora.safetensors",
                       output=tmp_path_factory.mktemp("overlay") / "tiny.ltx23.json")


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_overlay: Overlay) -> Pipeline:
    """A pipeline on the CPU in float32, kept warm by all tests that do not care."""
    return Pipeline(tiny_overlay, device="cpu", dtype="fp32")
