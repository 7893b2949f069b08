"""Files that mix the habits of several tools: prefixes of parts, text encoders saved with what stood beside them."""
from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ltx23_core import Overlay, materialize
from ltx23_core.errors import OverlayError
from ltx23_core.overlay.shelf.identify import identify
from ltx23_core.weights.reader import read_tensors
from tests.goldens.harness import CHECKPOINT, GEMMA
from tests.support.layouts import State, T, config, metadata, part, save, tiny
from tests.support.overlay import refuses

TRANSFORMER = {key.removeprefix(T): tensor for key, tensor in tiny().items() if key.startswith(T)}
OTHERS = {key: tensor for key, tensor in tiny().items() if not key.startswith(T)}
CONNECTORS = {key: tensor for key, tensor in TRANSFORMER.items() if "_connector." in key}
BARE = {key: tensor for key, tensor in TRANSFORMER.items() if "_connector." not in key}
PROJECTION = part("text_embedding_projection.", strip="text_embedding_projection.")
WRAPPERS = ("model.diffusion_model.", "diffusion_model.", "model.model.", "net.", "model.", "")


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Overlay:
    return materialize(CHECKPOINT, GEMMA, output=tmp_path_factory.mktemp("official") / "o.json")


def same(mine: Overlay, theirs: Overlay) -> None:
    """Every component has the same tensors, value for value."""
    assert set(mine.components) == set(theirs.components)
    for name in set(mine.components) - {"text_encoder_vision"}:  # which keeps the file's own names
        got, want = (dict(read_tensors(each.components[name].tensors, "cpu", torch.float32)) for each in (mine, theirs))
        assert set(got) == set(want)
        assert all(torch.equal(got[key], want[key]) for key in want), name


PAIRS = [(first, WRAPPERS[(place + step) % len(WRAPPERS)]) for place, first in enumerate(WRAPPERS) for step in (1, 4)]


@pytest.mark.parametrize(("transformer", "connectors"), PAIRS)
def test_any_prefix_beside_any_other(transformer: str, connectors: str, official: Overlay, tmp_path: Path) -> None:
    state = prefixed(BARE, transformer) | prefixed(CONNECTORS, connectors) | OTHERS
    path = save(state, tmp_path / "mixed.safetensors", metadata())
    same(materialize(path, GEMMA, output=tmp_path / "o.json"), official)
    assert identify(path).usable and set(identify(path).brings) == set(official.components) - {
        "text_encoder", "text_encoder_vision"}


@pytest.mark.parametrize(("prefix", "connectors"), [
    ("", ""), ("text_embedding_projection.", ""), ("diffusion_model.", ""), ("", "diffusion_model."),
    ("model.diffusion_model.text_embedding_projection.", "text_encoders."), ("text_encoders.", "text_encoders.")])
def test_projection_and_connectors_in_one_file(prefix: str, connectors: str, official: Overlay, tmp_path: Path) -> None:
    main = save(part(T, without="_connector."), tmp_path / "t.safetensors", config("transformer"))
    rest = save({key: tensor for key, tensor in OTHERS.items() if not key.startswith("text_")},
                tmp_path / "r.safetensors", metadata())
    text = save(prefixed(PROJECTION, prefix) | prefixed(CONNECTORS, connectors), tmp_path / "text.safetensors")
    same(materialize(main, GEMMA, components=[text, rest], output=tmp_path / "o.json"), official)
    assert set(identify(text).brings) == {"connectors", "text_projection"}


def test_bare_video_vae_beside_official_sound(official: Overlay, tmp_path: Path) -> None:
    state = prefixed(BARE, "diffusion_model.") | CONNECTORS | {
        key.removeprefix("vae."): tensor for key, tensor in OTHERS.items()}
    path = save(state, tmp_path / "m.safetensors", metadata())
    same(materialize(path, GEMMA, output=tmp_path / "o.json"), official)


def test_one_parameter_twice_is_refused(tmp_path: Path) -> None:
    path = save(prefixed(BARE, T) | prefixed(CONNECTORS, T) | OTHERS
                | {key: tensor.clone() for key, tensor in CONNECTORS.items()}, tmp_path / "m.safetensors",
                metadata())
    with refuses(OverlayError, "m.safetensors has audio_embeddings_connector.", "of connectors twice, as",
                 "model.diffusion_model."):
        materialize(path, GEMMA, output=tmp_path / "o.json")
    assert not identify(path).usable


def test_foreign_prefix_is_named(tmp_path: Path) -> None:
    """What no table knows is not dropped in silence: the report names it."""
    def odd(key: str) -> str:
        return key.replace("audio_vae.", "my_sound.").replace("decoder", "synthesis").replace("encoder", "analysis")

    others = {odd(key) if key.startswith("audio_vae.") else key: tensor for key, tensor in OTHERS.items()}
    main = save(prefixed(BARE, T) | others, tmp_path / "m.safetensors", metadata())
    overlay = materialize(main, GEMMA, output=tmp_path / "o.json")
    assert "my_sound.analysis.conv_in" in overlay.report()


# --- text encoders with more inside

GEMMA_STATE = load_file(GEMMA / "model.safetensors")
TOKENIZER = {"spiece_model": torch.frombuffer(bytearray((GEMMA / "tokenizer.model").read_bytes()), dtype=torch.uint8)}


def comfy(prefix: str) -> State:
    """ComfyUI's names of Gemma below a prefix."""
    return {prefix + key.replace("language_model.model.", "model.").replace("vision_tower.", ""): tensor
            for key, tensor in GEMMA_STATE.items()}


FORMS: dict[str, Callable[[], State]] = {
    "one file, official names": lambda: GEMMA_STATE | prefixed(PROJECTION, "text_embedding_projection.") | TOKENIZER,
    "one file, bare projection": lambda: comfy("") | PROJECTION | TOKENIZER,
    "CLIPSave": lambda: comfy("gemma3_12b.transformer.") | prefixed(PROJECTION, "text_embedding_projection.")
    | TOKENIZER | {"gemma3_12b.logit_scale": torch.zeros(())},
    "CLIPSave with connectors": lambda: comfy("gemma3_12b.transformer.") | CONNECTORS
    | prefixed(PROJECTION, "text_embedding_projection.") | TOKENIZER,
    "CheckpointSave, text alone": lambda: comfy("text_encoders.gemma3_12b.transformer.")
    | prefixed(PROJECTION, "text_encoders.text_embedding_projection.") | prefixed(TOKENIZER, "text_encoders."),
}


def with_tokenizer(official: Overlay, overlay: Overlay) -> Overlay:
    """The official components, with the tokenizer of the file."""
    return replace(official, components=official.components | {"tokenizer": overlay.components["tokenizer"]})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("also", [False, True], ids=["projection from it", "projection in the checkpoint too"])
def test_text_encoder_with_its_projection(form: str, also: bool, official: Overlay, tmp_path: Path) -> None:
    shutil.copy(GEMMA / "config.json", tmp_path)
    encoder = save(FORMS[form](), tmp_path / "te.safetensors")
    state = {key: tensor for key, tensor in tiny().items() if also or not key.startswith("text_embedding")}
    checkpoint = save(state, tmp_path / "main" / "m.safetensors", metadata())
    overlay = materialize(checkpoint, encoder, output=tmp_path / "o.json")
    same(overlay, with_tokenizer(official, overlay))
    paths = {ref.path for ref in overlay.components["text_projection"].tensors.values()}
    assert paths == {checkpoint if also else encoder}
    assert {ref.path for ref in overlay.components["connectors"].tensors.values()} == {checkpoint}
    found = identify(encoder)
    assert found.kind == "text_encoder" and found.usable, found.sentence
    assert {"text_encoder", "tokenizer", "text_projection"} <= set(found.brings)


def test_checkpoint_that_was_saved_with_its_text_encoder(official: Overlay, tmp_path: Path) -> None:
    shutil.copy(GEMMA / "config.json", tmp_path)
    state = comfy("text_encoders.gemma3_12b.transformer.") | prefixed(TOKENIZER, "text_encoders.") | prefixed(
        PROJECTION, "text_encoders.text_embedding_projection.") | prefixed(TRANSFORMER, T) | part("vae.", "audio_vae.",
                                                                                              "vocoder.")
    path = save(state, tmp_path / "all.safetensors", metadata())
    overlay = materialize(path, output=tmp_path / "o.json")
    same(overlay, with_tokenizer(official, overlay))
    found = identify(path)
    assert found.kind == "checkpoint" and set(found.brings) == set(official.components) - {
        "text_encoder_vision"} | {"tokenizer"}


def test_folder_with_two_projections_takes_that_of_the_checkpoint(tmp_path: Path) -> None:
    shutil.copy(GEMMA / "config.json", tmp_path)
    save(FORMS["CLIPSave"](), tmp_path / "te.safetensors")
    shutil.copy(CHECKPOINT, tmp_path / "main.safetensors")
    overlay = materialize(tmp_path, output=tmp_path / "o.json")
    assert {ref.path.name for ref in overlay.components["text_projection"].tensors.values()} == {"main.safetensors"}
    assert {ref.path.name for ref in overlay.components["text_encoder"].tensors.values()} == {"te.safetensors"}


# --- VAEs under prefixes of other tools

@pytest.mark.parametrize("prefix", ["", "audio_vae.", "first_stage_model.", "autoencoder.", "audio_vae.model.", "vae."])
def test_vocoder_beside_an_audio_vae_of_any_prefix(prefix: str, tmp_path: Path) -> None:
    state = prefixed(part("audio_vae.", strip="audio_vae."), prefix) | part("vocoder.")
    found = identify(save(state, tmp_path / "sound.safetensors", config("audio_vae", "vocoder")))
    assert found.usable and set(found.brings) == {"audio_encoder", "audio_decoder", "vocoder"}
    assert found.sentence.startswith("LTX-2.3 audio VAE with vocoder, ")


@pytest.mark.parametrize("prefix", ["first_stage_model.", "vae.model.", "vae."])
def test_vocoder_beside_a_video_vae(prefix: str, tmp_path: Path) -> None:
    """It brings no audio VAE, whatever its vocoder looks like."""
    state = prefixed(part("vae.", strip="vae."), prefix) | part("vocoder.")
    found = identify(save(state, tmp_path / "odd.safetensors", config("vae", "vocoder")))
    assert set(found.brings) == {"video_encoder", "video_decoder", "vocoder"}
    assert found.sentence.startswith("LTX-2.3 video VAE with vocoder, ")


def test_vocoder_beside_what_is_no_vae_of_ours(tmp_path: Path) -> None:
    state = {"pretransform.layers.0.weight": torch.zeros(2, 2)} | part("vocoder.")
    found = identify(save(state, tmp_path / "odd.safetensors", config("vocoder")))
    assert found.brings == ("vocoder",) and found.sentence.startswith("LTX-2.3 vocoder, ")


def test_whole_model_with_renamed_vaes(official: Overlay, tmp_path: Path) -> None:
    state = {key.replace("audio_vae.", "sound.").replace("vae.", "first_stage_model."): tensor
             for key, tensor in tiny().items()}
    path = save(state, tmp_path / "m.safetensors", metadata())
    same(materialize(path, GEMMA, output=tmp_path / "o.json"), official)
