"""Transformers with random weights, made where they run: ours, and a peer that shares the same memory."""
from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ltx23_core.config import TransformerConfig
from ltx23_core.geometry import VideoGrid, audio_latent_length, audio_positions, video_grid, video_positions
from ltx23_core.models.registry import build
from ltx23_core.models.transformer.attention import Attention
from ltx23_core.models.transformer.feed_forward import FeedForward
from ltx23_core.models.transformer.inputs import Pass, Perturbation, StreamInput
from ltx23_core.models.transformer.model import Transformer
from ltx23_core.ops.codes import FP8, INT8, quantise
from ltx23_core.ops.matmul import pack
from ltx23_core.ops.rope import Rope, RopeRows
from ltx23_core.overlay.bytes.source import QuantRef, TensorRef
from ltx23_core.overlay.names.renames import to_diffusers
from ltx23_core.quant.layers import QuantLinear

from .generate_weights import manifest_22b, random_tensor

SIZES = {"tiny": (128, 64, 17), "preview": (384, 256, 25), "a": (768, 512, 121), "b": (1280, 704, 121),
         "half-b": (640, 352, 121), "half-c": (960, 544, 121),
         "c": (1920, 1088, 121)}
TEXT = 1024
STG_BLOCK = 28
GATES = "to_gate_logits"
TINY_WIDTHS = {"num_layers": 3, "num_attention_heads": 4, "audio_num_attention_heads": 4, "attention_head_dim": 16,
               "audio_attention_head_dim": 8}


def config_22b(tiny: bool = False) -> dict[str, object]:
    """``config.transformer`` of the 22B model; ``tiny``: the same with small widths, for a smoke run."""
    config = json.loads(manifest_22b()[1]["config"])["transformer"]
    return config | TINY_WIDTHS if tiny else config


def random_transformer(config: dict[str, object], device: torch.device, dtype: torch.dtype) -> Transformer:
    """The library's transformer with random weights of its true shapes, packed as a resident one is."""
    torch.manual_seed(0)
    model = build("transformer", config)
    for name, value in model.state_dict().items():
        path, _, last = name.rpartition(".")
        tensor = random_tensor(name, tuple(value.shape), dtype, device)
        setattr(model.get_submodule(path), last, nn.Parameter(tensor, requires_grad=False))
    pack(model)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return model.eval()


@dataclass(frozen=True)
class Work:
    """One size: what both models get."""

    name: str
    grid: VideoGrid
    fps: float
    latents: tuple[Tensor, Tensor]
    contexts: tuple[Tensor, Tensor, Tensor, Tensor]
    sigma: Tensor

    @classmethod
    def make(cls, name: str, config: TransformerConfig, device: torch.device, dtype: torch.dtype,
             text: int = TEXT) -> Work:
        """Random latents and contexts of a size of `SIZES`."""
        width, height, frames = SIZES[name]
        grid, length = video_grid(width, height, frames), audio_latent_length(frames, 24.0)
        generator = torch.Generator(device).manual_seed(1)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).to(dtype)

        latents = random(1, grid.tokens, config.video.in_channels), random(1, length, config.audio.in_channels)
        v, a, nv, na = (random(1, text, width) for width in (config.video.width, config.audio.width) * 2)
        return cls(name, grid, 24.0, latents, (v, a, nv, na), torch.full((1,), 0.7, device=device))

    def streams(self, conditioned: bool = False) -> tuple[StreamInput, StreamInput]:
        """Inputs of our transformer; ``conditioned``: the first latent frame is held (timestep 0)."""
        timesteps, index = self.sigma[:, None], None
        if conditioned:
            timesteps = torch.stack((torch.zeros_like(self.sigma), self.sigma), dim=1)
            index = (torch.arange(self.grid.tokens, device=self.sigma.device)
                     >= self.grid.height * self.grid.width).long()
        return (StreamInput(self.latents[0], self.sigma, timesteps, index),
                StreamInput(self.latents[1], self.sigma, self.sigma[:, None]))

    def passes(self, guided: bool) -> list[Pass]:
        """The conditional pass, or all four of the official guidance."""
        v, a, nv, na = self.contexts
        skip = frozenset((STG_BLOCK,))
        plain = [Pass(v, a)]
        return plain + [Pass(nv, na), Pass(v, a, Perturbation(skip, skip)),
                        Pass(v, a, Perturbation(cross=True))] if guided else plain

    def positions(self) -> tuple[Tensor, Tensor]:
        """Of video and audio tokens, as `Transformer.tables` takes them."""
        return (video_positions(self.grid, self.fps).to(self.sigma.device),
                audio_positions(self.latents[1].shape[1]).to(self.sigma.device))

    def ours(self, model: Transformer, guided: bool = False, conditioned: bool = False,
             whole_tables: bool = False) -> Callable[[], list]:
        """A call of our transformer, tables made beforehand as in a run; ``whole_tables``: a row for each token."""
        tables = model.tables(*self.positions(), self.latents[0].dtype)
        if whole_tables:
            tables = tuple(replace(each, rope=whole(each.rope), cross_rope=whole(each.cross_rope)) for each in tables)
        streams, passes = self.streams(conditioned), self.passes(guided)
        return lambda: model(*streams, passes, tables)

    def diffusers(self, peer: nn.Module, guided: bool = False) -> Callable[[], list]:
        """The same of diffusers' transformer: one call a pass, as its pipeline does it."""
        device = self.sigma.device
        v, a, nv, na = self.contexts
        known = {"timestep": self.sigma * 1000, "sigma": self.sigma * 1000, "use_cross_timestep": True,
                 "video_coords": video_positions(self.grid, self.fps).to(device), "return_dict": False,
                 "audio_coords": audio_positions(self.latents[1].shape[1]).to(device)}
        calls = [(v, a, {})]
        if guided:
            calls += [(nv, na, {}), (v, a, {"spatio_temporal_guidance_blocks": [STG_BLOCK]}),
                      (v, a, {"isolate_modalities": True})]
        return lambda: [peer(*self.latents, video, audio, **known, **options) for video, audio, options in calls]


def whole(rope: Rope) -> Rope:
    """Tables with a row for each token."""
    return rope.whole() if isinstance(rope, RopeRows) else rope


def sharing(model: Transformer, config: dict[str, object]) -> Transformer:
    """Another of our transformers over the same tensors."""
    other = build("transformer", config)
    other.load_state_dict(model.state_dict(), strict=True, assign=True)
    return other.eval().requires_grad_(False)


def compile_parts(model: Transformer, **options: object) -> int:
    """torch.compile of every attention and feed-forward of the blocks, in place; how many there are."""
    count = 0
    for block in model.transformer_blocks:
        for part in block.children():
            if isinstance(part, Attention | FeedForward):
                part.compile(**options)
                count += 1
    return count


def coded(model: Transformer, codes: torch.dtype) -> Transformer:
    """Exchange the linears of a transformer's blocks for ones that multiply 8-bit codes of their weights, made here.

    Those of one product (`ops.matmul`) lie behind each other, as a resident model's do; gate logits stay as they are.
    """
    for block in model.transformer_blocks:
        single = {name for name, part in block.named_modules()
                  if isinstance(part, nn.Linear) and not name.endswith(GATES)}
        groups = []
        for path, part in block.named_modules():
            for names in getattr(part, "together", ()):
                groups.append([f"{path}.{name}" for name in names if name != GATES])
        single -= {name for group in groups for name in group}
        for group in groups + [[name] for name in sorted(single)]:
            _code(block, group, codes)
    return model


def _code(block: nn.Module, names: list[str], codes: torch.dtype) -> None:
    """Exchange some layers of a block."""
    layers = [block.get_submodule(name) for name in names]
    rows = [layer.out_features for layer in layers]
    every = quantise(torch.cat([layer.weight for layer in layers]), codes)
    bias = torch.cat([layer.bias for layer in layers])
    parts = every.codes.split(rows), every.scale.split(rows), bias.split(rows)
    stored = {FP8: ("fp8", "F8_E4M3"), INT8: ("int8", "I8")}[codes]
    for name, layer, weight, scale, part in zip(names, layers, *parts, strict=True):
        refs = {"weight": TensorRef(Path("none"), stored[1], tuple(weight.shape), 0, weight.numel()),
                "weight_scale": TensorRef(Path("none"), "F32", tuple(scale.shape), 0, 4 * scale.numel())}
        made = QuantLinear(layer, QuantRef(stored[0], tuple(weight.shape), refs), layer.weight.dtype)
        made.weight, made.weight_scale, made.direct = weight, scale, True
        made.bias = nn.Parameter(part, requires_grad=False)
        path, _, last = name.rpartition(".")
        setattr(block.get_submodule(path), last, made)


def diffusers_peer(model: Transformer, config: dict[str, object], compiled: bool) -> nn.Module:
    """diffusers' transformer over the same weights, its blocks compiled one by one."""
    from diffusers import LTX2VideoTransformer3DModel
    c = TransformerConfig.from_dict(config)
    with torch.device("meta"):
        peer = LTX2VideoTransformer3DModel(
            in_channels=c.video.in_channels, out_channels=c.video.out_channels, num_attention_heads=c.video.heads,
            attention_head_dim=c.video.head_dim, cross_attention_dim=c.video.width,
            pos_embed_max_pos=c.video.max_pos[0], base_height=c.video.max_pos[1],
            base_width=c.video.max_pos[2], gated_attn=True, cross_attn_mod=True,
            audio_in_channels=c.audio.in_channels, audio_out_channels=c.audio.out_channels,
            audio_num_attention_heads=c.audio.heads, audio_attention_head_dim=c.audio.head_dim,
            audio_cross_attention_dim=c.audio.width, audio_pos_embed_max_pos=c.audio.max_pos[0], audio_gated_attn=True,
            audio_cross_attn_mod=True, num_layers=c.layers, rope_theta=c.rope_theta, rope_type="split",
            cross_attn_timestep_scale_multiplier=c.av_gate_timestep_scale, use_prompt_embeddings=False,
            perturbed_attn=True)
    state = {to_diffusers("transformer", name): value for name, value in model.state_dict().items()}
    peer.load_state_dict(state, strict=True, assign=True)
    peer = peer.eval().requires_grad_(False)
    if next(peer.parameters()).is_cuda:
        peer.set_attention_backend("_native_cudnn")  # its fastest; without it, torch's own choice
    if compiled:
        torch._dynamo.config.automatic_dynamic_shapes = False  # a second size would get slower kernels for any size
        peer.compile_repeated_blocks(fullgraph=True)
    return peer


def timed_once(what: str, function: Callable[[], object]) -> object:
    """Run and say how long it took."""
    start = time.perf_counter()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    print(f"# {what}: {time.perf_counter() - start:.1f} s", flush=True)
    return result
