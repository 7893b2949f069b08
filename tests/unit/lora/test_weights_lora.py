"""LoRA fusion while loading: arithmetic, order, what is read, refusals."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ltx23_core.errors import WeightsError
from ltx23_core.lora.plan import LoraUse, lora_pairs
from ltx23_core.models.registry import build
from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.overlay.lora.update import Update
from ltx23_core.runtime.load import load_module
from tests.goldens.harness import overlay
from tests.support.overlay import refuses

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


class Files:
    """A Linear's weights and LoRAs for it, in files."""

    def __init__(self, folder: Path) -> None:
        generator = torch.Generator().manual_seed(2)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator).bfloat16()

        self.weight = random(24, 40)
        self.factors = [(random(rank, 40), random(24, rank)) for rank in (3, 8, 24)]
        save_file({"weight": self.weight, "bias": random(24)}, folder / "base.safetensors")
        self.base = read_header(folder / "base.safetensors").tensors
        self.pairs = []
        for i, (a, b) in enumerate(self.factors):
            save_file({"lora_A.weight": a, "lora_B.weight": b}, folder / f"{i}.safetensors")
            refs = read_header(folder / f"{i}.safetensors").tensors
            self.pairs.append(Update("lora", {"a": refs["lora_A.weight"], "b": refs["lora_B.weight"]}))

    def load(self, strengths: list[float], dtype: torch.dtype, device: str = "cpu") -> tuple[torch.Tensor, int]:
        with torch.device("meta"):
            module = nn.Linear(40, 24)
        uses = [LoraUse({"weight": pair}, s) for pair, s in zip(self.pairs, strengths, strict=False)]
        counter = load_module(module, self.base, device, dtype, loras=uses)
        return module.weight.detach().cpu(), counter.tensors


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_float32_is_the_exact_sum(device: str, files: Files) -> None:
    strengths = [0.7, -0.45, 1.0]
    got, read = files.load(strengths, torch.float32, device)
    want = files.weight.double() + sum(s * (b.double() @ a.double()) for s, (a, b) in
                                       zip(strengths, files.factors, strict=True))
    assert read == 8 and got.dtype == torch.float32
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_bfloat16_has_the_official_roundings(files: Files) -> None:
    (a, b), (a2, b2) = files.factors[:2]
    got, _ = files.load([0.7], torch.bfloat16)
    scaled = (b * 0.7).float()  # rounded to bfloat16
    product = (scaled.double() @ a.double()).bfloat16()  # rounded
    want = (product.float() + files.weight.float()).bfloat16()
    assert (got != want).float().mean() < 0.01  # the order of the sum within B @ A may turn a rounding
    got, _ = files.load([0.7, -0.45], torch.bfloat16)
    both = torch.addmm((b * 0.7) @ a, b2, a2, alpha=-0.45)
    assert torch.equal(got, both + files.weight)


def test_strength_zero_reads_nothing(files: Files) -> None:
    got, read = files.load([0.0, 0.0], torch.bfloat16)
    assert read == 2 and torch.equal(got, files.weight)
    assert torch.equal(files.load([0.0, 0.5], torch.bfloat16)[0],
                       (files.factors[1][1] * 0.5) @ files.factors[1][0] + files.weight)


def test_order_counts_in_bfloat16_only_by_rounding(files: Files) -> None:
    one, _ = files.load([0.5, 0.25, 0.125], torch.bfloat16)
    files.pairs.reverse()
    two, _ = files.load([0.125, 0.25, 0.5], torch.bfloat16)
    assert not torch.equal(one, two) and torch.allclose(one.float(), two.float(), rtol=0.05, atol=0.1)


def test_pairs_for_other_weights_are_ignored(files: Files) -> None:
    with torch.device("meta"):
        module = nn.Linear(40, 24)
    use = LoraUse({"video_embeddings_connector.weight": files.pairs[0]}, 1.0)
    assert load_module(module, files.base, "cpu", None, loras=[use]).tensors == 2
    assert torch.equal(module.weight, files.weight)


def test_pair_that_does_not_fit_is_refused_before_reading(files: Files) -> None:
    with torch.device("meta"):
        module = nn.Linear(40, 24)
    a, b = files.pairs[0].tensors.values()
    for pair in ((b, a), (a, files.pairs[1].tensors["b"]), (files.base["bias"], b)):
        with refuses(WeightsError, "changes weight by factors a [", "[24, 40]"):
            load_module(module, files.base, "cpu", None,
                        loras=[LoraUse({"weight": Update("lora", dict(zip("ab", pair, strict=True)))}, 1.0)])
    assert module.weight.is_meta


def test_distilled_lora_of_an_overlay_covers_every_linear() -> None:
    entry, lora = overlay().require("transformer"), overlay().require("distilled_lora")
    module, pairs = build("transformer", entry.config), lora_pairs(lora.tensors)
    linears = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    assert set(pairs) == linears
    counter = load_module(module, entry.tensors, "cpu", torch.bfloat16, loras=[LoraUse(pairs, 0.8)])
    assert counter.tensors == len(entry.tensors) + len(lora.tensors)
    assert counter.bytes == entry.size_bytes + lora.size_bytes
