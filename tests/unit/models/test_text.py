"""The text path: properties that hold for any weights and for every supported release of transformers."""
from __future__ import annotations

import gc
import gzip
import json
import logging
import math
import shutil
import socket
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from ltx23_core.config import REGISTERS, TEXT_TOKENS, ConnectorConfig, TextProjectionConfig
from ltx23_core.errors import LTX23Error, OverlayError, RequestError
from ltx23_core.models.registry import build
from ltx23_core.models.text import _transformers
from ltx23_core.models.text.connector import Connector, TextConnectors, fill_with_registers
from ltx23_core.models.text.feature_extractor import FeatureExtractor, normalize_and_concat
from ltx23_core.models.text.gemma import build_gemma, hidden_states, restore_buffers
from ltx23_core.prompt.encode import contexts, features
from ltx23_core.prompt.tokenizer import Tokenizer

REPO = Path(__file__).parents[3]
MANIFEST = json.loads(gzip.decompress((REPO / "tests/goldens/manifest-22b-dev.json.gz").read_bytes()))
TOKENIZER = REPO / "tests/goldens/tiny/gemma"
SMALL = {"model_type": "gemma3_text", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 5,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8,
         "sliding_window": 7, "sliding_window_pattern": 3, "vocab_size": 700,
         "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}
NEW_FORM = {**{key: value for key, value in SMALL.items() if key not in ("rope_scaling", "sliding_window_pattern")},
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] + 2 * ["sliding_attention"],
            "rope_parameters": {"full_attention": {"factor": 8.0, "rope_type": "linear", "rope_theta": 1e6},
                                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}
GEMMA_12B = {"model_type": "gemma3", "text_config": {
    "model_type": "gemma3_text", "hidden_size": 3840, "intermediate_size": 15360, "num_attention_heads": 16,
    "num_hidden_layers": 48, "num_key_value_heads": 8, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024}}


def fill(module: torch.nn.Module, dtype: torch.dtype = torch.float32, scale: float = 0.2) -> torch.nn.Module:
    """Give every parameter of a meta module random values, as a loader gives it those of a file."""
    generator = torch.Generator().manual_seed(3)
    state = {name: (torch.randn(tensor.shape, generator=generator) * scale).to(dtype)
             for name, tensor in module.state_dict().items()}
    module.load_state_dict(state, strict=True, assign=True)
    return module.requires_grad_(False)


def small_gemma(dtype: torch.dtype = torch.float32, config: dict = SMALL) -> torch.nn.Module:
    return fill(build("text_encoder", config), dtype)


def ids(count: int) -> list[int]:
    return [2, *torch.randint(9, SMALL["vocab_size"], (count - 1,), generator=torch.Generator().manual_seed(count))
            .tolist()]


# Gemma

@pytest.mark.parametrize("count", [1, 6, 7, 8, 31])
def test_dropping_the_padding_changes_nothing_but_rounding(count: int) -> None:
    """A number passes through about 40 roundings in each of 5 layers; float32's are 2^-24 of it each."""
    gemma, tokens = small_gemma(), ids(count)
    padded = torch.tensor([[0] * (64 - count) + tokens])
    official = gemma(input_ids=padded, attention_mask=(torch.arange(64) >= 64 - count).long()[None], use_cache=False,
                     output_hidden_states=True).hidden_states
    ours = hidden_states(gemma, tokens)
    assert len(ours) == len(official) == SMALL["num_hidden_layers"] + 1
    for got, want in zip(ours, official, strict=True):
        assert got.shape == (1, count, SMALL["hidden_size"])
        assert (got - want[:, 64 - count:]).norm() < 5 * 40 * 2**-24 * got.norm()


def test_full_length_is_finite_and_uses_the_padded_positions() -> None:
    gemma = small_gemma()
    seen = []
    gemma.rotary_emb.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    for count in (1, 5, TEXT_TOKENS):
        assert all(state.isfinite().all() for state in hidden_states(gemma, ids(count)))
        assert seen[-1].tolist() == [list(range(TEXT_TOKENS - count, TEXT_TOKENS))]


def test_sliding_window_hides_what_is_out_of_reach() -> None:
    """One sliding layer: the last token depends on the newest `sliding_window` tokens only."""
    gemma = small_gemma(config=SMALL | {"num_hidden_layers": 1})
    window, tokens = SMALL["sliding_window"], ids(20)
    last = hidden_states(gemma, tokens)[-1][0, -1]
    beyond, within = list(tokens), list(tokens)
    beyond[-window - 1], within[-window] = 5, 5
    torch.testing.assert_close(hidden_states(gemma, beyond)[-1][0, -1], last)
    assert (hidden_states(gemma, within)[-1][0, -1] - last).abs().max() > 1e-4


def test_embeddings_are_scaled_by_the_rounded_root_of_the_width() -> None:
    gemma, tokens = small_gemma(torch.bfloat16), ids(12)
    scale = torch.tensor(SMALL["hidden_size"] ** 0.5).bfloat16()
    want = gemma.embed_tokens.weight[torch.tensor(tokens)] * scale
    assert torch.equal(hidden_states(gemma, tokens)[0][0], want)
    assert hidden_states(gemma, tokens)[-1].dtype == torch.bfloat16


@pytest.mark.parametrize("config", [NEW_FORM, {"model_type": "gemma3", "text_config": SMALL},
                                    {"model_type": "gemma3", "text_config": NEW_FORM, "vision_config": {}}])
def test_every_form_of_configuration_gives_the_same_model(config: dict) -> None:
    for got, want in zip(hidden_states(small_gemma(config=config), ids(20)), hidden_states(small_gemma(), ids(20)),
                         strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(("change", "word"), [
    ({"model_type": "gemma2"}, "gemma2"), ({"use_bidirectional_attention": True}, "bidirectional"),
    ({"layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention", "full_attention"]},
     "layer_types"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 1e6},
                          "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}}, "local")])
def test_other_models_are_refused(change: dict, word: str) -> None:
    with pytest.raises(OverlayError, match=word):
        build_gemma(SMALL | change)


def test_real_size_allocates_nothing() -> None:
    gemma = build("text_encoder", GEMMA_12B)
    shapes = {name: tuple(tensor.shape) for name, tensor in gemma.state_dict().items()}
    assert shapes["embed_tokens.weight"] == (262208, 3840) and shapes["norm.weight"] == (3840,)
    assert shapes["layers.47.self_attn.k_proj.weight"] == (8 * 256, 3840)
    assert sum(math.prod(shape) for shape in shapes.values()) == 11_766_034_176
    assert all(parameter.is_meta for parameter in gemma.parameters())
    assert not any(buffer.is_meta for buffer in gemma.buffers())
    assert not gemma.training and gemma.config._attn_implementation == "sdpa"


def test_a_released_module_works_again() -> None:
    gemma = small_gemma()
    before = hidden_states(gemma, ids(9))
    gemma.to("meta")
    restore_buffers(gemma, torch.device("cpu"))
    assert not any(buffer.is_meta for buffer in gemma.buffers())
    for got, want in zip(hidden_states(fill(gemma), ids(9)), before, strict=True):
        assert torch.equal(got, want)
    gemma.to("meta")
    for got, want in zip(hidden_states(fill(gemma), ids(9)), before, strict=True):  # without a loader's help too
        assert torch.equal(got, want)


def test_a_dropped_module_is_freed_at_once() -> None:
    gemma = small_gemma()
    hidden_states(gemma, ids(9), lambda: None)
    gone = weakref.ref(gemma.embed_tokens.weight)
    gc.disable()
    try:
        del gemma
        assert gone() is None
    finally:
        gc.enable()


def test_interruption_between_layers_leaves_no_hook() -> None:
    gemma, calls = small_gemma(), []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        hidden_states(gemma, ids(9), check)
    assert len(calls) == 3 and not any(layer._forward_pre_hooks for layer in gemma.layers)
    calls.extend([1] * 10)
    hidden_states(gemma, ids(9), check)
    assert len(calls) == 13 + SMALL["num_hidden_layers"]


def test_a_token_beyond_the_embedding_is_named() -> None:
    with pytest.raises(OverlayError, match="token 700"):
        hidden_states(small_gemma(), [2, 700])


# Tokenizer

def test_prompts_are_stripped_and_begin_with_bos() -> None:
    tokenizer = Tokenizer(TOKENIZER)
    assert tokenizer.encode(" \n ") == tokenizer.encode("") == [tokenizer.bos]
    plain = tokenizer.encode("A red boat.")
    assert plain == tokenizer.encode("\tA red boat. \n")
    assert plain[0] == tokenizer.bos and plain.count(tokenizer.bos) == 1


def test_bos_is_added_where_the_tokenizer_adds_none(tmp_path: Path) -> None:
    folder = copy_tokenizer(tmp_path, {"add_bos_token": False})
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"post_processor": None}))
    assert Tokenizer(folder).encode("A red boat.") == Tokenizer(TOKENIZER).encode("A red boat.")


def test_long_prompts_are_cut_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = Tokenizer(TOKENIZER)
    with caplog.at_level(logging.WARNING, "ltx23_core"):
        fits = tokenizer.encode("boat " * 100)
        assert len(fits) < TEXT_TOKENS and not caplog.records
        cut = tokenizer.encode("boat " * 3000)
    assert len(cut) == TEXT_TOKENS and cut[0] == tokenizer.bos
    assert cut[:len(fits) - 1] == fits[:-1]
    assert "only the first 1024" in caplog.text


@pytest.mark.parametrize("prompt", ["a \ud83c boat", None, 3])
def test_what_is_not_text_is_refused(prompt: object) -> None:
    with pytest.raises(RequestError, match="prompt"):
        Tokenizer(TOKENIZER).encode(prompt)


def copy_tokenizer(folder: Path, change: dict) -> Path:
    """The tiny tokenizer with other settings."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    return folder


def test_missing_and_broken_tokenizers_are_named(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "nowhere", tmp_path):
        with pytest.raises(OverlayError, match="tokenizer"):
            Tokenizer(folder)
    copy_tokenizer(tmp_path, {})
    (tmp_path / "tokenizer.json").write_text("{ not json")
    with pytest.raises(OverlayError, match="cannot be read") as caught:
        Tokenizer(tmp_path)
    assert str(tmp_path) in caught.value.found and "\n" not in str(caught.value)


def test_reading_a_tokenizer_runs_no_code_and_asks_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_tokenizer(tmp_path, {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}})
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")

    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert Tokenizer(folder).encode("A boat.") == Tokenizer(TOKENIZER).encode("A boat.")
    assert not ran.exists()


# Feature extractor

def test_normalised_states_are_channel_major() -> None:
    states = torch.randn(5, 2, 3, 8, generator=torch.Generator().manual_seed(1))
    got = normalize_and_concat(list(states)).view(2, 3, 8, 5)
    for layer, state in enumerate(states):
        torch.testing.assert_close(got[..., layer], state / (state.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt())
    assert torch.equal(got.flatten(-2), normalize_and_concat(states))


def test_bfloat16_rounds_after_every_operation() -> None:
    """The official order: square, mean, add, rsqrt, multiply, scale, each rounded to bfloat16."""
    states = torch.randn(4, 1, 6, 16, generator=torch.Generator().manual_seed(2)).bfloat16()
    stacked = states.permute(1, 2, 3, 0)
    root = torch.rsqrt(torch.mean(stacked ** 2, dim=2, keepdim=True) + 1e-6)
    want = (stacked * root).reshape(1, 6, 64)
    assert (normalize_and_concat(states) == want).float().mean() > 0.99  # the mean's order of summation is free
    projection = fill(build("text_projection", {"caption_channels": 16, "in_features": 64, "video_features": 24,
                                                "audio_features": 12}), torch.bfloat16)
    for got, linear in zip(projection(states), (projection.video_aggregate_embed, projection.audio_aggregate_embed),
                           strict=True):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got, linear(want * math.sqrt(linear.out_features / 16)), atol=2e-2, rtol=2e-2)


def test_padding_yields_the_bias() -> None:
    projection = fill(FeatureExtractor(TextProjectionConfig(8, 24, 6, 4)))
    states, mask = torch.randn(3, 1, 5, 8), torch.tensor([[0, 0, 1, 1, 1]])
    video, audio = projection(states, mask)
    assert torch.equal(video[0, 0], projection.video_aggregate_embed.bias)
    assert torch.equal(audio[0, 1], projection.audio_aggregate_embed.bias)
    torch.testing.assert_close(video[:, 2:], projection(states[:, :, 2:])[0])


@pytest.mark.parametrize("shape", [(4, 1, 5, 8), (6, 1, 5, 4)])
def test_the_wrong_gemma_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(OverlayError, match="3 of width 8"):
        FeatureExtractor(TextProjectionConfig(8, 24, 6, 4))(torch.zeros(shape))


# Connectors

def small_connectors() -> TextConnectors:
    return fill(TextConnectors(ConnectorConfig(2, 2, 8, (4096,)), ConnectorConfig(1, 2, 4, (4096,))))


def test_registers_follow_their_absolute_position() -> None:
    features, registers = torch.randn(2, 6, 3), torch.randn(4, 3)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 0, 0]])
    filled = fill_with_registers(features, mask, registers, 11)
    assert torch.equal(filled[0, :3], features[0, 3:]) and torch.equal(filled[1, :2], features[1, [0, 2]])
    for row, valid in ((0, 3), (1, 2)):
        for position in range(valid, 11):
            assert torch.equal(filled[row, position], registers[position % 4])
    assert torch.equal(fill_with_registers(features, None, registers, 6), features)


def test_padded_and_unpadded_features_give_the_same_contexts() -> None:
    connectors = small_connectors()
    video, audio = torch.randn(1, 9, 16), torch.randn(1, 9, 8)
    mask = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1]])
    for got, want in zip(connectors(video, audio, mask, length=300), connectors(video[:, 4:], audio[:, 4:], length=300),
                         strict=True):
        assert torch.equal(got, want) and got.shape[1] == 300
    assert connectors(video, audio)[0].shape == (1, TEXT_TOKENS, 16)


def test_a_connector_can_be_interrupted() -> None:
    calls = []
    small_connectors()(torch.randn(1, 2, 16), torch.randn(1, 2, 8), check=lambda: calls.append(1))
    assert len(calls) == 3


def test_names_and_shapes_are_those_of_the_official_checkpoint() -> None:
    tensors, config = MANIFEST["tensors"], MANIFEST["metadata"]["config"]["transformer"]
    want = {name.removeprefix("model.diffusion_model."): tuple(spec[1:]) for name, spec in tensors.items()
            if "_embeddings_connector." in name}
    assert {name: tuple(t.shape) for name, t in build("connectors", config).state_dict().items()} == want
    assert want["video_embeddings_connector.learnable_registers"][0] == REGISTERS
    want = {name.removeprefix("text_embedding_projection."): tuple(spec[1:]) for name, spec in tensors.items()
            if name.startswith("text_embedding_projection.")}
    video, audio = want["video_aggregate_embed.weight"], want["audio_aggregate_embed.weight"]
    fields = {"caption_channels": config["caption_channels"], "in_features": video[1], "video_features": video[0],
              "audio_features": audio[0]}
    assert {name: tuple(t.shape) for name, t in build("text_projection", fields).state_dict().items()} == want


def test_connector_positions_use_the_configured_range() -> None:
    config = ConnectorConfig(0, 2, 8, (4096,))
    cos, sin = Connector(config)._rope(TEXT_TOKENS, torch.zeros(1))
    angle = math.pi / 2 * (2 * 17 / 4096 - 1)  # lowest frequency at position 17
    assert cos.shape == (1, TEXT_TOKENS, 2 * 4), "a row a token, heads behind each other"
    assert cos[0, 17, 0].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert sin[0, 17, 0].item() == pytest.approx(math.sin(angle), abs=1e-6)


# The whole path

def test_both_halves_in_bfloat16() -> None:
    tokenizer, gemma = Tokenizer(TOKENIZER), small_gemma(torch.bfloat16)
    projection = fill(FeatureExtractor(TextProjectionConfig(24, 24 * 6, 16, 8)), torch.bfloat16)
    connectors = small_connectors().to(torch.bfloat16)
    made = contexts(connectors, *features(projection, hidden_states(gemma, tokenizer.encode("A boat."))))
    for context, width in zip(made, (16, 8), strict=True):
        assert context.shape == (1, TEXT_TOKENS, width) and context.dtype == torch.bfloat16
        assert context.isfinite().all() and not context.requires_grad


def test_transformers_is_imported_only_when_needed() -> None:
    code = ("import sys, ltx23_core.models.registry, ltx23_core.prompt.encode\n"
            "sys.exit('transformers' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, check=False).returncode == 0


def test_a_broken_transformers_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LTX23Error, match="transformers 4.50.3 or later"):
        _transformers.transformers_class("NoSuchClass")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(LTX23Error, match="cannot be imported"):
        _transformers.transformers_class("AutoTokenizer")
