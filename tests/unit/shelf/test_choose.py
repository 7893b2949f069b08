"""`auto`: the tiny model in every layout, laid out in model folders, is found, put together and materialised."""
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ltx23_core import identify, materialize
from ltx23_core.overlay.downloads import missing_lines
from ltx23_core.overlay.shelf.choose import Choice, choose
from ltx23_core.overlay.shelf.identity import Identity
from ltx23_core.overlay.shelf.report import report as full_report
from ltx23_core.overlay.shelf.shelf import Item, Shelf
from tests.goldens.harness import CHECKPOINT, GEMMA, ROOT
from tests.support.layouts import UNQUANTISED, Written
from tests.support.layouts_quantised import QUANTISED

COMPONENTS = {"transformer", "connectors", "text_projection", "video_encoder", "video_decoder", "audio_encoder",
              "audio_decoder", "vocoder", "text_encoder"}


def item(name: str, brings: tuple[str, ...], **values: object) -> Item:
    """A made-up file."""
    given = {"kind": "checkpoint", "sentence": name, "dtypes": "bf16", "usable": True, **values}
    return Item("checkpoints", name, Identity(Path("/models") / name, brings=brings, **given))


ALL = tuple(sorted(COMPONENTS - {"text_encoder"}))
ENCODER = item("gemma", ("text_encoder",), kind="text_encoder", fits={"text_features": 9})


@pytest.mark.parametrize("write", [*UNQUANTISED, *QUANTISED], ids=lambda write: write.__name__)
def test_every_layout_is_found(tmp_path: Path, write: Callable[[Path], Written]) -> None:
    folder = tmp_path / "checkpoints" / "model"
    folder.mkdir(parents=True)
    written = write(folder)
    if not any("text_encoder" in str(each) for each in (written.checkpoint, *written.arguments.values())):
        shutil.copytree(GEMMA, tmp_path / "text_encoders" / "gemma")
    items = Shelf().look([(name, tmp_path / name) for name in ("checkpoints", "text_encoders")])
    choice = choose(items, {})
    print("\n".join(f"{each.place}: {each.identity.sentence}" for each in items))
    missing = COMPONENTS & set(written.missing)
    assert missing <= set(choice.missing)
    overlay = materialize(**choice.arguments(), output=tmp_path / "overlay.json")
    assert COMPONENTS - missing <= set(overlay.components)
    report = full_report(overlay, choice, items)
    assert report.count("\n  transformer: ") == 1 and "in your folders: " in report


def test_the_best_complete_set_wins() -> None:
    dev = item("dev.safetensors", ALL, variant="dev", fits={"text_features": 9}, size_bytes=int(46e9))
    distilled = item("distilled.safetensors", ALL, variant="distilled", fits={"text_features": 9},
                     size_bytes=int(46e9))
    fp8 = item("fp8.safetensors", ALL, variant="dev", dtypes="fp8 scaled",
               fits={"text_features": 9}, size_bytes=int(29e9))
    lone = item("lone.safetensors", ("transformer",), variant="dev", fits={"text_features": 8})

    def best(*items: Item, budget: int = 0) -> str:
        return choose(items, {}, budget).files["checkpoint"].name

    assert best(distilled, fp8, dev, ENCODER) == "dev.safetensors"
    assert best(distilled, fp8, ENCODER) == "distilled.safetensors"
    assert best(distilled, fp8, dev, ENCODER, budget=int(1e9)) == "fp8.safetensors"
    assert best(lone, fp8, ENCODER) == "fp8.safetensors"
    assert best(lone) == "lone.safetensors"
    assert choose((distilled, fp8, dev, ENCODER), {}).reasons == [
        "checkpoint: dev.safetensors, of 3: with the files here it makes a complete set, dev before distilled before "
        "unknown, as in the official default recipe; next: distilled.safetensors"]


def test_files_that_do_not_fit_are_not_taken() -> None:
    dev = item("dev.safetensors", ALL, variant="dev", fits={"text_features": 9, "latent_channels": 128})
    other = item("gemma-tiny", ("text_encoder",), kind="text_encoder", fits={"text_features": 4})
    upscalers = [item(f"x2-{version}.safetensors", ("upsampler_x2",), kind="upsampler", fits={"latent_channels": size})
                 for version, size in (("1.0", 128), ("1.1", 128), ("1.1-tiny", 8))]
    choice = choose((dev, other, *upscalers), {})
    assert "text_encoder" not in choice.files and "text_encoder" in choice.missing
    assert choice.files["upsampler_x2"].name == "x2-1.1.safetensors"
    assert any("gemma_3_12B_it.safetensors, 24.4 GB -> models/text_encoders: https://" in line
               for line in missing_lines(choice.missing))


def test_order_of_components() -> None:
    """What auto adds for a transformer alone comes before it; what was asked for comes behind."""
    lone = item("lone.safetensors", ("transformer", "connectors"))
    whole = item("whole.safetensors", ALL, dtypes="fp8 scaled")
    vae = item("vae.safetensors", ("video_decoder", "video_encoder"), kind="video_vae")
    arguments = choose((whole, lone, vae), {"checkpoint": lone, "video_vae": vae}).arguments()
    assert [arguments["checkpoint"].name, *(path.name for path in arguments["components"])] == [
        "whole.safetensors", "lone.safetensors", "vae.safetensors"]
    audio, vocoder = item("a.safetensors", ("audio_decoder", "audio_encoder")), item("v.safetensors", ("vocoder",))
    choice = choose((lone, audio, vocoder), {})
    assert {path.name for path in choice.arguments()["components"]} == {"lone.safetensors", "v.safetensors"}


@pytest.mark.parametrize("name", ["ltx23-10eros-dev-bf16.safetensors", "LTX-2.3-uncensored-merge.safetensors"])
def test_changed_weights_are_not_the_more_exact_ones(name: str) -> None:
    """A finetune in bf16 is another model, no better copy of the official one in fp8; where only it fits, it goes."""
    values = {"fits": {"text_features": 9}, "variant": "dev"}
    changed = item(name, ALL, **values, weights={"transformer": [int(9e9)]})
    official = item("ltx-2.3-22b-dev-fp8.safetensors", ALL, dtypes="fp8 scaled", **values,
                    weights={"transformer": [int(20e9)]})
    heretic = item("gemma-3-12b-it-heretic.safetensors", ("text_encoder",), kind="text_encoder",
                   fits={"text_features": 9})
    fp8 = item("gemma_3_12B_it_fp8_scaled.safetensors", ("text_encoder",), kind="text_encoder", dtypes="fp8 scaled",
               fits={"text_features": 9})
    choice = choose([changed, official, heretic, fp8], {}, int(80e9))
    assert choice.files["checkpoint"] is official and choice.files["text_encoder"] is fp8
    assert f"{name} says that it is changed" in choice.reasons[0]
    assert choose([changed, official, fp8], {}, int(16e9)).files["checkpoint"] is changed


@pytest.mark.parametrize("place", ["projection", "checkpoint"])
def test_a_text_encoder_inside_another_file_has_the_same_budget(place: str) -> None:
    """The official one-file text encoder brings the projection too; CheckpointSave's checkpoint brings all."""
    sizes = {"weights": {"text_encoder": [int(24e9)]}, "fits": {"text_features": 9}}
    own = item("own.safetensors", ("text_encoder",) + (("text_projection",) if place == "projection" else ALL),
               kind="text_encoder" if place == "projection" else "checkpoint", **sizes)
    lone = item("lone.safetensors", tuple(name for name in ALL if name != "text_projection"), fits={"width": 8})
    small = item("small.gguf", ("text_encoder",), kind="text_encoder", dtypes="GGUF Q4_K",
                 weights={"text_encoder": [int(7e9)]}, fits={"text_features": 9})
    items = [own, small, *([lone] if place == "projection" else [])]
    for budget, expected in ((int(80e9), own), (int(16e9), small), (0, own)):
        choice = choose(items, {}, budget)
        assert choice.files["text_encoder"] is expected and own in choice.files.values()
        assert choice.arguments()["text_encoder"] == expected.identity.path
    alone = choose([each for each in items if each is not small], {}, int(16e9))
    assert alone.files["text_encoder"] is own and any(note.startswith("text_encoder: ") for note in alone.notes)


def test_distilled_weights_need_no_lora() -> None:
    lora = item("distilled-lora.safetensors", ("lora", "distilled_lora"), kind="lora")
    distilled = item("distilled.safetensors", ALL, variant="distilled")
    choice = choose((distilled, lora), {})
    assert "distilled_lora" not in choice.files and "distilled_lora" not in choice.missing
    assert choose((item("dev.safetensors", ALL, variant="dev"), lora), {}).files["distilled_lora"] is lora
    assert "distilled_lora" not in choose((item("dev.safetensors", ALL), lora), {"distilled_lora": "none"}).files


def test_the_tiny_files() -> None:
    choice = choose(Shelf().look([("checkpoints", ROOT / "tiny")]), {})
    assert isinstance(choice, Choice) and choice.missing == []
    assert choice.files["checkpoint"].identity == identify(CHECKPOINT)
    assert [path.name for path in choice.arguments()["upsamplers"]] == [
        "ltx-2.3-tiny-spatial-upscaler-x2.safetensors", "ltx-2.3-tiny-spatial-upscaler-x1.5.safetensors",
        "ltx-2.3-tiny-temporal-upscaler-x2.safetensors"]


def test_gguf(tmp_path: Path) -> None:
    """Transformer and Gemma as GGUF: named by their type, and put together with the rest of the checkpoint."""
    support = pytest.importorskip("tests.support.gguf")
    for folder in ("diffusion_models", "text_encoders", "checkpoints"):
        (tmp_path / folder).mkdir()
    support.transformer_gguf(tmp_path / "diffusion_models" / "ltx-2.3-tiny-distilled-Q8_0.gguf", connectors=False)
    support.gemma_gguf(tmp_path / "text_encoders" / "gemma-3-Q8_0.gguf")
    shutil.copy(GEMMA / "config.json", tmp_path / "text_encoders" / "config.json")
    shutil.copy(CHECKPOINT, tmp_path / "checkpoints" / "rest.safetensors")
    items = Shelf().look([(each.name, each) for each in sorted(tmp_path.iterdir())])
    sentences = {each.name: each.identity.sentence for each in items}
    assert sentences["ltx-2.3-tiny-distilled-Q8_0.gguf"].startswith(
        "LTX-2.3 distilled, transformer, GGUF Q8_0, without connectors, ")
    assert sentences["gemma-3-Q8_0.gguf"].startswith("Gemma 3 of 7 layers and width 32, text encoder, GGUF Q8_0,")
    wanted = {"checkpoint": next(each for each in items if each.name.startswith("ltx"))}
    choice = choose(items, wanted)
    overlay = materialize(**choice.arguments(), output=tmp_path / "overlay.json")
    assert set(overlay.components) >= COMPONENTS and overlay.variant == "distilled"
    files = {name: {ref.path.name for ref in entry.tensors.values()} for name, entry in overlay.components.items()}
    assert files["transformer"] == {"ltx-2.3-tiny-distilled-Q8_0.gguf"} and files["vocoder"] == {"rest.safetensors"}
    assert files["text_encoder"] == {"gemma-3-Q8_0.gguf"} and files["connectors"] == {"rest.safetensors"}
