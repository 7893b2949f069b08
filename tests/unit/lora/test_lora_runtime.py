"""LoRAs on loaded weights: the run-time form, and switching between sets: exact, and only what differs is read."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from ltx23_core import Lora, Overlay, Pipeline
from ltx23_core.lora.layers import LoraLinear
from ltx23_core.lora.plan import LoraUse, Part, plan_loras
from ltx23_core.models.registry import build
from ltx23_core.overlay.bytes.source import QuantRef
from ltx23_core.runtime.component import Component
from tests.goldens.harness import overlay
from tests.support.lora import BLOCK, CPU, differing, fp8_overlay, gguf_overlay, numbers, random, write_kinds

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@pytest.fixture(scope="module")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Overlay]:
    folders = {name: tmp_path_factory.mktemp(name) for name in ("fp8", "gguf")}
    return {"dense": overlay(), "fp8": fp8_overlay(folders["fp8"]), "gguf": gguf_overlay(folders["gguf"])}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_kinds(tmp_path_factory.mktemp("kinds"))


def component(source: Overlay, dtype: torch.dtype = torch.float32) -> Component:
    entry = source.require("transformer")
    return Component("transformer", lambda: build("transformer", entry.config), entry.tensors, dtype)


def uses(source: Overlay, files: Mapping[str, Path], *loras: tuple[str, float], runtime: bool) -> list[LoraUse]:
    pipe = Pipeline(source, device="cpu").with_loras([Lora(files[name]) for name, _ in loras])
    return [LoraUse(file.updates["transformer"], strength, runtime)
            for file, (_, strength) in zip(pipe.lora_files, loras, strict=True)]


@pytest.mark.parametrize("runtime", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["dense", "fp8", "gguf"])
@pytest.mark.parametrize("place", ["cpu", CUDA])
def test_any_switch_is_bit_for_bit_a_fresh_load(overlays: dict[str, Overlay], kinds: dict[str, Path], name: str,
                                                dtype: torch.dtype, runtime: bool, place: str) -> None:
    """Through six sets and back to none: weights, and what the layers compute; removing all restores the base."""
    source, used, device = overlays[name], component(overlays[name], dtype), torch.device(place)
    used.load(device)
    formats = {ref.format for ref in source.require("transformer").tensors.values() if isinstance(ref, QuantRef)}
    assert (formats == {"fp8"}) if name == "fp8" else bool(formats) == (name == "gguf")
    base = numbers(used.module)
    names = set(used.module.state_dict())
    x = random(5, 64).to(device, dtype)
    to_q = BLOCK + "attn1.to_q"
    base_out = used.module.get_submodule(to_q)(x)
    for loras in ([("style", 1.0)], [("style", 0.5)], [("style", 0.5), ("other", -0.7)],
                  [("mixed", 0.6), ("style", 1.0)], [("other", 1.0), ("mixed", 0.3)], [("other", 0.2)]):
        wanted = uses(source, kinds, *loras, runtime=runtime)
        used.set_loras(wanted)
        fresh = component(source, dtype)
        fresh.set_loras(wanted)
        used.load(device)
        fresh.load(device)
        assert not differing(numbers(used.module), numbers(fresh.module)), loras
        assert set(used.module.state_dict()) == names, "official parameter names"
        assert used.size_bytes == used.loaded_bytes == fresh.loaded_bytes
        out = used.module.get_submodule(to_q)(x)
        assert torch.equal(out, fresh.module.get_submodule(to_q)(x)) and not torch.equal(out, base_out), loras
    assert used.loads == 1
    used.set_loras([])
    used.load(device)
    assert not differing(numbers(used.module), base)
    assert torch.equal(used.module.get_submodule(to_q)(x), base_out)
    assert not any(isinstance(layer, LoraLinear) for layer in used.module.modules())
    assert not any("lora_" in key for key, _ in used.module.named_buffers())


def test_only_what_is_touched_is_read(kinds: dict[str, Path]) -> None:
    source, used = overlay(), component(overlay())
    used.load(CPU)
    refs = source.require("transformer").tensors

    def switch(loras: list[LoraUse]) -> int:
        before = used.bytes_read
        used.set_loras(loras)
        used.load(CPU)
        return used.bytes_read - before

    def factors(wanted: list[LoraUse]) -> int:
        return sum(ref.size_bytes for use in wanted for update in use.updates.values() for ref in update.refs)

    def weights(*each: list[LoraUse]) -> int:
        return sum(refs[name].size_bytes for name in {key for loras in each for use in loras for key in use.updates})

    style, weaker = (uses(source, kinds, ("style", s), runtime=False) for s in (1.0, 0.5))
    other = uses(source, kinds, ("other", 1.0), runtime=False)
    assert switch(style) == factors(style), "the base is there: fused where it is"
    assert switch(style) == 0
    assert switch(weaker) == factors(style) + weights(style)
    assert switch(other) == factors(other) + weights(style)
    assert switch([]) == weights(other)
    style, weaker, off = (uses(source, kinds, ("style", s), runtime=True) for s in (1.0, 0.5, 0.0))
    both = [*style, *uses(source, kinds, ("other", 1.0), runtime=True)]
    assert switch(style) == factors(style)
    assert switch(weaker) == switch(off) == switch(style) == 0, "a strength is a number"
    assert switch(both) == factors(both[1:])
    assert switch(style) == switch([]) == 0
    assert used.loads == 1


def test_strength_zero_at_run_time_is_the_base(kinds: dict[str, Path]) -> None:
    used = component(overlay(), torch.bfloat16)
    used.set_loras(uses(overlay(), kinds, ("style", 0.0), runtime=True))
    used.load(CPU)
    layer, x = used.module.get_submodule(BLOCK + "attn1.to_q"), random(2, 3, 64).bfloat16()
    assert isinstance(layer, LoraLinear)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_run_time_form_is_base_plus_strength_b_a_x(kinds: dict[str, Path], dtype: torch.dtype) -> None:
    loras = [("style", 0.8), ("other", -0.5)]
    used, base = component(overlay(), dtype), component(overlay(), dtype)
    used.set_loras(uses(overlay(), kinds, *loras, runtime=True))
    used.load(CPU)
    base.load(CPU)
    path, x = BLOCK + "audio_attn1.to_k", random(2, 7, 32).to(dtype)
    got, linear = used.module.get_submodule(path)(x), base.module.get_submodule(path)
    want = nn.functional.linear(x.double(), linear.weight.double(), linear.bias.double())
    for name, strength in loras:
        with safe_open(kinds[name], "pt") as file:
            a, b = (file.get_tensor(f"diffusion_model.{path}.lora_{part}.weight").to(dtype).double() for part in "AB")
        want = want + strength * (x.double() @ a.T @ b.T)
    error = ((got - want).abs().max() / want.abs().max()).item()
    assert got.dtype == dtype and error < (1e-6 if dtype == torch.float32 else 1e-2), error
    assert not torch.allclose(got, linear(x), atol=1e-2)


def test_an_interrupted_switch_goes_on(kinds: dict[str, Path]) -> None:
    """Each weight has its old or its new LoRAs, and the component knows which."""
    source, wanted = overlay(), uses(overlay(), kinds, ("style", 1.0), runtime=False)
    for stop_after in range(6):
        used, fresh, calls = component(source), component(source), []
        used.load(CPU)

        def check(calls: list[int] = calls, last: int = stop_after) -> None:
            calls.append(1)
            if len(calls) > last:
                raise KeyboardInterrupt

        used.set_loras(wanted)
        with pytest.raises(KeyboardInterrupt):
            used.load(CPU, check)
        fresh.set_loras(wanted)
        used.load(CPU)
        fresh.load(CPU)
        assert not differing(numbers(used.module), numbers(fresh.module))
        assert used.loads == 1


def test_release_takes_the_factors_too(kinds: dict[str, Path]) -> None:
    used = component(overlay())
    used.set_loras(uses(overlay(), kinds, ("style", 1.0), ("mixed", 1.0), runtime=True))
    used.load(CPU)
    real = [*used.module.parameters(), *(buffer for name, buffer in used.module.named_buffers() if "lora_" in name)]
    assert used.loaded_bytes == sum(tensor.numel() * tensor.element_size() for tensor in real)
    assert any("lora_" in name for name, _ in used.module.named_buffers())
    used.release()
    assert used.loaded_bytes == 0 and not any("lora_" in name for name, _ in used.module.named_buffers())
    used.load(CPU)
    assert used.loads == 2 and any(isinstance(layer, LoraLinear) for layer in used.module.modules())


def test_a_plain_pair_is_fused_where_another_kind_acts_on_the_same_weight(kinds: dict[str, Path]) -> None:
    """DoRA depends on the weight that it finds, so the order of the LoRAs must hold."""
    used = component(overlay())
    plan = used._plan(uses(overlay(), kinds, ("style", 1.0), ("mixed", 1.0), runtime=True))
    to_q, ff = BLOCK + "attn1.to_q.weight", BLOCK + "ff.net.0.proj.weight"
    assert len(plan[to_q].fused) == 2 and not plan[to_q].at_use
    assert len(plan[ff].at_use) == 1 and not plan[ff].fused
    for name in (BLOCK + "scale_shift_table", BLOCK + "attn1.to_v.bias", BLOCK + "attn1.to_k.weight"):
        assert plan[name].fused and not plan[name].at_use
    plan = plan_loras(uses(overlay(), kinds, ("style", 1.0), runtime=False), used.refs, {to_q}, {to_q})
    assert plan[to_q].at_use and not plan[to_q].fused, "quantised: always at use"
    assert isinstance(plan[to_q].at_use[0], Part)
