"""LoRAs of a pipeline: strengths, streams, stages, modes; switching them on loaded weights; one transformer."""
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ltx23_core import Lora, Overlay, Pipeline, materialize
from ltx23_core.errors import OverlayError, RequestError
from ltx23_core.lora import family, is_cross, writes_audio
from ltx23_core.models.registry import build
from ltx23_core.overlay.source import QuantRef
from ltx23_core.runtime.component import Component
from ltx23_core.runtime.residency import LocalResidency
from ltx23_core.weights import LoraUse, lora_pairs
from ltx23_core.weights.lora import Part, plan_loras
from ltx23_core.weights.lora_modules import LoraLinear
from ltx23_core.weights.quant_modules import QuantWeight
from tests.goldens.harness import CHECKPOINT, GEMMA, companion, overlay
from tests.layouts import split_prefixed
from tests.quantisers import fp8
from tests.unit.gguf_support import k_mix, transformer_gguf
from tests.unit.overlay_support import refuses

CPU = torch.device("cpu")
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
RUN = {"width": 64, "height": 64, "frames": 9, "seed": 3}
Tensors = dict[str, Tensor]
BLOCK = "transformer_blocks.1."


def random(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size) + seed)) / 8


def write(path: Path, tensors: Tensors) -> Path:
    save_file({f"diffusion_model.{key}": value.contiguous() for key, value in tensors.items()}, path)
    return path


def plain(path: Path, *modules: str, rank: int = 3, seed: int = 0) -> Path:
    """A LoRA of plain pairs on some modules of the tiny model."""
    shapes = {name: ref.shape for part in ("transformer", "connectors")
              for name, ref in overlay().require(part).tensors.items()}
    tensors = {}
    for i, module in enumerate(modules):
        rows, columns = shapes[module + ".weight"]
        tensors[module + ".lora_A.weight"] = random(rank, columns, seed=seed + i)
        tensors[module + ".lora_B.weight"] = random(rows, rank, seed=seed + i + 50)
    return write(path, tensors)


def numbers(module: nn.Module) -> Tensors:
    """Every parameter and buffer as numbers, copied; of quantised layers with their LoRAs."""
    found = {name: value.clone() for name, value in module.state_dict().items()}
    return found | {f"{name}.weight": layer.numbers().clone() for name, layer in module.named_modules()
                    if isinstance(layer, QuantWeight)}


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name, value in one.items() if not torch.equal(value, other[name])}


def fp8_overlay(folder: Path) -> Overlay:
    """The tiny checkpoint with fp8 matrices and a scale each in the blocks."""
    quantise, tensors = fp8(), {}
    with safe_open(CHECKPOINT, "pt") as file:
        metadata = file.metadata()
        for key in file.keys():
            value = file.get_tensor(key)
            if ".transformer_blocks." in key and key.endswith(".weight") and value.ndim == 2:
                parts, _ = quantise(value.float())
                tensors |= {key.removesuffix("weight") + name: part for name, part in parts.items()}
            else:
                tensors[key] = value
    save_file(tensors, folder / "fp8.safetensors", metadata)
    return materialize(folder / "fp8.safetensors", GEMMA, distilled_lora=companion("distilled-lora"),
                       output=folder / "fp8.json")


def gguf_overlay(folder: Path) -> Overlay:
    transformer_gguf(folder / "mix.gguf", k_mix)
    return materialize(folder / "mix.gguf", GEMMA, components=split_prefixed(folder).arguments["components"],
                       distilled_lora=companion("distilled-lora"), output=folder / "gguf.json")


@pytest.fixture(scope="module")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Overlay]:
    folders = {name: tmp_path_factory.mktemp(name) for name in ("fp8", "gguf")}
    return {"dense": overlay(), "fp8": fp8_overlay(folders["fp8"]), "gguf": gguf_overlay(folders["gguf"])}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """LoRAs: plain ones that overlap, and every other kind, on weights, biases and tables."""
    folder = tmp_path_factory.mktemp("kinds")
    a, q = BLOCK + "attn1.", BLOCK + "attn1.to_q"
    return {
        "style": plain(folder / "style.safetensors", q, BLOCK + "ff.net.0.proj", BLOCK + "audio_attn1.to_k",
                       BLOCK + "audio_to_video_attn.to_out.0", "proj_out", "adaln_single.linear"),
        "other": plain(folder / "other.safetensors", q, BLOCK + "audio_attn1.to_k", rank=5, seed=9),
        "mixed": write(folder / "mixed.safetensors", {
            q + ".lora_A.weight": random(3, 64), q + ".lora_B.weight": random(64, 3), q + ".dora_scale":
            random(64, 1) + 2, a + "to_k.lokr_w1": random(4, 4), a + "to_k.lokr_w2": random(16, 16),
            a + "to_v.diff": random(64, 64), a + "to_v.diff_b": random(64), a + "to_out.0.hada_w1_a": random(64, 2),
            a + "to_out.0.hada_w1_b": random(2, 64), a + "to_out.0.hada_w2_a": random(64, 2, seed=1),
            a + "to_out.0.hada_w2_b": random(2, 64, seed=1), BLOCK + "scale_shift_table.diff": random(9, 64)})}


def component(source: Overlay, dtype: torch.dtype = torch.float32) -> Component:
    entry = source.require("transformer")
    return Component("transformer", lambda: build("transformer", entry.config), entry.tensors, dtype)


def uses(source: Overlay, files: Mapping[str, Path], *loras: tuple[str, float], runtime: bool) -> list[LoraUse]:
    pipe = Pipeline(source, device="cpu").with_loras([Lora(files[name]) for name, _ in loras])
    return [LoraUse(file.updates["transformer"], strength, runtime)
            for file, (_, strength) in zip(pipe.lora_files, loras, strict=True)]


# ---- switching on loaded weights

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


# ---- streams and stages

def test_every_parameter_has_one_family() -> None:
    names = overlay().require("transformer").tensors
    assert {family(name) for name in names} == {"video", "audio", "cross-modal"}
    for name, audio, cross in (
            ("transformer_blocks.0.attn1.to_q.weight", False, False), ("audio_patchify_proj.weight", True, False),
            ("transformer_blocks.0.audio_ff.net.2.weight", True, False),
            ("transformer_blocks.0.audio_to_video_attn.to_k.weight", False, True),
            ("transformer_blocks.0.video_to_audio_attn.to_k.weight", True, True),
            ("transformer_blocks.0.audio_prompt_scale_shift_table", True, False),
            ("transformer_blocks.0.scale_shift_table_a2v_ca_video", False, True),
            ("transformer_blocks.0.scale_shift_table_a2v_ca_audio", True, True),
            ("av_ca_audio_scale_shift_adaln_single.linear.weight", True, True),
            ("av_ca_a2v_gate_adaln_single.linear.weight", False, True),
            ("av_ca_v2a_gate_adaln_single.linear.bias", True, True), ("adaln_single.linear.weight", False, False),
            ("audio_embeddings_connector.transformer_1d_blocks.0.attn1.to_q.weight", True, False),
            ("video_aggregate_embed.weight", False, False)):
        assert (writes_audio(name), is_cross(name)) == (audio, cross), name


@pytest.mark.parametrize(("factors", "changed"), [
    ({"audio": 0.0}, {"attn1.to_q", "audio_to_video_attn.to_k"}),
    ({"video": 0.0}, {"audio_ff.net.2", "video_to_audio_attn.to_v"}),
    ({"cross": 0.0}, {"attn1.to_q", "audio_ff.net.2"}),
    ({"video": 0.0, "cross": 0.0}, {"audio_ff.net.2"})])
def test_a_factor_of_zero_leaves_its_parameters(tmp_path: Path, factors: dict[str, float], changed: set[str]) -> None:
    modules = [BLOCK + name for name in ("attn1.to_q", "audio_ff.net.2", "audio_to_video_attn.to_k",
                                         "video_to_audio_attn.to_v")]
    path = plain(tmp_path / "all.safetensors", *modules)
    pipe = Pipeline(overlay(), device="cpu", dtype="fp32")
    context = pipe.encode("a", "b")
    pipe.sample(context, steps=1, **RUN)
    base = numbers(pipe.component("transformer").module)
    pipe.with_loras([Lora(path, **factors)]).sample(context, steps=1, **RUN)
    assert differing(numbers(pipe.component("transformer").module), base) == {
        f"{BLOCK}{name}.weight" for name in changed}


def test_strength_is_the_product_of_its_factors(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.safetensors", BLOCK + "video_to_audio_attn.to_v")
    lora = Lora(path, 2.0, video=7.0, audio=0.5, cross=0.25, stages=(0.1, 0.4))
    name = BLOCK + "video_to_audio_attn.to_v.weight"
    assert lora.strength_in(1) * lora.factor(name) == pytest.approx(0.025)
    assert lora.strength_in(2) * lora.factor(name) == pytest.approx(0.1)


# ---- pipelines

@pytest.fixture
def pipe(tiny_overlay: Overlay) -> Pipeline:
    return Pipeline(tiny_overlay, device="cpu", dtype="fp32")


def latents(pipe: Pipeline, recipe: str = "one_stage", **options: object) -> Tensor:
    done = pipe.sample(pipe.encode("a boat on a lake", "noise"), recipe=recipe, steps=1, **RUN, **options)
    return torch.cat((done.video.flatten(), done.audio.flatten()))


def test_views_used_in_turn_each_have_their_weights(pipe: Pipeline, kinds: dict[str, Path]) -> None:
    views = {"base": pipe, "style": pipe.with_loras([Lora(kinds["style"])]),
             "both": pipe.with_loras([Lora(kinds["style"]), Lora(kinds["other"], -0.5, mode="runtime")]),
             "runtime": pipe.with_loras([Lora(kinds["style"], mode="runtime")])}
    first = {name: latents(view) for name, view in views.items()}
    for name in ("runtime", "base", "both", "style", "base", "style", "runtime", "both"):
        assert torch.equal(latents(views[name]), first[name]), name
    assert pipe.component("transformer").loads == 1 and views["both"].components == pipe.components
    assert torch.allclose(first["style"], first["runtime"], atol=1e-4)
    assert not torch.allclose(first["style"], first["base"], atol=1e-3)
    assert not torch.allclose(first["both"], first["style"], atol=1e-3)
    assert views["both"].with_loras(()).loras == () and pipe.loras == ()


def test_a_chain_adds_up_in_order(pipe: Pipeline, kinds: dict[str, Path]) -> None:
    one = pipe.with_loras([Lora(kinds["style"], 0.4)])
    two = one.with_loras([*one.loras, Lora(kinds["other"])])
    assert [lora.strength for lora in two.loras] == [0.4, 1.0] and len(one.loras) == 1
    assert two._loras[0] is one._loras[0], "not read again"
    assert torch.equal(latents(two), latents(pipe.with_loras(two.loras)))


@pytest.mark.parametrize(("stages", "changed"), [("first", (True, False)), ("second", (False, True)),
                                                 ("all", (True, True)), ((0.0, 0.5), (False, True))])
@pytest.mark.parametrize("mode", ["auto", "fused", "runtime"])
def test_stages(pipe: Pipeline, kinds: dict[str, Path], stages: str, changed: tuple[bool, bool], mode: str) -> None:
    context, run = pipe.encode("a", "b"), {"recipe": "two_stage", "seed": 2, "width": 64, "height": 64, "frames": 9}
    view = pipe.with_loras([Lora(kinds["style"], stages=stages, mode=mode)])
    base = pipe.sample(context, steps=1, stages="first", **run)
    start = type(base)(pipe.upscale(base.video), base.audio, base.fps, base.frames, base.seed, base.drawn)
    want = base.video, pipe.sample(context, stages="second", start=start, **run).video
    got = (view.sample(context, steps=1, stages="first", **run).video,
           view.sample(context, stages="second", start=start, **run).video)
    assert tuple(not torch.equal(*pair) for pair in zip(want, got, strict=True)) == changed
    assert pipe.component("transformer").loads == 1


def counted(pipe: Pipeline, recipe: str, **options: object) -> tuple[Tensor, int]:
    """Latents of a run, and bytes that the transformer read in it."""
    before = pipe.component("transformer").bytes_read
    return latents(pipe, recipe, **options), pipe.component("transformer").bytes_read - before


@pytest.mark.parametrize("recipe", ["two_stage", "hq"])
def test_stages_with_other_strengths_share_one_transformer(tiny_overlay: Overlay, recipe: str) -> None:
    base, factors = (sum(ref.size_bytes for ref in tiny_overlay.require(name).tensors.values())
                     for name in ("transformer", "distilled_lora"))
    touched = sum(tiny_overlay.require("transformer").tensors[name].size_bytes for name in
                  lora_pairs(tiny_overlay.require("distilled_lora").tensors))
    every_run = {"two_stage": touched + factors, "hq": 2 * (touched + factors)}[recipe]
    once = {"two_stage": base + factors, "hq": base + factors + touched + factors}[recipe]
    results = {}
    for mode, first_run, second_run in (("auto", base + factors, 0), ("runtime", base + factors, 0),
                                        ("fused", once, every_run)):
        pipe = Pipeline(tiny_overlay, device="cpu", dtype="fp32", lora_mode=mode)
        results[mode], read = counted(pipe, recipe)
        again, read_again = counted(pipe, recipe)
        print(f"{recipe}, {mode}: {read} bytes read in the first run, {read_again} in the second "
              f"(transformer {base}, LoRA {factors})")
        assert torch.equal(again, results[mode])
        assert (read, read_again) == (first_run, second_run)
        transformer = pipe.component("transformer")
        assert transformer.loads == 1 and [c.name for c in pipe.components].count("transformer") == 1
        held = 0 if mode == "fused" else factors * 2  # stored in bfloat16, here float32
        assert transformer.loaded_bytes == transformer.bytes_with([]) + held
    assert torch.equal(results["auto"], results["runtime"])
    assert torch.allclose(results["fused"], results["runtime"], rtol=1e-3, atol=1e-3)


def relative(got: Tensor, want: Tensor) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


@pytest.mark.parametrize("recipe", ["two_stage", "hq", "distilled_one_stage"])
def test_run_time_differs_from_fused_by_rounding(tiny_overlay: Overlay, recipe: str) -> None:
    """In bfloat16; both are as far from float32, so neither is the better one."""
    def run(mode: str, dtype: str) -> Tensor:
        pipe = Pipeline(tiny_overlay, device="cpu", dtype=dtype, lora_mode=mode)
        steps = {} if recipe == "distilled_one_stage" else {"steps": 3}
        done = pipe.sample(pipe.encode("a boat on a lake", "noise"), recipe=recipe, **RUN, **steps)
        return torch.cat((done.video.flatten(), done.audio.flatten())).float()

    fused, runtime, exact = run("fused", "bf16"), run("runtime", "bf16"), run("fused", "fp32")
    print(f"{recipe}: runtime against fused {relative(runtime, fused):.4f}, against float32: fused "
          f"{relative(fused, exact):.4f}, runtime {relative(runtime, exact):.4f}")
    assert 0 < relative(runtime, fused) < 2.5 * relative(fused, exact)
    assert relative(runtime, exact) < 1.5 * relative(fused, exact)


def test_auto_fuses_where_factors_do_not_fit(tiny_overlay: Overlay) -> None:
    """First with room for everything, then with room for the transformer and not for the factors beside it."""
    wanted = Pipeline(tiny_overlay, device="cpu", dtype="fp32", lora_mode="fused")
    text = sum(wanted.component(name).size_bytes for name in ("text_projection", "connectors")) + (1 << 29)
    pipe = Pipeline(tiny_overlay, dtype="fp32", residency=LocalResidency(CPU, 2 * text))
    context, run = pipe.encode("a", "b"), {"recipe": "two_stage", "steps": 1, **RUN}
    size = wanted.component("transformer").size_bytes
    for room, factors in ((2 * text, True), (size + 200_000, False)):
        pipe.residency.release()
        pipe.residency = LocalResidency(CPU, room)
        assert pipe.residency.capacity_bytes == room
        done = pipe.sample(context, **run)
        held = pipe.component("transformer").loaded_bytes
        assert held > size if factors else held == size
        assert torch.equal(done.video, wanted.sample(context, **run).video) != factors


def test_auto_fuses_what_is_the_same_in_all_stages(pipe: Pipeline, kinds: dict[str, Path]) -> None:
    view = pipe.with_loras([Lora(kinds["style"])])
    latents(view, "two_stage")
    module = pipe.component("transformer").module
    layer = module.get_submodule(BLOCK + "attn1.to_q")
    assert isinstance(layer, LoraLinear) and len(layer.changes()) == 1, "the distilled one alone"
    fresh = Pipeline(pipe.overlay, device="cpu", dtype="fp32").with_loras([Lora(kinds["style"], mode="fused")])
    latents(fresh)
    assert torch.equal(layer.weight, fresh.component("transformer").module.get_submodule(BLOCK + "attn1.to_q").weight)


# ---- text connectors

@pytest.fixture(scope="module")
def connector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain(tmp_path_factory.mktemp("c") / "connector.safetensors",
                 "video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q", BLOCK + "attn1.to_q")


@pytest.mark.parametrize("mode", ["fused", "runtime"])
def test_connectors_change_the_encoded_prompt(pipe: Pipeline, connector: Path, mode: str) -> None:
    base, view = pipe.encode("a", "b"), pipe.with_loras([Lora(connector, mode=mode)])
    changed = view.encode("a", "b")
    assert not torch.equal(changed.positive.video, base.positive.video)
    assert torch.equal(changed.positive.audio, base.positive.audio)
    assert view.encode("a", "b").positive is changed.positive and pipe.encode("a", "b").positive is base.positive
    pipe._contexts.clear()
    again = pipe.encode("a", "b"), view.encode("a", "b")
    assert torch.equal(again[0].positive.video, base.positive.video)
    assert torch.equal(again[1].positive.video, changed.positive.video)
    assert pipe.component("connectors").loads == 1


def test_loras_without_text_parts_share_encoded_prompts(pipe: Pipeline, connector: Path,
                                                        kinds: dict[str, Path]) -> None:
    base = pipe.encode("a", "b")
    for lora in (Lora(kinds["style"]), Lora(connector, video=0.0), Lora(connector, stages="second"),
                 Lora(connector, 0.0)):
        assert pipe.with_loras([lora]).encode("a", "b").positive is base.positive
    assert "no effect" in pipe.with_loras([Lora(connector, stages="second")]).lora_reports[0]


# ---- files

def test_files_for_other_models_are_refused_by_name(pipe: Pipeline, tmp_path: Path) -> None:
    save_file({"double_blocks.0.img_attn.lora_A.weight": random(2, 4)}, tmp_path / "flux.safetensors")
    with refuses(OverlayError, "flux.safetensors is made for Flux"):
        pipe.with_loras([Lora(tmp_path / "flux.safetensors")])
    with refuses(OverlayError, "gone.safetensors"):
        pipe.with_loras([Lora(tmp_path / "gone.safetensors")])
    assert pipe.components == (), "nothing was made or read"


def test_what_is_not_used_is_logged_and_reported(pipe: Pipeline, kinds: dict[str, Path], tmp_path: Path,
                                                 caplog: pytest.LogCaptureFixture) -> None:
    with safe_open(kinds["style"], "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    save_file(tensors | {"diffusion_model.caption_projection.linear_1.lora_A.weight": random(2, 4)},
              tmp_path / "old.safetensors")
    with caplog.at_level(logging.WARNING, "ltx23"):
        view = pipe.with_loras([Lora(tmp_path / "old.safetensors", 0.5, audio=0.0, mode="runtime"),
                                Lora(kinds["mixed"])])
    assert "caption_projection" in caplog.text and "made for LTX-2.0" in caplog.text
    report = view.lora_reports
    report = "\n".join(report)
    print(report)
    for words in ("changes 6 of transformer", "transformer: 4 video, 1 audio, 1 cross-modal", "strength 0.5 / 0.5",
                  "audio 0", "mode runtime", "made for LTX-2.0", "1 DoRA lora", "1 lokr", "1 loha", "3 diff"):
        assert words in report, words


@pytest.mark.parametrize("make", [
    lambda p: Lora(p, float("nan")), lambda p: Lora(p, cross=float("inf")), lambda p: Lora(p, stages="third"),
    lambda p: Lora(p, stages=(1.0,)), lambda p: Lora(p, mode="fast"), lambda p: Lora(p, stages=(1.0, "x"))])
def test_settings_that_cannot_be(make: Callable[[str], Lora]) -> None:
    with pytest.raises(RequestError):
        make("x.safetensors")


def test_a_changed_file_is_another_lora(pipe: Pipeline, tmp_path: Path) -> None:
    path = plain(tmp_path / "a.safetensors", "proj_out")
    first = latents(pipe.with_loras([Lora(path)]))
    plain(path, "proj_out", seed=5)
    second = latents(pipe.with_loras([Lora(path)]))
    assert not torch.allclose(first, second, atol=1e-3)
