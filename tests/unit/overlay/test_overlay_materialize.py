"""From files to an overlay: what fits, and every way in which files do not fit."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ltx23_core.errors import OverlayError
from ltx23_core.overlay import Overlay, manifest, materialize
from ltx23_core.overlay.bytes.source import DTYPE_BITS
from tests.goldens.harness import CHECKPOINT, GEMMA, companion
from tests.support.overlay import (
    GEMMA_4B,
    GEMMA_12B,
    Layout,
    checkpoint_22b,
    gemma_folder,
    refuses,
    tiny_parts,
    write_sparse,
)

REPO = Path(__file__).parents[3]
T = "model.diffusion_model."


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A copy of the tiny files that a test may change."""
    for file in CHECKPOINT.parent.glob("*.safetensors"):
        shutil.copyfile(file, tmp_path / file.name)
    shutil.copytree(GEMMA, tmp_path / "gemma", copy_function=shutil.copyfile)
    return tmp_path / CHECKPOINT.name


def changed(path: Path, *, drop: tuple[str, ...] = (), add: Layout | None = None, rename: dict[str, str] | None = None,
            config: dict | None = None, metadata: dict[str, str] | None = None) -> Path:
    """The tiny checkpoint with other tensors or metadata (prefixes to drop, exact names to add or rename)."""
    layout, meta = tiny_parts()
    layout = {(rename or {}).get(n, n): v for n, v in layout.items() if not n.startswith(drop or "\0")} | (add or {})
    if config is not None:
        meta["config"] = json.dumps({**json.loads(meta["config"]), **config})
    return write_sparse(path, layout, meta if metadata is None else metadata)


def no_leftovers(folder: Path, *kept: str) -> None:
    """Nothing but the files that were there."""
    assert sorted(p.name for p in folder.iterdir()) == sorted(kept)


def test_complete_overlay_survives_the_disk(tiny: Path) -> None:
    files = [tiny.with_name(companion(s).name) for s in ("spatial-upscaler-x2", "temporal-upscaler-x2")]
    overlay = materialize(tiny, tiny.parent / "gemma", upsamplers=files,
                          distilled_lora=tiny.with_name(companion("distilled-lora").name))
    assert overlay.path == tiny.with_name(tiny.name + ".ltx23.json")
    assert Overlay.load(overlay.path) == overlay
    assert overlay.tokenizer == tiny.parent / "gemma" and len(overlay.sources) >= 5
    report = overlay.report()
    assert "transformer: " in report and (
        "no upsampler_x1.5 (for upscaling by 1.5): ltx-2.3-spatial-upscaler-x1.5-1.0.safetensors, 1.1 GB -> models/"
        "latent_upscale_models: https://huggingface.co/Lightricks/LTX-2.3/resolve/main/ltx-2.3-spatial") in report
    assert not list(tiny.parent.glob("*.tmp")) and not list(tiny.parent.glob("*.lock"))


def test_same_files_same_id_and_other_files_another(tiny: Path) -> None:
    one = materialize(tiny)
    two = materialize(str(tiny), output=tiny.with_name("other.json"))
    assert one.id == two.id
    assert materialize(tiny, tiny.parent / "gemma").id != one.id
    assert materialize(tiny, variant="distilled").id != one.id


@pytest.mark.parametrize(("name", "variant"), [("ltx-2.3-22b-Distilled-1.1", "distilled"), ("ltx-2.3-22b-dev", "dev"),
                                               ("anything", "dev")])
def test_variant_by_name(name: str, variant: str, tiny: Path) -> None:
    assert materialize(tiny.rename(tiny.with_name(name + ".safetensors"))).variant == variant


def test_unknown_variant(tiny: Path) -> None:
    with refuses(OverlayError, "'fast'", "distilled"):
        materialize(tiny, variant="fast")


@pytest.mark.parametrize(("name", "file"), [("text_encoder", "gemma_3_12B_it"), ("upsampler_x2", "upscaler-x2-1.1"),
                                            ("distilled_lora", "lora-384"), ("nonsense", "22b-dev")])
def test_require_says_where_to_get_it(name: str, file: str, tiny: Path) -> None:
    with refuses(OverlayError, f"no {name}", file, "models/", "https://huggingface.co/"):
        materialize(tiny).require(name)


def test_old_statistics_are_ignored_and_either_dtype_is_fine(tmp_path: Path) -> None:
    layout, _ = tiny_parts()
    tables = {n: ("BF16", shape) for n, (_, shape) in layout.items() if n.endswith("scale_shift_table")}
    halves = {n: ("F16", shape) for n, (_, shape) in layout.items() if n.startswith("vocoder.")}
    extra = {f"vae.per_channel_statistics.{name}": ("F32", (8,)) for name in ("mean-of-stds", "channel")}
    overlay = materialize(changed(tmp_path / "a.safetensors", add=tables | halves | extra))
    assert "per_channel_statistics.mean-of-stds" not in overlay.require("video_encoder").tensors
    assert overlay.require("transformer").tensors["scale_shift_table"].dtype == "BF16"


# What is changed -> what the error must say.
FAULTS: dict[str, tuple[dict, tuple[str, ...]]] = {
    "missing": ({"drop": (T + "transformer_blocks.1.attn1.to_q.weight",)},
                ("transformer: 1 of", "missing", "transformer_blocks.1.attn1.to_q.weight")),
    "many missing": ({"drop": (T + "transformer_blocks.3.",)}, ("missing", "transformer_blocks.3.", "more")),
    "mis-shaped": ({"add": {T + "patchify_proj.weight": ("BF16", (64, 9))}},
                   ("transformer: 1 mis-shaped", "patchify_proj.weight is 64x9, should be 64x8")),
    "another projection": ({"add": {"text_embedding_projection.audio_aggregate_embed.weight": ("BF16", (31, 256))}},
                           ("text_projection: 1 mis-shaped", "31x256")),
    "unexpected": ({"add": {T + "transformer_blocks.0.attn1.to_q.extra": ("BF16", (4,))}},
                   ("transformer: 1 unexpected", "attn1.to_q.extra")),
    "two at once": ({"drop": ("vae.encoder.conv_in",), "add": {"vae.decoder.new": ("BF16", (1,))}},
                    ("video_encoder: 2 of", "video_decoder: 1 unexpected")),
    "LTX-2.0": ({"drop": (T + "prompt_adaln_single", T + "audio_prompt_adaln_single"),
                 "add": {T + "caption_projection.linear_1.weight": ("BF16", (64, 32))}}, ("LTX-2.0",)),
    "LTX-2.5 duration head": ({"add": {"duration_head.x": ("BF16", (1,))}}, ("LTX-2.5",)),
    "LTX-2.5 keyframes": ({"add": {T + "keyframes_abs_pos_embedding": ("BF16", (1, 64))}}, ("LTX-2.5",)),
    "LTX-2.5 no bias": ({"drop": tuple(f"{T}transformer_blocks.{i}.ff.net.2.bias" for i in range(9))}, ("LTX-2.5",)),
    "no transformer": ({"drop": (T,)}, ("there is no transformer", "text projection, video VAE and audio VAE")),
    "no metadata": ({"metadata": {}}, ("have no config for transformer, connectors", "cannot be known")),
    "config is no JSON": ({"metadata": {"config": "{"}}, ("not JSON",)),
    "config is no object": ({"metadata": {"config": "[]"}}, ("not a JSON object",)),
    "no config.vae": ({"config": {"vae": None}}, ("have no config for video_encoder, video_decoder",)),
    "no config.transformer": ({"config": {"transformer": []}}, ("the part 'transformer'", "is no table")),
    "an empty part": ({"config": {"vocoder": {}}}, ("config of vocoder cannot be used",)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_the_checkpoint(name: str, tmp_path: Path) -> None:
    changes, texts = FAULTS[name]
    path = changed(tmp_path / "model.safetensors", **changes)
    with refuses(OverlayError, str(path), *texts):
        materialize(path)
    no_leftovers(tmp_path, "model.safetensors")


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("key", ["num_layers", "caption_channels", "connector_num_attention_heads",
                                 "num_attention_heads"])
@pytest.mark.parametrize("value", ["gone", "four", -1, 3])
def test_wrong_values_in_the_config_are_refused(key: str, value: object, tmp_path: Path) -> None:
    transformer = json.loads(tiny_parts()[1]["config"])["transformer"]
    transformer = {k: v for k, v in transformer.items() if k != key} if value == "gone" else {**transformer, key: value}
    path = changed(tmp_path / "model.safetensors", config={"transformer": transformer})
    with refuses(OverlayError, str(path)):
        materialize(path)


def test_missing_parts_and_unused_tensors_are_reported(tmp_path: Path) -> None:
    path = changed(tmp_path / "model.safetensors", drop=("vocoder.", "audio_vae."), add={"cond_stage.x": ("F32", (4,))})
    overlay = materialize(path)
    assert not {"vocoder", "audio_encoder", "audio_decoder"} & set(overlay.components)
    report = overlay.report()
    assert ("no audio_decoder, audio_encoder, vocoder (for sound and source audio): LTX23_audio_vae_bf16.safetensors, "
            "0.4 GB -> models/vae: https://huggingface.co/Kijai/LTX2.3_comfy/resolve/main/vae/LTX23_audio") in report
    assert "(cond_stage.x)" in report
    with refuses(OverlayError, "no vocoder", "models/vae"):
        overlay.require("vocoder")


def test_truncated_checkpoint(tiny: Path) -> None:
    size = tiny.stat().st_size
    os.truncate(tiny, size - 1000)
    with refuses(OverlayError, str(tiny), "truncated", "1000 are missing", f"{size} bytes"):
        materialize(tiny)


def test_other_files_in_the_place_of_the_checkpoint(tiny: Path) -> None:
    for path, kind in ((companion("distilled-lora"), "a LoRA"), (GEMMA, "a Gemma 3"),
                       (companion("spatial-upscaler-x2"), "a latent upscaler")):
        with refuses(OverlayError, path.name, f"is {kind}"):
            materialize(path, output=tiny.parent / "o.json")
        assert not (tiny.parent / "o.json").exists()


def test_text_encoder_of_another_size(tmp_path: Path) -> None:
    checkpoint = checkpoint_22b(tmp_path / "dev.safetensors")
    with refuses(OverlayError, "is Gemma 3 4B (34 layers of width 2560)", "Gemma 3 12B (48 layers of width 3840)"):
        materialize(checkpoint, gemma_folder(tmp_path / "gemma", GEMMA_4B))
    # Right width, wrong depth.
    short = {**GEMMA_12B, "text_config": {**GEMMA_12B["text_config"], "num_hidden_layers": 47}}
    with refuses(OverlayError, "47 layers"):
        materialize(checkpoint, gemma_folder(tmp_path / "short", short))
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("index", [True, False], ids=["with index", "without index"])
def test_missing_shards_are_listed(index: bool, tmp_path: Path) -> None:
    checkpoint, folder = checkpoint_22b(tmp_path / "dev.safetensors"), gemma_folder(tmp_path / "gemma")
    for number in (2, 4):
        (folder / f"model-{number:05}-of-00005.safetensors").unlink()
    if not index:
        (folder / "model.safetensors.index.json").unlink()
    with refuses(OverlayError, "lacks 2 of 5 shards: model-00002-of-00005.safetensors, model-00004-of-00005"):
        materialize(checkpoint, folder)
    # A shard named as the entry, as old workflows do, means its folder.
    with refuses(OverlayError, "lacks 2 of 5 shards"):
        materialize(checkpoint, folder / "model-00001-of-00005.safetensors")


def test_index_without_all_shards_but_a_single_file(tiny: Path) -> None:
    (tiny.parent / "gemma" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "model-00001-of-00002.safetensors"}}))
    assert materialize(tiny, tiny.parent / "gemma").require("text_encoder").tensors


def folder_without(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


GEMMA_FAULTS = {
    "no config": (lambda f: folder_without(f, "config.json"), "config.json is missing"),
    "no tokenizer": (lambda f: folder_without(f, "tokenizer.json", "tokenizer.model"), "no tokenizer"),
    "no weights": (lambda f: folder_without(f, "model.safetensors"), "no model*.safetensors"),
    "gemma 2": (lambda f: edit_config(f, model_type="gemma2"), "type 'gemma2'"),
    "text_config is no table": (lambda f: edit_config(f, text_config=5), "'gemma3'"),
    "fewer heads": (lambda f: edit_config(f, text_config={"hidden_size": 32, "num_hidden_layers": 7}), "mis-shaped"),
    "text in numbers": (lambda f: edit_config(f, text_config={"hidden_size": "32"}), "config of text_encoder"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("<html>"), "not JSON"),
    "index out of the folder": (lambda f: (f / "model.safetensors.index.json").write_text(
        '{"weight_map": {"x": "../../secret.safetensors"}}'), "weight_map"),
    "weights are a pointer": (lambda f: (f / "model.safetensors").write_text("version https://git-lfs"), "LFS pointer"),
}


@pytest.mark.parametrize("name", GEMMA_FAULTS)
def test_faults_of_the_text_encoder(name: str, tiny: Path) -> None:
    change, text = GEMMA_FAULTS[name]
    change(tiny.parent / "gemma")
    with refuses(OverlayError, str(tiny.parent / "gemma"), text):
        materialize(tiny, tiny.parent / "gemma")
    assert not list(tiny.parent.glob("*.json"))


def test_upscalers(tiny: Path, tmp_path: Path) -> None:
    x2 = tiny.with_name(companion("spatial-upscaler-x2").name)
    with refuses(OverlayError, "both upsampler_x2"):
        materialize(tiny, upsamplers=[x2, x2])
    with refuses(OverlayError, tiny.name, "a latent upscaler file"):
        materialize(tiny, upsamplers=[tiny])
    from ltx23_core.overlay.bytes.header import read_header
    header = read_header(x2)
    layout = {name: (ref.dtype, ref.shape) for name, ref in header.tensors.items()}
    config = json.loads(header.metadata["config"])
    for changes, text in (({"spatial_scale": 4.0}, "scale 4.0"), ({"spatial_scale": "2"}, "scale '2'"),
                          ({"spatial_upsample": False}, "spatial_upsample False"), ({"in_channels": 9}, "mis-shaped"),
                          ({"mid_channels": None}, "cannot be used"), ({"dims": 2}, "dims")):
        path = write_sparse(tmp_path / "x.safetensors", layout, {"config": json.dumps({**config, **changes})})
        with refuses(OverlayError, text):
            materialize(tiny, upsamplers=[path])
    bare = materialize(tiny, upsamplers=[write_sparse(tmp_path / "x.safetensors", layout)])  # shapes say everything
    stated = materialize(tiny, upsamplers=[x2])
    assert bare.require("upsampler_x2").config.items() <= stated.require("upsampler_x2").config.items()
    wide = {n: (d, tuple(9 if s == 8 else s for s in shape)) for n, (d, shape) in layout.items()}
    path = write_sparse(tmp_path / "x.safetensors", wide, {"config": json.dumps({**config, "in_channels": 9})})
    with refuses(OverlayError, "latents of 9 channels, the checkpoint has 8"):
        materialize(tiny, upsamplers=[path])


LORA = "diffusion_model.transformer_blocks.0.attn1.to_q."
PAIR: Layout = {LORA + "lora_A.weight": ("BF16", (4, 64)), LORA + "lora_B.weight": ("BF16", (64, 4))}


@pytest.mark.parametrize(("layout", "text"), [
    ({**PAIR, "diffusion_model.nowhere.lora_A.weight": ("BF16", (4, 64))}, "1 keys of no Linear of the transformer (n"),
    ({**PAIR, LORA + "gamma": ("BF16", ())}, "to_q.gamma"),
    ({LORA + "lora_A.weight": ("BF16", (4, 64))}, "1 without the other half"),
    ({**PAIR, LORA + "lora_B.weight": ("BF16", (64, 5))}, "1 that do not fit"),
    ({**PAIR, LORA + "lora_A.weight": ("BF16", (4, 63))}, "1 that do not fit"),
    ({**PAIR, LORA + "lora_A.weight": ("BF16", (4,))}, "1 that do not fit"),
    ({}, "no tensors"),
])
def test_faults_of_the_lora(layout: Layout, text: str, tiny: Path, tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "lora.safetensors", layout)
    with refuses(OverlayError, str(path), text):
        materialize(tiny, distilled_lora=path)


def test_a_scale_of_the_lora_is_kept(tiny: Path, tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "lora.safetensors", {**PAIR, LORA + "alpha": ("BF16", ())})
    assert "transformer_blocks.0.attn1.to_q.alpha" in materialize(tiny, distilled_lora=path).require(
        "distilled_lora").tensors


def test_other_files_in_the_place_of_the_lora(tiny: Path) -> None:
    with refuses(OverlayError, "an LTX-2.3 single-file checkpoint", "keys of no Linear"):
        materialize(tiny, distilled_lora=tiny)


# --- the manifest and its sources

def test_changed_sources_are_refused(tiny: Path) -> None:
    overlay = materialize(tiny, tiny.parent / "gemma")
    stat = tiny.stat()
    os.utime(tiny, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))
    with refuses(OverlayError, tiny.name, "written to", "again"):
        overlay.verify()
    with refuses(OverlayError, "written to"):
        Overlay.load(overlay.path)
    with open(tiny, "r+b") as file:  # another header of the same length, with size and time as before
        content = file.read(20)
        file.seek(0)
        file.write(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(tiny, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with refuses(OverlayError, "its header is another one"):
        overlay.verify()
    os.truncate(tiny, 1000)
    with refuses(OverlayError, f"from {stat.st_size} to 1000 bytes"):
        overlay.verify()
    tiny.unlink()
    with refuses(OverlayError, "cannot be read any more"):
        overlay.verify()


def test_changed_tokenizer_is_refused(tiny: Path) -> None:
    overlay = materialize(tiny, tiny.parent / "gemma")
    with open(tiny.parent / "gemma" / "tokenizer.json", "a") as file:
        file.write(" ")
    with refuses(OverlayError, "tokenizer.json", "again"):
        overlay.verify()


def rewritten(path: Path, change: object) -> None:
    content = json.loads(path.read_text())
    content.pop("id")
    change(content)
    path.write_text(manifest.encode(content)[0])


MANIFESTS = {
    "another format": (lambda c: c.update(format="ltx23-overlay/9"), "has the format something that is no name"),
    "no files": (lambda c: c.update(files=[]), "damaged"),
    "no components": (lambda c: c.pop("components"), "damaged"),
    "relative path": (lambda c: c["files"][0].update(path="a.safetensors"), "damaged"),
    "unknown variant": (lambda c: c.update(variant="fast"), "damaged"),
    "unknown dtype": (lambda c: patch(c, [0, "BF17", [2], 0, 4]), "damaged"),
    "past the end": (lambda c: patch(c, [0, "BF16", [2], 10**9, 10**9 + 4]), "damaged (ValueError)"),
    "negative": (lambda c: patch(c, [0, "BF16", [2], -4, 0]), "damaged (ValueError)"),
    "wrong length": (lambda c: patch(c, [0, "BF16", [2], 0, 5]), "damaged (ValueError)"),
    "no such file": (lambda c: patch(c, [7, "BF16", [2], 0, 4]), "damaged"),
    "too short": (lambda c: patch(c, [0]), "damaged"),
}


def patch(content: dict, entry: list) -> None:
    content["components"]["transformer"]["tensors"]["scale_shift_table"] = entry


@pytest.mark.parametrize("name", MANIFESTS)
def test_bad_manifests_are_refused(name: str, tiny: Path) -> None:
    change, text = MANIFESTS[name]
    path = materialize(tiny).path
    rewritten(path, change)
    with refuses(OverlayError, str(path), text):
        Overlay.load(path)


def test_edited_or_foreign_manifests_are_refused(tiny: Path) -> None:
    path = materialize(tiny).path
    path.write_text(path.read_text().replace('"variant":"dev"', '"variant":"distilled"'))
    with refuses(OverlayError, "edited or damaged"):
        Overlay.load(path)
    with refuses(OverlayError, "has the format nothing"):
        Overlay.load(tiny.parent / "gemma" / "config.json")
    with refuses(OverlayError, "not JSON"):
        Overlay.load(tiny)
    with refuses(OverlayError, "cannot be read"):
        Overlay.load(tiny.with_name("none.json"))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_write_leaves_the_old_manifest(step: str, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = materialize(tiny)
    before, files = old.path.read_bytes(), sorted(p.name for p in tiny.parent.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest.os, step, full)
    with refuses(OverlayError, str(old.path), "No space left", "output"):
        materialize(tiny, variant="distilled")
    no_leftovers(tiny.parent, *files)
    assert old.path.read_bytes() == before


def test_output_that_cannot_be_written(tiny: Path) -> None:
    for output in (tiny / "overlay.json", tiny.parent):  # below a file; a folder
        with refuses(OverlayError, str(output), "cannot be written", "output"):
            materialize(tiny, output=output)
    assert not list(tiny.parent.glob(".*"))


def test_read_only_folder(tiny: Path) -> None:
    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("root and Windows can write into read-only folders; the tests above make writing fail otherwise")
    tiny.parent.chmod(0o500)
    try:
        with refuses(OverlayError, "cannot be written", "output"):
            materialize(tiny)
    finally:
        tiny.parent.chmod(0o700)


def test_output_folder_is_made(tiny: Path, tmp_path: Path) -> None:
    assert materialize(tiny, output=tmp_path / "new" / "folder" / "x.json").path.exists()


def test_two_processes_at_once(tiny: Path) -> None:
    """Both give the same overlay, and a reader never sees half a manifest."""
    code = ("import sys, torch; from ltx23_core.overlay import Overlay, materialize\n"
            "for _ in range(15): print(materialize(sys.argv[1]).id == Overlay.load(sys.argv[1] + '.ltx23.json').id)")

    def run(_: int) -> str:
        return subprocess.run([sys.executable, "-c", code, str(tiny)], cwd=REPO, check=True, capture_output=True,
                              text=True).stdout

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, range(2))) == ["True\n" * 15] * 2
    assert not list(tiny.parent.glob(".*")), "temporary or lock files are left"


def test_links_keep_their_name(tiny: Path, tmp_path: Path) -> None:
    """The Hugging Face cache is made of links named like the model to files named by their hash."""
    link = tmp_path / "snapshots" / "ltx-2.3-22b-distilled.safetensors"
    link.parent.mkdir()
    link.symlink_to(tiny)
    overlay = materialize(link, output=tmp_path / "o.json")
    assert overlay.variant == "distilled" and overlay.sources[0].path == link


def test_every_safetensors_dtype_has_a_size() -> None:
    assert set(DTYPE_BITS.values()) == {4, 6, 8, 16, 32, 64}
