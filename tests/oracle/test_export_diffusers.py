"""What diffusers makes of an exported folder: every part loads and equals ours on random input, the pipeline runs.

Streams at one timestep each, as in `test_transformer`; the vocoder's first stage is clamped, as officially.
"""
from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ltx23_core import Overlay, export, materialize
from ltx23_core.config import TEXT_TOKENS
from ltx23_core.geometry import VideoGrid, audio_positions, video_positions
from ltx23_core.models.latent_upsampler import upsample
from ltx23_core.models.registry import build
from ltx23_core.models.text.gemma import hidden_states
from ltx23_core.models.transformer.inputs import Pass, StreamInput
from ltx23_core.runtime.load import load_module
from tests.goldens.harness import CHECKPOINT, GEMMA

from .support import DIFFUSERS, randn, same

pytest.importorskip("diffusers", reason=DIFFUSERS)
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2Pipeline, LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel, LTX2TextConnectors, LTX2VocoderWithBWE

UPSCALERS = {"upsampler_x2": "latent_upsampler", "upsampler_x1.5": "latent_upsampler_x1.5",
             "upsampler_temporal_x2": "latent_upsampler_temporal_x2"}


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Overlay:
    return materialize(CHECKPOINT, GEMMA, upsamplers=sorted(CHECKPOINT.parent.glob("*upscaler*.safetensors")),
                       distilled_lora=next(CHECKPOINT.parent.glob("*lora*.safetensors")),
                       output=tmp_path_factory.mktemp("overlay") / "tiny.json")


@pytest.fixture(scope="module", params=[10**10, 400_000], ids=["single files", "shards"])
def folder(request: pytest.FixtureRequest, overlay: Overlay, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(overlay, "diffusers", tmp_path_factory.mktemp("diffusers"), shard_bytes=request.param).folder


def ours(overlay: Overlay, component: str) -> nn.Module:
    """A component of the library in float32."""
    entry = overlay.require(component)
    module = build(component, entry.config)
    load_module(module, entry.tensors, "cpu", torch.float32)
    return module


def theirs(kind: type, folder: Path, part: str, caplog: pytest.LogCaptureFixture) -> nn.Module:
    """A part of the folder as diffusers loads it: no weight and no setting missing or left over."""
    with caplog.at_level(logging.WARNING):
        module, info = kind.from_pretrained(folder / part, dtype=torch.float32, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), info
    stored = json.loads((folder / part / "config.json").read_text())
    assert stored["_class_name"] == kind.__name__
    unknown = stored.keys() - module.config.keys()
    assert not unknown, f"settings that diffusers does not have: {unknown}"
    chosen = {key for key in module.config if not key.startswith("_")} - stored.keys()
    print(f"{part}: left to diffusers' defaults: {sorted(chosen) or 'nothing'}")
    assert chosen <= {"leaky_relu_negative_slope", "bwe_leaky_relu_negative_slope", "use_keyframes_abs_pos_embedding"}
    return module.float()  # without accelerate it keeps the stored type if its first weight is in float32 anyway


def test_transformer(overlay: Overlay, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = ours(overlay, "transformer")
    other = theirs(LTX2VideoTransformer3DModel, folder, "transformer", caplog)
    video, audio = mine.config.video, mine.config.audio
    grid, length, fps = (2, 3, 4), 11, 24.0
    spans = video_positions(VideoGrid(*grid), fps), audio_positions(length)
    for span, rope in zip(spans, (other.rope.prepare_video_coords(1, *grid, torch.device("cpu"), fps=fps),
                                  other.audio_rope.prepare_audio_coords(1, length, torch.device("cpu"))), strict=True):
        same("positions", span, rope)
    latents = randn(1, 1, spans[0].shape[2], video.in_channels), randn(2, 1, length, audio.in_channels)
    contexts = randn(3, 1, 20, video.width), randn(4, 1, 20, audio.width)
    sigma = torch.tensor([0.7])
    (got,) = mine(*(StreamInput(x, sigma, sigma[:, None]) for x in latents), [Pass(*contexts)],
                  mine.tables(*spans, torch.float32))
    want = other(*latents, *contexts, timestep=sigma * 1000, sigma=sigma * 1000, num_frames=grid[0], height=grid[1],
                 width=grid[2], fps=fps, audio_num_frames=length, use_cross_timestep=True, return_dict=False)
    for name, a, b in zip(("video", "audio"), got, want, strict=True):
        same(name, a, b)


def test_connectors(overlay: Overlay, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = theirs(LTX2TextConnectors, folder, "connectors", caplog)
    projection, connectors = ours(overlay, "text_projection"), ours(overlay, "connectors")
    states = randn(3, other.config.text_proj_in_factor, 1, TEXT_TOKENS, other.config.caption_channels)
    mask = (torch.arange(TEXT_TOKENS) >= TEXT_TOKENS - 50).long()[None]
    want = other(states.permute(1, 2, 3, 0), mask)
    for name, a, b in zip(("video", "audio"), connectors(*projection(states, mask), mask), want[:2], strict=True):
        same(name, a, b)


def test_video_vae(overlay: Overlay, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = theirs(AutoencoderKLLTX2Video, folder, "vae", caplog)
    assert (other.spatial_compression_ratio, other.temporal_compression_ratio) == (32, 8)
    encoder, decoder = ours(overlay, "video_encoder"), ours(overlay, "video_decoder")
    statistics = other.latents_mean, other.latents_std
    pixels, latent = randn(1, 1, 3, 9, 64, 32).clamp(-1, 1), randn(2, 1, other.config.latent_channels, 2, 2, 3)
    same("latent", encoder(pixels), LTX2Pipeline._normalize_latents(other.encode(pixels).latent_dist.mode(),
                                                                    *statistics))
    same("pixels", decoder(latent), other.decode(LTX2Pipeline._denormalize_latents(latent, *statistics)).sample)


def test_audio_vae(overlay: Overlay, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = theirs(AutoencoderKLLTX2Audio, folder, "audio_vae", caplog)
    encoder, decoder = ours(overlay, "audio_encoder"), ours(overlay, "audio_decoder")
    statistics = other.latents_mean, other.latents_std
    mel, latent = randn(1, 1, 2, 24, 64), randn(2, 1, other.config.latent_channels, 5, 16)
    tokens = LTX2Pipeline._pack_audio_latents(other.encode(mel).latent_dist.mode())
    want = LTX2Pipeline._normalize_audio_latents(tokens, *statistics)
    same("latent", encoder(mel), LTX2Pipeline._unpack_audio_latents(want, tokens.shape[1], 16))
    tokens = LTX2Pipeline._denormalize_audio_latents(LTX2Pipeline._pack_audio_latents(latent), *statistics)
    same("mel", decoder(latent), other.decode(LTX2Pipeline._unpack_audio_latents(tokens, 5, 16)).sample)


def test_vocoder(overlay: Overlay, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = theirs(LTX2VocoderWithBWE, folder, "vocoder", caplog)
    assert other.config.final_act_fn == "clamp" and other.vocoder.final_act_fn == "clamp"
    mine, mel = ours(overlay, "vocoder"), 4 * randn(3, 1, 2, 9, 64)
    same("base waveform", mine.base_waveform(mel), other.vocoder(mel))
    same("waveform", mine(mel), other(mel))


@pytest.mark.parametrize("component", UPSCALERS)
def test_upscaler(component: str, overlay: Overlay, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    other, mine = theirs(LTX2LatentUpsamplerModel, folder, UPSCALERS[component], caplog), ours(overlay, component)
    channels = other.config.in_channels
    latent, mean, std = randn(1, 1, channels, 3, 4, 6), randn(2, channels), 1 + randn(3, channels).abs()
    want = LTX2Pipeline._normalize_latents(other(LTX2Pipeline._denormalize_latents(latent, mean, std)), mean, std)
    same(component, upsample(mine, latent, mean, std), want)


def test_lora_names(overlay: Overlay, folder: Path) -> None:
    """diffusers needs peft to use a LoRA; that every pair names a Linear of its transformer is shown without."""
    state = LTX2Pipeline.lora_state_dict(str(folder / "distilled_lora"))
    state = state[0] if isinstance(state, tuple) else state
    config = LTX2VideoTransformer3DModel.load_config(folder / "transformer")
    with torch.device("meta"):
        modules = dict(LTX2VideoTransformer3DModel.from_config(config).named_modules())
    assert len(state) == len(overlay.require("distilled_lora").tensors)
    for name, tensor in state.items():
        module, half, weight = name.removeprefix("transformer.").rsplit(".", 2)
        assert name.startswith("transformer.") and weight == "weight"
        linear = modules[module]
        assert isinstance(linear, nn.Linear), module
        assert tensor.shape[1] == linear.in_features if half == "lora_A" else tensor.shape[0] == linear.out_features


def test_text_encoder(overlay: Overlay, folder: Path) -> None:
    pipe = LTX2Pipeline.from_pretrained(folder, dtype=torch.float32)
    ids = pipe.tokenizer("A red fox.").input_ids
    got = hidden_states(ours(overlay, "text_encoder"), ids)
    want = pipe.text_encoder(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    for index, (mine, other) in enumerate(zip(got, want, strict=True)):
        same(f"hidden state {index}", mine, other, bound=5e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_pipeline(folder: Path, dtype: torch.dtype) -> None:
    """The whole folder at once: loaded by its model_index.json, two guided steps from a prompt to frames and sound."""
    pipe = LTX2Pipeline.from_pretrained(folder, dtype=dtype).to(dtype)
    pipe.set_progress_bar_config(disable=True)
    video, audio = pipe("A red fox trots through fresh snow.", negative_prompt="blurry", width=64, height=64,
                        num_frames=9, frame_rate=24.0, num_inference_steps=2, guidance_scale=3.0, output_type="np",
                        stg_scale=1.0, spatio_temporal_guidance_blocks=[1], modality_scale=3.0, guidance_rescale=0.7,
                        generator=torch.Generator().manual_seed(1), return_dict=False)
    assert video.shape == (1, 9, 64, 64, 3) and np.isfinite(video).all() and video.std() > 0.01
    assert audio.shape[:2] == (1, 2) and audio.shape[2] > 10_000 and audio.isfinite().all() and audio.std() > 1e-5
    assert pipe.vocoder.config.output_sampling_rate == 48_000
