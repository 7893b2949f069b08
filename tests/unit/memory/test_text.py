"""What the encoding of a prompt is said to need, against the bytes that are alive while the true code runs."""
from __future__ import annotations

import json
from pathlib import Path
from weakref import ref

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.generate_weights import GEMMA_12B, manifest_22b
from ltx23_core import Pipeline, words
from ltx23_core.config import ConnectorConfig, TextProjectionConfig
from ltx23_core.memory.estimates import WORKSPACE
from ltx23_core.memory.room import Memory, place
from ltx23_core.memory.text import connector_bytes, gemma_bytes, projection_bytes
from ltx23_core.models.registry import STACKS, build
from ltx23_core.models.text import gemma
from ltx23_core.models.text.gemma import restore_buffers
from ltx23_core.models.transformer import attention
from ltx23_core.overlay.bytes.source import TensorRef
from ltx23_core.prompt import encode
from ltx23_core.runtime.sizes import Sizes
from tests.support import live_bytes
from tests.support.live_bytes import LiveBytes

CONFIG = json.loads(manifest_22b()[1]["config"])["transformer"]
PROJECTION = {"caption_channels": 3840, "in_features": 188160, "video_features": 4096, "audio_features": 2048}
MOST = 1.5e9  # bytes on a device: issue 9, point 5
WIDTH = 480  # an eighth of Gemma's: it runs on the CPU, since masks of transformers cannot be made on meta


def random(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta", dtype=torch.bfloat16)


@pytest.mark.parametrize("tokens", [60, 1024])
def test_gemma(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "scaled_dot_product_attention", lambda query, *_, **__: torch.empty_like(query))
    small = {"num_hidden_layers": 6, "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 2,
             "num_key_value_heads": 1, "vocab_size": 100}
    config = GEMMA_12B | {"text_config": GEMMA_12B["text_config"] | small}
    model = build("text_encoder", config).bfloat16().to_empty(device="cpu")
    restore_buffers(model, torch.device("cpu"))
    with torch.no_grad(), LiveBytes() as counted:
        model(input_ids=torch.zeros(1, tokens, dtype=torch.int64), use_cache=False, output_hidden_states=True)
    guess = gemma_bytes(config, tokens, 2) - WORKSPACE
    assert counted.peak <= guess + (1 << 16) and guess <= 1.1 * counted.peak + (1 << 20)


@pytest.mark.parametrize("tokens", [60, 1024])
def test_projection(tokens: int) -> None:
    projection = build("text_projection", PROJECTION).bfloat16()
    states = [random(1, tokens, 3840) for _ in range(49)]
    with torch.no_grad(), LiveBytes() as counted:
        projection(states)
    guess = projection_bytes(TextProjectionConfig(**PROJECTION), tokens, 2) - WORKSPACE
    assert counted.peak <= guess <= 1.1 * counted.peak


def test_connectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention.Attention, "attend", staticmethod(live_bytes._attend))
    monkeypatch.setattr(attention, "linears", live_bytes._linears)
    connectors, width = build("connectors", CONFIG).bfloat16(), ConnectorConfig.from_dict(CONFIG, audio=False).width
    video, audio = random(1, 200, width), random(1, 200, width // 2)
    with torch.no_grad(), LiveBytes() as counted:
        connectors(video, audio)
    guess = connector_bytes(width, 2) - WORKSPACE
    assert counted.peak <= guess <= 1.1 * counted.peak


@pytest.mark.parametrize("name", ["text_encoder", "text_projection", "connectors"])
def test_a_prompt_is_encoded_in_little_memory(name: str) -> None:
    """Of the longest prompt and bf16 files, as little as possible resident."""
    config = {"text_encoder": GEMMA_12B, "text_projection": PROJECTION, "connectors": CONFIG}[name]
    refs = {}
    for key, value in build(name, config).state_dict().items():
        refs[key] = TensorRef(Path("f"), "BF16", tuple(value.shape), 0, 2 * value.numel())
    needed = {
        "text_encoder": gemma_bytes(GEMMA_12B, 1024, 2),
        "text_projection": projection_bytes(TextProjectionConfig(**PROJECTION), 1024, 2),
        "connectors": connector_bytes(4096, 2),
    }[name]
    need = Sizes(name, refs, torch.bfloat16, STACKS[name]).need({})
    [placed] = place([need], float("inf"), needed, Memory("stream"))
    assert placed.streamed == placed.blocks and placed.text == "streamed"
    assert placed.peak + needed < MOST


class Elsewhere(Tensor):
    """A tensor that says it is on a device."""

    device = torch.device("cuda")


def test_states_of_a_device_wait_in_one_piece() -> None:
    """Which the system gets back whole: many of 8 MB stay with the process."""
    states = tuple(torch.randn(1, 5, 8) for _ in range(3))
    kept = words._in_ram([state.as_subclass(Elsewhere) for state in states])
    assert len({state.untyped_storage().data_ptr() for state in kept}) == 1
    assert all(map(torch.equal, kept, states)) and kept.device.type == "cpu"
    assert words._in_ram(states) is states, "no second copy where the text encoder computes on the CPU"


def test_no_states_wait_that_are_used_up(tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[ref[Tensor]] = []
    alive: list[int] = []
    hidden, features = gemma.hidden_states, encode.features

    def noted(*given: object) -> tuple[Tensor, ...]:
        states = hidden(*given)
        waiting.extend(map(ref, states))
        return states

    def counted(*given: object) -> encode.Pair:
        alive.append(sum(each() is not None for each in waiting))
        return features(*given)

    monkeypatch.setattr(gemma, "hidden_states", noted)
    monkeypatch.setattr(encode, "features", counted)
    tiny_pipeline.encode("of two texts", "each waits")
    assert len(alive) == 2 and alive[0] == len(waiting) == 2 * alive[1]
