"""Every LoRA dialect of spec/09 §5 on the tiny model: fused weights equal a slow computation in float64."""
from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ltx23_core.errors import OverlayError
from ltx23_core.lora.apply import apply, prepare
from ltx23_core.overlay.lora.dialects import COMPONENTS, LoraFile, read_lora
from ltx23_core.overlay.lora.names import Names
from ltx23_core.overlay.names.architecture import expected_tensors
from ltx23_core.overlay.names.renames import to_diffusers
from ltx23_core.weights.reader import RangeReader
from tests.goldens.harness import overlay
from tests.support.overlay import manifest_22b, refuses

Tensors = dict[str, Tensor]
TO_Q, GATE = "transformer_blocks.0.attn1.to_q", "transformer_blocks.2.audio_to_video_attn.to_gate_logits"
OUT, FF = "transformer_blocks.3.audio_attn1.to_out.0", "transformer_blocks.1.ff.net.0.proj"
ADALN = "av_ca_video_scale_shift_adaln_single.emb.timestep_embedder.linear_1"
CONNECTOR = "video_embeddings_connector.transformer_1d_blocks.0.attn1.to_k"
PROJECTION = "audio_aggregate_embed"
MODULES = {TO_Q: "transformer", GATE: "transformer", OUT: "transformer", FF: "transformer", ADALN: "transformer",
           "audio_patchify_proj": "transformer", CONNECTOR: "connectors", PROJECTION: "text_projection"}
RANKS = {TO_Q: 3, GATE: 1, OUT: 5, FF: 2, ADALN: 4, "audio_patchify_proj": 2, CONNECTOR: 3, PROJECTION: 2}


@cache
def shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    return {name: expected_tensors(name, overlay().require(name).config) for name in COMPONENTS}


@cache
def weights() -> Tensors:
    """Every parameter of the components, float64, under component/name."""
    reader = RangeReader(torch.device("cpu"))
    return {f"{component}/{name}": reader.read(ref, torch.float32).double() for component in COMPONENTS
            for name, ref in overlay().require(component).tensors.items()}


def shape(module: str) -> tuple[int, int]:
    return shapes()[MODULES[module]][module + ".weight"]


def random(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size) + seed)) / 8


def factors(module: str) -> tuple[Tensor, Tensor]:
    rows, columns = shape(module)
    return random(RANKS[module], columns, seed=len(module)), random(rows, RANKS[module], seed=1 + len(module))


def product(module: str) -> Tensor:
    a, b = factors(module)
    return b.double() @ a.double()


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, path, metadata)
    return path


def changed(lora: LoraFile, strength: float, dtype: torch.dtype = torch.float32) -> Tensors:
    """What the file makes of each parameter that it changes."""
    reader = RangeReader(torch.device("cpu"))
    return {f"{component}/{name}": apply(weights()[f"{component}/{name}"].to(dtype, copy=True),
                                         [prepare(update, strength, dtype, reader.read)])
            for component, updates in lora.updates.items() for name, update in updates.items()}


def same(got: Tensors, deltas: Mapping[str, Tensor]) -> None:
    """The changed parameters are these, and each is the weight plus this."""
    assert got.keys() == deltas.keys()
    for key, delta in deltas.items():
        want = weights()[key] + delta
        assert (got[key].double() - want).abs().max() <= 2e-6 * want.abs().max(), key
        assert delta.abs().max() > 1e-3, key


def by_key(values: Mapping[str, Tensor]) -> Tensors:
    return {f"{MODULES[module]}/{module}.weight": value for module, value in values.items()}


def path_of(module: str) -> str:
    return "text_embedding_projection." * (MODULES[module] == "text_projection") + module


def flat(module: str) -> str:
    return path_of(module).replace(".", "_")


def diffusers(module: str) -> str:
    component = MODULES[module]
    return ("transformer." if component == "transformer" else "connectors.") + to_diffusers(component, module)


PAIRS = {
    "official": ("official", lambda m: "diffusion_model." + path_of(m), ".lora_A.weight", ".lora_B.weight"),
    "monolith": ("official", lambda m: "model.diffusion_model." + path_of(m), ".lora_A.weight", ".lora_B.weight"),
    "bare": ("official", path_of, ".lora_A.weight", ".lora_B.weight"),
    "diffusers": ("diffusers", diffusers, ".lora_A.weight", ".lora_B.weight"),
    "diffusers with official names": ("diffusers", lambda m: "transformer." + path_of(m), ".lora_A.weight",
                                      ".lora_B.weight"),
    "PEFT": ("PEFT", lambda m: "base_model.model." + path_of(m), ".lora_A.weight", ".lora_B.weight"),
    "PEFT, default": ("PEFT", lambda m: "base_model.model." + path_of(m), ".lora_A.default.weight",
                      ".lora_B.default.weight"),
    "kohya": ("kohya or musubi", lambda m: "lora_unet_" + flat(m), ".lora_down.weight", ".lora_up.weight"),
    "musubi": ("kohya or musubi", lambda m: "lora_unet_" + (
        flat(m).removeprefix("video_") if "connector" in m else "model_" + flat(m)), ".lora_down.weight",
        ".lora_up.weight"),
    "lycoris": ("kohya or musubi", lambda m: "lycoris_" + flat(m), ".lora_down.weight", ".lora_up.weight"),
    "down, up": ("ComfyUI", lambda m: "diffusion_model." + path_of(m), ".lora_down.weight", ".lora_up.weight"),
    "_lora": ("ComfyUI", lambda m: "diffusion_model." + path_of(m), "_lora.down.weight", "_lora.up.weight"),
    ".lora": ("ComfyUI", lambda m: "diffusion_model." + path_of(m), ".lora.down.weight", ".lora.up.weight"),
    "linear layer": ("ComfyUI", lambda m: "diffusion_model." + path_of(m), ".lora_linear_layer.down.weight",
                     ".lora_linear_layer.up.weight"),
    "no .weight": ("ComfyUI", lambda m: "diffusion_model." + path_of(m), ".lora_A", ".lora_B"),
}


@pytest.mark.parametrize("alpha", [None, 2.0])
@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name: str, alpha: float | None, tmp_path: Path) -> None:
    dialect, key, down, up = PAIRS[name]
    tensors: Tensors = {}
    for module in MODULES:
        tensors[key(module) + down], tensors[key(module) + up] = factors(module)
        if alpha is not None:
            tensors[key(module) + ".alpha"] = torch.tensor(alpha)
    lora = read_lora(write(tmp_path / "lora.safetensors", tensors), shapes())
    assert not lora.unused
    assert lora.dialect == (dialect if alpha is None or dialect != "official" else "ComfyUI")
    scale = {m: 1.0 if alpha is None else alpha / RANKS[m] for m in MODULES}
    same(changed(lora, 0.7), by_key({m: 0.7 * scale[m] * product(m) for m in MODULES}))
    assert "changes 6 of transformer, 1 of connectors, 1 of text_projection" in lora.report()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_number_formats(dtype: torch.dtype, tmp_path: Path) -> None:
    a, b = (t.to(dtype) for t in factors(OUT))
    path = write(tmp_path / "x.safetensors", {f"diffusion_model.{OUT}.lora_A.weight": a,
                                              f"diffusion_model.{OUT}.lora_B.weight": b})
    same(changed(read_lora(path, shapes()), -0.5), by_key({OUT: -0.5 * (b.double() @ a.double())}))


def test_plain_loras_have_the_official_roundings(tmp_path: Path) -> None:
    a, b = (t.bfloat16() for t in factors(TO_Q))
    path = write(tmp_path / "x.safetensors", {f"lora_unet_{flat(TO_Q)}.lora_down.weight": a, f"lora_unet_{flat(TO_Q)}"
                                              ".lora_up.weight": b, f"lora_unet_{flat(TO_Q)}.alpha": torch.tensor(1.5)})
    [got] = changed(read_lora(path, shapes()), 0.5, torch.bfloat16).values()
    assert torch.equal(got, (b * 0.25) @ a + weights()[f"transformer/{TO_Q}.weight"].bfloat16())


@pytest.mark.parametrize("stabilised", [False, True])
def test_alpha_of_diffusers_metadata(stabilised: bool, tmp_path: Path) -> None:
    config = {"transformer.r": 3, "transformer.lora_alpha": 6, "transformer.use_rslora": stabilised,
              "transformer.alpha_pattern": {"audio_proj_in": 8, "ff.net.0.proj": 1}, "connectors.lora_alpha": 5}
    tensors = {diffusers(m) + end: t for m in MODULES for end, t in
               zip((".lora_A.weight", ".lora_B.weight"), factors(m), strict=True)}
    path = write(tmp_path / "x.safetensors", tensors, {"lora_adapter_metadata": json.dumps(config)})
    lora = read_lora(path, shapes())

    def scale(module: str) -> float:
        alpha = {"audio_patchify_proj": 8, FF: 1, CONNECTOR: 5, PROJECTION: 5}.get(module, 6)
        return alpha / (RANKS[module] ** 0.5 if stabilised and MODULES[module] == "transformer" else RANKS[module])

    same(changed(lora, 1.0), by_key({m: scale(m) * product(m) for m in MODULES}))


def test_alpha_of_adapter_config(tmp_path: Path) -> None:
    tensors = {f"base_model.model.{path_of(m)}{end}": t for m in MODULES for end, t in
               zip((".lora_A.weight", ".lora_B.weight"), factors(m), strict=True)}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 3, "lora_alpha": 2, "alpha_pattern": {"to_q": 9}}))
    lora = read_lora(write(tmp_path / "adapter_model.safetensors", tensors), shapes())
    same(changed(lora, 1.0), by_key({m: (9 if m == TO_Q else 2) / RANKS[m] * product(m) for m in MODULES}))
    (tmp_path / "adapter_config.json").write_text("{")
    with refuses(OverlayError, "adapter_config.json is not JSON"):
        read_lora(tmp_path / "adapter_model.safetensors", shapes())


def test_rank_stabilised_by_the_trainers_options(tmp_path: Path) -> None:
    name = f"lora_unet_{flat(OUT)}"
    tensors = dict(zip((f"{name}.lora_down.weight", f"{name}.lora_up.weight"), factors(OUT), strict=True))
    path = write(tmp_path / "x.safetensors", {**tensors, f"{name}.alpha": torch.tensor(2.0)},
                 {"ss_network_args": json.dumps({"rs_lora": "True"})})
    same(changed(read_lora(path, shapes()), 1.0), by_key({OUT: 2 / 5 ** 0.5 * product(OUT)}))
    write(path, tensors, {"ss_network_args": "{"})
    with refuses(OverlayError, "'ss_network_args'", "is not JSON"):
        read_lora(path, shapes())


def test_full_differences(tmp_path: Path) -> None:
    weight, bias, table = random(*shape(OUT)), random(shape(OUT)[0]), random(9, 64)
    norm, fresh = random(64), random(*shape(FF))
    prefix = "diffusion_model."
    lora = read_lora(write(tmp_path / "x.safetensors", {
        prefix + OUT + ".diff": weight, prefix + OUT + ".diff_b": bias, prefix + FF + ".set_weight": fresh,
        prefix + "transformer_blocks.0.scale_shift_table.diff": table,
        prefix + "transformer_blocks.0.attn1.q_norm.w_norm": norm,
        prefix + "transformer_blocks.0.attn1.q_norm.b_norm": norm}), shapes())
    assert lora.unused == {prefix + "transformer_blocks.0.attn1.q_norm.b_norm": "the module has no bias"}
    same(changed(lora, 0.5), {
        f"transformer/{OUT}.weight": weight.double() / 2, f"transformer/{OUT}.bias": bias.double() / 2,
        f"transformer/{FF}.weight": fresh.double() - weights()[f"transformer/{FF}.weight"],
        "transformer/transformer_blocks.0.scale_shift_table": table.double() / 2,
        "transformer/transformer_blocks.0.attn1.q_norm.weight": norm.double() / 2})


def test_bias_of_the_second_factor(tmp_path: Path) -> None:
    a, b = factors(TO_Q)
    name, bias = "base_model.model." + TO_Q, random(64)
    path = write(tmp_path / "x.safetensors", {
        name + ".lora_A.weight": a, name + ".lora_B.weight": b, name + ".lora_B.bias": bias,
        name + ".lora_A.bias": random(3), name + ".alpha": torch.tensor(6.0)})
    lora = read_lora(path, shapes())
    assert list(lora.unused) == [name + ".lora_A.bias"]
    same(changed(lora, 1.0), {f"transformer/{TO_Q}.weight": 2 * product(TO_Q),
                              f"transformer/{TO_Q}.bias": 2 * bias.double()})


def slow_kron(left: Tensor, right: Tensor) -> Tensor:
    rows, columns = right.shape
    result = torch.zeros(left.shape[0] * rows, left.shape[1] * columns, dtype=torch.float64)
    for i in range(left.shape[0]):
        for j in range(left.shape[1]):
            result[i * rows:(i + 1) * rows, j * columns:(j + 1) * columns] = left[i, j].double() * right.double()
    return result


@pytest.mark.parametrize("split", ["", "1", "2", "12"])
@pytest.mark.parametrize("prefix", ["lycoris_", "diffusion_model."])
def test_lokr(split: str, prefix: str, tmp_path: Path) -> None:
    rows, columns = shape(FF)
    name = prefix + (flat(FF) if prefix == "lycoris_" else FF)
    parts, tensors = {"1": (8, 4), "2": (rows // 8, columns // 4)}, {name + ".alpha": torch.tensor(3.0)}
    values = {}
    for which, (r, c) in parts.items():
        if which in split:
            rank = 2 + int(which)
            one, two = random(r, rank), random(rank, c)
            tensors |= {f"{name}.lokr_w{which}_a": one, f"{name}.lokr_w{which}_b": two}
            values[which] = one.double() @ two.double()
        else:
            tensors[f"{name}.lokr_w{which}"] = values[which] = random(r, c)
    lora = read_lora(write(tmp_path / "x.safetensors", tensors), shapes())
    assert not lora.unused
    scale = {"": 1.0, "1": 3 / 3, "2": 3 / 4, "12": 3 / 4}[split]  # w2's rank wins
    same(changed(lora, 0.9), by_key({FF: 0.9 * scale * slow_kron(values["1"], values["2"])}))


def test_loha(tmp_path: Path) -> None:
    (rows, columns), name = shape(FF), f"lora_unet_{flat(FF)}"
    parts = {"w1_a": random(rows, 3), "w1_b": random(3, columns), "w2_a": random(rows, 3, seed=9) * 8,
             "w2_b": random(3, columns, seed=9)}
    path = write(tmp_path / "x.safetensors", {**{f"{name}.hada_{k}": v for k, v in parts.items()},
                                              f"{name}.alpha": torch.tensor(1.5)})
    w = {k: v.double() for k, v in parts.items()}
    want = (w["w1_a"] @ w["w1_b"]) * (w["w2_a"] @ w["w2_b"])
    same(changed(read_lora(path, shapes()), 1.2), by_key({FF: 1.2 * 0.5 * want}))


@pytest.mark.parametrize("convention", ["output", "input", "peft"])
def test_dora(convention: str, tmp_path: Path) -> None:
    (rows, columns), name = shape(FF), "diffusion_model." + FF
    a, b = factors(FF)
    magnitude = random(rows if convention != "input" else columns).abs() + 1
    ending = ".lora_magnitude_vector.weight" if convention == "peft" else ".dora_scale"
    stored = {"output": magnitude[:, None], "input": magnitude[None], "peft": magnitude}[convention]
    path = write(tmp_path / "x.safetensors", {name + ".lora_A.weight": a, name + ".lora_B.weight": b,
                                              name + ".alpha": torch.tensor(1.0), name + ending: stored})
    weight = weights()[f"transformer/{FF}.weight"]
    full, want = weight + 0.5 * product(FF), torch.empty_like(weight)
    for i in range(rows):
        for j in range(columns):
            if convention == "input":
                want[i, j] = full[i, j] * magnitude[j].double() / full[:, j].pow(2).sum().sqrt()
            else:
                length = (full if convention == "peft" else weight)[i].pow(2).sum().sqrt()
                want[i, j] = full[i, j] * magnitude[i].double() / length
    same(changed(read_lora(path, shapes()), 0.6), by_key({FF: 0.6 * (want - weight)}))


def test_kinds_after_each_other(tmp_path: Path) -> None:
    a, b = factors(TO_Q)
    plain = read_lora(write(tmp_path / "a.safetensors", {TO_Q + ".lora_A.weight": a, TO_Q + ".lora_B.weight": b}),
                      shapes())
    diff = random(64, 64)
    other = read_lora(write(tmp_path / "b.safetensors", {TO_Q + ".diff": diff}), shapes())
    reader, name = RangeReader(torch.device("cpu")), TO_Q + ".weight"
    for dtype, step in ((torch.float32, 2e-6), (torch.bfloat16, 2 ** -8)):
        changes = [prepare(lora.updates["transformer"][name], strength, dtype, reader.read)
                   for lora, strength in ((plain, 0.5), (other, -2.0), (plain, 0.25))]
        start = weights()["transformer/" + name].to(dtype, copy=True)
        want = start.double() + 0.75 * (b.to(dtype).double() @ a.to(dtype).double()) - 2 * diff.double()
        assert (apply(start, changes).double() - want).abs().max() <= step * want.abs().max()


def test_nothing_is_skipped_in_silence(tmp_path: Path) -> None:
    a, b = factors(TO_Q)
    tensors = {
        TO_Q + ".lora_A.weight": a, TO_Q + ".lora_B.weight": b, TO_Q + ".lora_A.other.weight": a * 2,
        TO_Q + ".diff": random(64, 64), GATE + ".lora_A.weight": factors(GATE)[0], FF + ".alpha": torch.ones(()),
        OUT + ".lora_A.weight": random(2, 33), OUT + ".lora_B.weight": random(32, 2),
        ADALN + ".lora_A.weight": random(2, 256), ADALN + ".lora_B.weight": random(64, 3),
        "transformer_blocks.9.attn1.to_q.lora_A.weight": a, "lora_te_layers_0_self_attn_q_proj.lora_down.weight": a,
        "language_model.layers.0.self_attn.q_proj.lora_A.weight": a, "note": a,
        "transformer_blocks.0.ff.net.2.lora_mid.weight": a, "transformer_blocks.0.ff.net.2.lora_up.weight": b,
        "transformer_blocks.1.attn1.to_v.alpha": random(2), "transformer_blocks.1.attn1.to_v.lora_A.weight": a,
        "audio_patchify_proj.dora_scale": random(5), "audio_patchify_proj.lora_A.weight": random(2, 32),
        "audio_patchify_proj.lora_B.weight": random(32, 2)}
    lora = read_lora(write(tmp_path / "x.safetensors", tensors), shapes())
    assert list(lora.updates["transformer"]) == [TO_Q + ".weight"]
    assert set(lora.unused) == set(tensors) - {TO_Q + ".lora_A.weight", TO_Q + ".lora_B.weight"} or (
        set(lora.unused) == set(tensors) - {TO_Q + ".lora_A.other.weight", TO_Q + ".lora_B.weight"})
    print(lora.report())
    reasons = {key: lora.unused[key] for key in tensors if key in lora.unused}
    for key, words in {TO_Q + ".diff": "a second update", GATE + ".lora_A.weight": "is missing",
                       FF + ".alpha": "anything to scale", OUT + ".lora_A.weight": "shape [32, 33]",
                       ADALN + ".lora_B.weight": "do not fit each other", "note": "not an ending",
                       "transformer_blocks.9.attn1.to_q.lora_A.weight": "no such module",
                       "lora_te_layers_0_self_attn_q_proj.lora_down.weight": "text encoder",
                       "language_model.layers.0.self_attn.q_proj.lora_A.weight": "text encoder",
                       "transformer_blocks.0.ff.net.2.lora_up.weight": "Tucker",
                       "transformer_blocks.1.attn1.to_v.alpha": "alpha has the shape [2]",
                       "audio_patchify_proj.lora_A.weight": "a magnitude of shape [5]"}.items():
        assert words in reasons[key], (key, reasons[key])


def test_components_that_are_not_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", {"diffusion_model." + CONNECTOR + end: t for end, t in zip(
        (".lora_A.weight", ".lora_B.weight"), factors(CONNECTOR), strict=True)})
    assert len(read_lora(path, shapes()).updates["connectors"]) == 1
    with refuses(OverlayError, "changes nothing of LTX-2.3, no such module here", CONNECTOR):
        read_lora(path, {"transformer": shapes()["transformer"]})


@pytest.mark.parametrize("keys, words", [
    (["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"], "is made for HunyuanVideo"),
    (["lora_unet_single_blocks_0_linear1.lora_down.weight"], "is made for Flux"),
    (["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"], "is made for Flux"),
    (["lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight", "lora_te1_x.alpha"], "is made for "),
    (["lora_unet_input_blocks_4_1_proj_in.lora_up.weight"], "is made for Stable Diffusion"),
    (["diffusion_model.blocks.0.self_attn.q.lora_A.weight"], "is made for Wan"),
    (["transformer.transformer_blocks.0.img_mlp.net.2.lora_A.weight"], "is made for Qwen-Image"),
    (["text_encoders.gemma.model.layers.3.self_attn.q_proj.lora_A.weight"], "made for a text encoder (Gemma)"),
    ([TO_Q + ".oft_R.weight"], "a LoRA made with OFT"), ([TO_Q + ".oft_blocks"], "OFT"),
    ([TO_Q + ".a1.weight", TO_Q + ".a2.weight"], "GLoRA"), ([TO_Q + ".boft_R"], "BOFT"),
    (["model.diffusion_model." + TO_Q + ".weight"], "is no LoRA"), ([], "is no LoRA (no tensors)"),
    (["something.lora_A.weight", "something.lora_B.weight"], "no such module here"),
])
def test_other_loras_are_named(keys: list[str], words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", {key: torch.zeros(2, 2) for key in keys})
    with refuses(OverlayError, str(path), words):
        read_lora(path, shapes())


def test_metadata_of_ic_loras(tmp_path: Path) -> None:
    tensors = {"diffusion_model." + TO_Q + end: t for end, t in zip((".lora_A.weight", ".lora_B.weight"), factors(TO_Q),
                                                                    strict=True)}
    for metadata, want in (({"reference_downscale_factor": "2"}, (2, 1)), ({}, (1, 1)),
                           ({"reference_spatial_scale_factor": "2.0", "reference_temporal_scale_factor": "4"}, (2, 4)),
                           ({"ss_reference_downscale_factor": "2"}, (2, 1)),
                           ({"ss_reference_temporal_scale_factor": "2"}, (1, 2)),
                           ({"ss_reference_spatial_scale_factor": "2.0", "reference_downscale_factor": "None"}, (2, 1)),
                           ({"reference_downscale_factor": "1e99"}, (1, 1))):
        lora = read_lora(write(tmp_path / "x.safetensors", tensors, metadata), shapes())
        assert (lora.reference_downscale_factor, lora.reference_temporal_scale_factor) == want
        assert lora.metadata == metadata


def test_no_two_modules_of_the_22b_model_share_a_name() -> None:
    config = manifest_22b()["metadata"]["config"]["transformer"]
    names = Names({name: expected_tensors(name, config) for name in ("transformer", "connectors")})
    assert len(names._underscore) > 3500 and None not in names._underscore.values()
