"""Every combination of condition kinds: what a plan states and a run sets aside against the bytes that are alive.

The conditions, the denoiser and the transformer are the real ones; latents are of zeros, since only shapes count, and
the transformer runs on the meta device.
"""
from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import pytest
import torch
from torch import Tensor

from bench.generate_weights import manifest_22b
from ltx23_core import (
    Audio,
    Extend,
    ImageCondition,
    Inpaint,
    ReferenceVideo,
    Retake,
    SourceAudio,
    SourceClip,
    SourceVideo,
)
from ltx23_core.conditioning import image as image_module
from ltx23_core.conditioning import source as source_module
from ltx23_core.conditioning.voice import ReferenceVoice
from ltx23_core.config import TransformerConfig
from ltx23_core.errors import RequestError
from ltx23_core.geometry import audio_latent_length, audio_positions, video_grid, video_positions
from ltx23_core.memory.estimates import MASK_QUERIES, WORKSPACE
from ltx23_core.models.transformer.masked import QUERIES
from ltx23_core.models.transformer.model import Transformer
from ltx23_core.plan.condition import MOST_LEVELS, Clip, Planned, StageSetting
from ltx23_core.plan.decide import ModelFacts, stage_bytes
from ltx23_core.plan.guidance import Guidance
from ltx23_core.plan.guider import GuiderParams, Nag
from ltx23_core.plan.latents import PromptContext
from ltx23_core.plan.recipes import RECIPES
from ltx23_core.plan.solver import Solver
from ltx23_core.plan.stages import StagePlan
from ltx23_core.plan.together import check_conditions
from ltx23_core.plan.windows import Windows, largest_call
from ltx23_core.run.stage import _call, _unfrozen
from ltx23_core.sampling.denoiser import Denoiser
from ltx23_core.sampling.state import MASK_LEVELS, StreamState, map_streams
from tests.support.live_bytes import LiveBytes, like_a_device

LAYERS = 3
CONFIG = replace(TransformerConfig.from_dict(json.loads(manifest_22b()[1]["config"])["transformer"]), layers=LAYERS)
SIZES = {"a": (768, 512, 121), "c": (1920, 1088, 121), "uhd": (3840, 2176, 121)}
FPS, TEXT = 24.0, 1024

FRAMES = torch.zeros(1, 64, 64, 3, dtype=torch.uint8).expand(130, -1, -1, -1)
SHORT = SourceClip(FRAMES[:41], Audio(torch.zeros(1, 2, 30_000), 16_000))
CLIP = SourceClip(FRAMES, Audio(torch.zeros(1, 2, 90_000), 16_000))
SPEECH = Audio(torch.zeros(1, 1, 100_000), 16_000)
SOFT = torch.linspace(0, 1, 64 * 64).reshape(1, 64, 64)
PICTURE = torch.zeros(8, 8, 3)

SOURCES: dict[str, list[Planned]] = {
    "": [], "inpaint": [Inpaint(CLIP, SOFT.round())], "soft inpaint": [Inpaint(CLIP, SOFT)],
    "retake": [Retake(CLIP, 1.0, 2.0)], "retake sound": [Retake(CLIP, 1.0, 2.0, "audio")],
    "retake picture": [Retake(CLIP, 1.0, 2.0, "video")], "extend": [Extend(SHORT, blend=2)],
    "joined": [Extend(SHORT), Extend(SHORT, "backward", blend=3)], "source video": [SourceVideo(CLIP)],
    "source audio": [SourceAudio(CLIP.audio)], "soft inpaint to sound": [Inpaint(CLIP, SOFT), SourceAudio(CLIP.audio)]}
IMAGES: dict[str, list[Planned]] = {
    "": [], "keyframe": [ImageCondition(PICTURE, -1, 0.9)],
    "first, two keyframes": [ImageCondition(PICTURE), ImageCondition(PICTURE, 60, 0.7), ImageCondition(PICTURE, -1)]}
REFERENCES: dict[str, list[Planned]] = {
    "": [], "reference": [ReferenceVideo(CLIP)], "small": [ReferenceVideo(CLIP, downscale=2, temporal=2)],
    "weak": [ReferenceVideo(CLIP, 0.9, 0.5)], "masked": [ReferenceVideo(CLIP, mask=SOFT)],
    "two": [ReferenceVideo(CLIP, downscale=2), ReferenceVideo(CLIP, 0.5, 0.5, SOFT.round(), downscale=2)]}
VOICES: dict[str, list[Planned]] = {"": [], "voice": [ReferenceVoice(SPEECH)]}


def chains() -> Iterator[tuple[str, list[Planned]]]:
    """All combinations that may be; what excludes each other is refused by the plan itself. Voices take turns."""
    for number, named in enumerate(product(*(part.items() for part in (SOURCES, IMAGES, REFERENCES)))):
        named = *named, list(VOICES.items())[number % 2]
        conditions = [condition for _, part in named for condition in part]
        try:
            check_conditions(conditions, Clip(*SIZES["a"], FPS))
        except RequestError:
            continue
        yield ", ".join(name for name, _ in named if name) or "nothing", conditions


ALL = dict(chains())
LARGE = ["nothing", "keyframe", "reference, voice", "small", "weak, voice", "masked", "two, voice", "soft inpaint",
         "retake sound", "joined", "source audio"]


@lru_cache(maxsize=1)
def transformer() -> Transformer:
    with torch.device("meta"):
        return Transformer(CONFIG).bfloat16().requires_grad_(False)


class Encoders:
    """Latents of one channel of the right shape."""

    dtype = torch.float32

    def encode_video(self, pixels: Tensor) -> Tensor:
        return torch.zeros(1, 1, (pixels.shape[2] - 1) // 8 + 1, pixels.shape[3] // 32, pixels.shape[4] // 32)

    def encode_audio(self, audio: Audio) -> Tensor:
        return torch.zeros(1, 1, -(-(audio.waveform.shape[-1] // 160 + 1) // 4), 1)


@pytest.fixture(autouse=True)
def without_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture is scaled: 121 frames of UHD are 12 GB."""
    blank = torch.zeros(1)

    def resized(_: Tensor, picks: Sequence[int], height: int, width: int, *__: object, **___: object) -> Tensor:
        return blank.expand(1, 3, len(picks), height, width)

    monkeypatch.setattr(source_module, "resize_frames", resized)
    monkeypatch.setattr(image_module.ImageCondition, "pixels",
                        lambda self, width, height: blank.expand(1, 3, 1, height, width))


@dataclass(frozen=True)
class OnMeta(StreamState):
    """A state without numbers that knows what was found where they were."""

    found: tuple[Tensor, Tensor | None] = (None, None)
    own: int = 0

    def distinct_mask(self) -> tuple[Tensor, Tensor | None]:
        return self.found

    @property
    def clip_tokens(self) -> int:
        return self.own


class RowsOnMeta:
    """`Seen.rows` of a state that had numbers."""

    def __init__(self, state: StreamState) -> None:
        self.made = []
        for part in state.attention.rows(torch.bfloat16):
            self.made.append(replace(part, bias=meta(part.bias), own=meta(part.own)))

    def rows(self, _: torch.dtype) -> tuple:
        return tuple(self.made)


def meta(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def on_meta(state: StreamState, channels: int) -> OnMeta:
    count = state.clean.shape[1]
    initial, clean = (torch.empty(1, count, channels, dtype=torch.bfloat16, device="meta") for _ in range(2))
    seen = RowsOnMeta(state) if state.attention is not None else None
    found = tuple(map(meta, state.distinct_mask()))
    return OnMeta(initial, clean, meta(state.mask), meta(state.positions), state.frozen, seen,
                  found=found, own=state.clip_tokens)


def guidances() -> tuple[Guidance | None, ...]:
    official = RECIPES["one_stage"].guidance(LAYERS)
    nag = Guidance()._mapped(lambda _: GuiderParams(nag=Nag()))
    return None, official, nag


GUIDANCES = guidances()


def states_of(conditions: list[Planned], clip: Clip) -> tuple[StreamState, StreamState]:
    grid, length = video_grid(clip.width, clip.height, clip.frames), audio_latent_length(clip.frames, FPS)
    video = StreamState.from_tokens(torch.zeros(1, grid.tokens, 1), video_positions(grid, FPS))
    states = video, StreamState.from_tokens(torch.zeros(1, length, 1), audio_positions(length))
    setting = StageSetting(1, grid, length, FPS, Encoders())
    for condition in check_conditions(conditions, clip):
        states = condition.apply(states, setting)
    return map_streams(StreamState.with_few_levels, states)


def alive(model: Transformer, states: tuple[StreamState, StreamState], guidance: Guidance | None,
          identity: float) -> int:
    """Most bytes of a step and of what its run keeps."""
    with torch.no_grad(), LiveBytes() as counted:
        own = [on_meta(state, part.in_channels)
               for state, part in zip(states, (CONFIG.video, CONFIG.audio), strict=True)]
        contexts = []
        for _ in range(2 if guidance else 1):
            contexts.append(PromptContext(*(torch.empty(1, TEXT, part.width, dtype=torch.bfloat16, device="meta")
                                            for part in (CONFIG.video, CONFIG.audio))))
        denoiser = Denoiser(model, contexts[0], contexts[-1], guidance, *own, identity=identity)
        counted.peak = counted.now  # the tables are made piece by piece in float32, before the transformer runs
        noisy = tuple(torch.empty_like(state.clean) for state in own)
        denoised = denoiser(noisy, 0.7, 0)
        [state.blend(part) for state, part in zip(own, denoised, strict=True)]
    return counted.peak


def compare(name: str, size: str, guidance: Guidance | None, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    conditions, clip = ALL[name], Clip(*SIZES[size], FPS)
    model = transformer()
    like_a_device(model, monkeypatch, fused)
    states = states_of(conditions, clip)
    stage = StagePlan(1, 1, (1.0, 0.0), Solver("euler"), guidance, ())
    stage = replace(stage, guidance=_unfrozen(stage, states))
    call, facts = _call(states), ModelFacts("dev", (), CONFIG, 2, fused)
    grid = video_grid(clip.width, clip.height, clip.frames)
    planned = largest_call(conditions, clip, grid, 1, Windows(clip.frames).over(clip))
    assert planned.video == call.video and 0 <= planned.audio - call.audio <= 1 and planned.masked == call.masked
    for more, real in zip(planned.levels, call.levels, strict=True):
        assert 0 <= more - real <= 1 or more == MOST_LEVELS, (planned.levels, call.levels)
    identity = max((getattr(each, "identity", 0.0) for each in conditions), default=0.0)
    peak = alive(model, states, stage.guidance, identity)
    need = stage_bytes(facts, stage, call) - WORKSPACE
    assert peak <= need <= 1.1 * peak, (name, size, peak / 1e9, need / 1e9, need / peak)
    stated = stage_bytes(facts, stage, planned) - WORKSPACE
    assert need <= stated <= 1.1 * peak + 0.02e9, (name, size, peak / 1e9, stated / 1e9)


@pytest.mark.parametrize("name", ALL)
def test_every_combination_of_conditions(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """At size a, where what does not grow with the picture weighs most; guidance and kernels take turns."""
    number = list(ALL).index(name)
    compare(name, "a", GUIDANCES[number % 3], fused=number % 2 == 0, monkeypatch=monkeypatch)


@pytest.mark.parametrize("size", ["c", "uhd"])
@pytest.mark.parametrize("name", LARGE)
def test_large_pictures(monkeypatch: pytest.MonkeyPatch, name: str, size: str) -> None:
    compare(name, size, GUIDANCES[LARGE.index(name) % 3], fused=True, monkeypatch=monkeypatch)


def test_all_kinds_are_in_the_table() -> None:
    assert len(ALL) > 100 and MASK_QUERIES == QUERIES and MOST_LEVELS == MASK_LEVELS
