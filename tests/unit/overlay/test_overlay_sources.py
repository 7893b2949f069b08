"""Sources alone or mixed: what is found in files and folders, what replaces what, and what is refused by name."""
from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ltx23_core import Overlay, materialize
from ltx23_core.errors import OverlayError
from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.overlay.bytes.source import QuantRef
from ltx23_core.overlay.names.layout import LAYOUTS, match
from tests.goldens.harness import CHECKPOINT, companion
from tests.support import quantisers
from tests.support.layouts import T, config, diffusers_folder, metadata, part, save, sglang_folder, split_folder, tiny
from tests.support.overlay import refuses

L = T + "transformer_blocks.2.attn1.to_q."


def make(*paths: Path, output: Path, **more: object) -> Overlay:
    return materialize(paths[0], components=paths[1:], output=output / "o.json", **more)


# --- mixing

def test_later_components_replace_earlier_ones_and_it_is_said(tmp_path: Path) -> None:
    video = save({k: v + 1 for k, v in part("vae.", strip="vae.").items()}, tmp_path / "video.safetensors",
                 config("vae"))
    overlay = make(CHECKPOINT, video, output=tmp_path)
    assert {r.path for r in overlay.require("video_decoder").tensors.values()} == {video}
    assert {r.path for r in overlay.require("transformer").tensors.values()} == {CHECKPOINT}
    assert f"video_encoder, video_decoder of {CHECKPOINT} replaced by {video}" in overlay.notes
    assert f"notes:\n  video_encoder, video_decoder of {CHECKPOINT} replaced" in overlay.report()
    back = make(CHECKPOINT, video, CHECKPOINT, output=tmp_path)
    assert {s.path for s in back.sources} == {CHECKPOINT}, "a source that is not used any more"


def test_half_of_a_vae(tmp_path: Path) -> None:
    decoder = save({k: v for k, v in part("vae.", strip="vae.").items() if not k.startswith("encoder.")},
                   tmp_path / "decoder.safetensors", config("vae"))
    main = save(part(T), tmp_path / "t.safetensors", config("transformer"))
    overlay = make(main, decoder, output=tmp_path)
    assert "video_decoder" in overlay.components and "video_encoder" not in overlay.components
    assert "per_channel_statistics.mean-of-means" in overlay.require("video_decoder").tensors


def test_a_transformer_alone_is_an_overlay_that_says_what_is_missing(tmp_path: Path) -> None:
    report = make(save(part(T), tmp_path / "t.safetensors", config("transformer")), output=tmp_path).report()
    for name in ("text_projection", "video_decoder", "vocoder", "text_encoder"):
        assert any(name in line for line in report.splitlines() if line.startswith("  no ") and "https://" in line)
    assert re.search(r"^  transformer: \d.* \(.*bf16.*\) of .*/t\.safetensors$", report, re.M)


def test_configuration_of_another_source(tmp_path: Path) -> None:
    """A transformer without metadata beside a monolith of the same shapes."""
    bare = save(part(T, strip=T), tmp_path / "t.safetensors")
    overlay = make(CHECKPOINT, bare, output=tmp_path)
    assert {r.path for r in overlay.require("transformer").tensors.values()} == {bare}
    assert any("t.safetensors has no configuration for transformer, connectors" in note for note in overlay.notes)
    with refuses(OverlayError, "t.safetensors", "no config for transformer, connectors", "cannot be known",
                 "adaln_single"):
        make(bare, output=tmp_path)


def test_config_that_disagrees_with_the_shapes(tmp_path: Path) -> None:
    values = json.loads(metadata()["config"])["transformer"] | {"num_attention_heads": 8}
    path = save(part(T), tmp_path / "t.safetensors", {"config": json.dumps({"transformer": values})})
    with refuses(OverlayError, "t.safetensors", "mis-shaped"):
        make(path, output=tmp_path)


# --- what is no source

def test_no_transformer(tmp_path: Path) -> None:
    video = save(part("vae."), tmp_path / "video.safetensors", config("vae"))
    with refuses(OverlayError, "there is no transformer: ", "video.safetensors is an LTX", "always Gemma 3 12B",
                 "give its file or folder"):
        make(video, output=tmp_path)
    assert not (tmp_path / "o.json").exists()


def test_lora_as_a_component(tmp_path: Path) -> None:
    with refuses(OverlayError, "is a", "LoRA"):
        make(CHECKPOINT, companion("distilled-lora"), output=tmp_path)


def test_empty_or_foreign_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with refuses(OverlayError, "empty has no weight files"):
        make(tmp_path / "empty", output=tmp_path)
    save({"input_blocks.0.weight": torch.zeros(1)}, tmp_path / "sd" / "x.safetensors")
    with refuses(OverlayError, "x.safetensors is "):
        make(tmp_path / "sd", output=tmp_path)


# --- folders

def test_folder_with_other_files(tmp_path: Path) -> None:
    split_folder(tmp_path / "m")
    shutil.copy(companion("distilled-lora"), tmp_path / "m" / "lora.safetensors")
    shutil.copy(companion("spatial-upscaler-x2"), tmp_path / "m")
    (tmp_path / "m" / ".cache").mkdir()
    (tmp_path / "m" / ".cache" / "x.safetensors").write_text("half a download")
    overlay = make(tmp_path / "m", output=tmp_path)
    assert "upsampler_x2" in overlay.components
    assert any("not used of m: lora.safetensors (" in note for note in overlay.notes)


def test_folder_with_two_of_a_kind(tmp_path: Path) -> None:
    for name in ("dev", "distilled"):
        shutil.copy(CHECKPOINT, tmp_path / f"{name}.safetensors")
    with refuses(OverlayError, "two files with the component transformer: dev.safetensors and distilled.safetensors"):
        materialize(tmp_path)


def test_diffusers_folder_with_holes(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path / "m").checkpoint / "transformer"
    stem = "diffusion_pytorch_model"
    single = save({k: v for i in (1, 2, 3) for k, v in load_file(
        folder / f"{stem}-{i:05}-of-00003.safetensors").items()}, tmp_path / f"{stem}.safetensors")
    shutil.copy(single, folder / f"{stem}.fp16.safetensors")  # another precision beside: not read
    shutil.copy(single, folder)  # both forms: the shards, since they are complete
    used = {r.path.name for r in make(tmp_path / "m", output=tmp_path).require("transformer").tensors.values()}
    assert used == {f"{stem}-{i:05}-of-00003.safetensors" for i in (1, 2, 3)}
    (folder / f"{stem}-00002-of-00003.safetensors").unlink()
    used = {r.path.name for r in make(tmp_path / "m", output=tmp_path).require("transformer").tensors.values()}
    assert used == {f"{stem}.safetensors"}
    (folder / f"{stem}.safetensors").unlink()
    with refuses(OverlayError, "lacks 1 of 3 shards: diffusion_pytorch_model-00002-of-00003.safetensors"):
        make(tmp_path / "m", output=tmp_path)


def test_shard_stands_for_its_model(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path / "m").checkpoint
    overlay = make(folder / "transformer" / "diffusion_pytorch_model-00002-of-00003.safetensors", output=tmp_path)
    assert overlay.require("transformer").config["num_layers"] == 4 and list(overlay.components) == ["transformer"]


@pytest.mark.parametrize(("name", "dynamic", "want"), [
    ("LTX-2.3-Diffusers", True, "dev"), ("LTX-2.3-Diffusers", False, "distilled"),
    ("LTX-2.3-Distilled-Diffusers", None, "distilled"), ("LTX-2.3-Diffusers", None, "dev")])
def test_variant_of_a_diffusers_folder(name: str, dynamic: bool | None, want: str, tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path / name).checkpoint
    (folder / "scheduler" / "scheduler_config.json").unlink()
    if dynamic is not None:
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"use_dynamic_shifting": dynamic}))
    overlay = materialize(folder)
    assert overlay.variant == want and overlay.path == folder.with_name(name + ".ltx23.json")


def test_hub_cache(tmp_path: Path) -> None:
    """models--<owner>--<name>/snapshots/<commit>/ of links to blobs without an extension."""
    root = tmp_path / "models--Lightricks--LTX-2.3-distilled"
    snapshot = root / "snapshots" / ("0f" * 20)
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    shutil.copy(CHECKPOINT, root / "blobs" / "abc")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    overlay = make(snapshot, output=tmp_path)
    assert overlay.variant == "distilled" and overlay.sources[0].path == snapshot / "model.safetensors"


def test_sglang_folder_without_its_source(tmp_path: Path) -> None:
    folder = sglang_folder(tmp_path / "m").checkpoint
    shutil.rmtree(tmp_path / "m-source")
    overlay = make(folder, output=tmp_path, variant="dev")
    encoder = overlay.require("video_encoder").tensors["conv_in.conv.weight"]
    assert encoder.path.parent.name == "ltx23_image_encoder"
    assert any("audio VAE of this sglang folder is that of LTX-2.0" in note for note in overlay.notes)


def test_diffusers_upsampler_folder(tmp_path: Path) -> None:
    state = load_file(companion("spatial-upscaler-x2"))
    save(state, tmp_path / "latent_upsampler" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    overlay = make(CHECKPOINT, output=tmp_path, upsamplers=[tmp_path / "latent_upsampler"])
    assert overlay.require("upsampler_x2").config["mid_channels"] == 64
    assert set(make(CHECKPOINT, tmp_path / "latent_upsampler", output=tmp_path).components) == set(overlay.components)


# --- quantised weights that are not read

def quantised(folder: Path, drop: tuple[str, ...] = (), meta: dict | None = None, **tensors: torch.Tensor) -> Path:
    """The tiny monolith with other tensors in the place of one weight."""
    state = {k: v for k, v in tiny().items() if k != L + "weight" and k not in drop}
    return save(state | {L + name.replace("__", "."): v for name, v in tensors.items()}, folder / "q.safetensors",
                metadata() | (meta or {}))


def told(**values: object) -> torch.Tensor:
    return torch.tensor(list(json.dumps(values).encode()), dtype=torch.uint8)


I8, U8, Q = torch.zeros(64, 64, dtype=torch.int8), torch.zeros(64, 32, dtype=torch.uint8), torch.zeros(64, 64).to(
    torch.float8_e4m3fn)
S, ROWS = torch.ones(()), torch.ones(64)
REFUSED = {
    "int8 without a word": ({"weight": I8, "weight_scale": S}, "int8 that does not say whether its rows are rotated"),
    "int8 that says too little": ({"weight": I8, "weight_scale": S, "comfy_quant": told(per_row=True)},
                                  "int8 that does not say whether its rows are rotated"),
    "unknown format": ({"weight": I8, "comfy_quant": told(format="int8_blockwise")}, "the format 'int8_blockwise'"),
    "damaged comfy_quant": ({"weight": Q, "weight_scale": S, "comfy_quant": U8[0]}, "a damaged comfy_quant entry"),
    "block scales": ({"weight": Q, "weight_scale": torch.ones(2, 2)}, "weight_scale of shape [2, 2]"),
    "smoothed": ({"weight": U8, "weight_scale": torch.ones(128, 4).to(torch.float8_e4m3fn), "weight_scale_2": S,
                  "pre_quant_scale": ROWS}, "nvfp4 with pre_quant_scale"),
    "scales of another size": ({"weight": U8, "weight_scale": torch.ones(64, 4).to(torch.float8_e4m3fn),
                                "weight_scale_2": S}, "block scales of shape [64, 4]"),
    "U8": ({"weight": U8}, "U8 of an unknown format"),
    "no scale beside scales": ({"weight": Q, "other__weight_scale": S}, "fp8 without its scale"),
    "rotated by 7": ({"weight": I8, "weight_scale": S, "comfy_quant": told(
        format="int8_tensorwise", convrot=True, convrot_groupsize=8)}, "rotated in groups of 8"),
    "quanto": ({"weight___data": I8, "weight___scale": ROWS}, "quanto"),
    "bitsandbytes": ({"weight": U8, "weight__absmax": ROWS}, "bitsandbytes"),
    "nunchaku": ({"qweight": I8, "wscales": ROWS}, "nunchaku"),
    "ModelOpt": ({"weight": U8, "input_global_scale": S}, "ModelOpt"),
    "int4 without scale": ({"weight": I8[:, :32].contiguous(), "comfy_quant": told(format="convrot_w4a4")},
                           "weight_scale of shape None"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_quantised_weights_that_are_not_read(name: str, tmp_path: Path) -> None:
    tensors, text = REFUSED[name]
    path = quantised(tmp_path, **tensors)
    with refuses(OverlayError, "q.safetensors has quantised weights that cannot be read", text,
                 "transformer_blocks.2.attn1.to_q"):
        materialize(path)


def test_damaged_quantisation_metadata(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"layers": 5}', '{"layers": {"x": 1}, "y": '):
        with refuses(OverlayError, "_quantization_metadata", "cannot be read"):
            materialize(quantised(tmp_path, meta={"_quantization_metadata": text}, weight=Q, weight_scale=S))
    odd = json.dumps({"layers": {L[:-1]: {"format": ["nvfp4"]}}})
    with refuses(OverlayError, "a damaged comfy_quant entry"):
        materialize(quantised(tmp_path, meta={"_quantization_metadata": odd}, weight=Q, weight_scale=S))


def test_packed_weight_of_another_size_is_mis_shaped(tmp_path: Path) -> None:
    parts, _ = quantisers.nvfp4(torch.randn(80, 64))
    with refuses(OverlayError, "transformer: 1 mis-shaped", "attn1.to_q.weight is 80x64, should be 64x64"):
        materialize(quantised(tmp_path, **parts))


def test_every_layout_has_a_name_of_its_own() -> None:
    names = [layout.name for layout in LAYOUTS]
    assert len(set(names)) == len(names)


def test_match_needs_names_and_shapes_only(tmp_path: Path) -> None:
    """What other readers of files (GGUF) hand over: anything with path, tensors and metadata."""
    class Other:
        path = tmp_path / "x.gguf"
        metadata: dict = {}
        tensors = {key.removeprefix(T): QuantRef("Q4_K", ref.shape, {"weight": ref}) if len(ref.shape) == 2 else ref
                   for key, ref in read_header(CHECKPOINT).tensors.items() if key.startswith(T)}
    found = match(Other())
    assert found.layout == "transformer without prefix" and set(found.components) == {"transformer", "connectors"}
    assert found.components["transformer"]["patchify_proj.weight"].format == "Q4_K"
