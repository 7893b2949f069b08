"""What ComfyUI's own LTX-2.3 computes differently, by relative L2 norms of differences from ours in float32.

    LTX23_COMFYUI=DIR PYTHON -m bench native      PYTHON: of that ComfyUI, 0.33 or newer

Both get the same weights: through the bridge where ComfyUI's loaders take them (transformer, VAEs), else into its own
classes with the sizes of the tiny model (Gemma, of which its loader knows 12B alone).
"""
from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltx23_core import Overlay, Pipeline, materialize
from ltx23_core.bridge.state import native_part, opened
from ltx23_core.config import gemma_config
from ltx23_core.geometry import VideoGrid, audio_latent_length, audio_positions, video_positions
from ltx23_core.models.registry import build
from ltx23_core.models.transformer.inputs import Pass, StreamInput
from ltx23_core.overlay.export.native import PROJECTION, native_file, native_gemma
from ltx23_core.prompt.encode import contexts, features
from ltx23_core.prompt.tokenizer import Tokenizer
from ltx23_core.runtime.load import load_module
from ltx23_core.sampling.state import audio_to_tokens, tokens_to_audio, tokens_to_video, video_to_tokens

ROOT = Path(__file__).resolve().parents[1]
TINY, GOLDEN = ROOT / "tiny", ROOT / "tests" / "goldens" / "tiny"
PROMPT = "A red ball bounces to the right on a blue background. Each bounce clicks."
GRID, FPS, SIGMA = VideoGrid(4, 4, 6), 24.0, 0.7
FLOATS = (torch.float32, torch.bfloat16)
Made = dict[str, Tensor]  # by what it is called in the table


def main() -> None:
    """Command line."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    start_comfy(Path(os.environ["LTX23_COMFYUI"]))
    from comfyui_version import __version__

    print(f"ComfyUI {__version__}, torch {torch.__version__}\n")
    print("| | native fp32 | native bf16 | ours bf16 |\n|---|---|---|---|")
    for name, row in table().items():
        print(f"| {name} | " + " | ".join(row) + " |")


def start_comfy(tree: Path) -> None:
    """Make ComfyUI's modules importable, on the CPU where torch has no device."""
    sys.path.insert(0, str(tree))
    import comfy.options

    sys.argv = sys.argv[:1]
    if not torch.cuda.is_available():
        sys.argv.append("--cpu")
    comfy.options.enable_args_parsing()


@torch.no_grad()
def table() -> dict[str, list[str]]:
    """Name -> what stands in its row."""
    rows: dict[str, list[str]] = {}
    for part in (transformer, connectors, gemma, text, video_vae, audio_vae):
        want, *others = part()
        for name, tensor in want.items():
            rows[name] = []
            for other in others:
                rows[name].append(f"{difference(other[name], tensor):.1e}")
    return rows


def difference(got: Tensor, want: Tensor) -> float:
    """Relative L2 norm."""
    got, want = got.double().cpu(), want.double().cpu()
    assert got.shape == want.shape, (got.shape, want.shape)
    return float((got - want).norm() / want.norm())


def _four(ours: Callable[[torch.dtype], Made], native: Callable[[torch.dtype], Made]) -> list[Made]:
    return [ours(torch.float32), native(torch.float32), native(torch.bfloat16), ours(torch.bfloat16)]


def overlay_of(folder: Path, checkpoint: str) -> Overlay:
    """A tiny model; the manifest lies in the temporary folder of the system."""
    import tempfile

    return materialize(folder / checkpoint, folder / "gemma",
                       output=Path(tempfile.mkdtemp()) / "overlay.json")


def trained() -> Overlay:
    """The tiny model of the repository."""
    return overlay_of(TINY, "ltx-2.3-tiny-world.safetensors")


def module(overlay: Overlay, name: str, dtype: torch.dtype) -> torch.nn.Module:
    """A component of ours with its weights."""
    entry = overlay.require(name)
    made = build(name, entry.config)
    load_module(made, entry.tensors, "cpu", dtype)
    return made.eval()


def state_of(overlay: Overlay, part: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What the bridge gives ComfyUI."""
    with opened((), now=True, check=lambda: None) as state:
        return state(native_part(overlay, part)[-1])


def noise(*shape: int, seed: int = 1) -> Tensor:
    """Random numbers, the same everywhere."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latents(overlay: Overlay) -> tuple[Tensor, Tensor]:
    """A video and an audio latent of the grid."""
    length = audio_latent_length(8 * (GRID.frames - 1) + 1, FPS)
    channels = overlay.require("transformer").config["in_channels"]
    return noise(1, channels, GRID.frames, GRID.height, GRID.width), noise(1, 8, length, 16, seed=2)


def native_transformer(overlay: Overlay, dtype: torch.dtype) -> Any:  # noqa: ANN401 (ComfyUI's own)
    """ComfyUI's transformer, by its own loader."""
    import comfy.sd

    tensors, metadata = state_of(overlay, "model")
    made = comfy.sd.load_diffusion_model_state_dict(tensors, metadata=metadata, model_options={"dtype": dtype})
    return made.model.diffusion_model


def transformer() -> list[Made]:
    """One forward: velocities of a conditional pass."""
    overlay = trained()
    video, audio = latents(overlay)
    context = Pipeline(overlay, device="cpu", dtype="fp32").encode(PROMPT).positive

    def ours(dtype: torch.dtype) -> Made:
        model = module(overlay, "transformer", dtype)
        tokens = video_to_tokens(video.to(dtype)), audio_to_tokens(audio.to(dtype))
        streams = [StreamInput(x, torch.tensor([SIGMA]), torch.full(x.shape[:2], SIGMA)) for x in tokens]
        tables = model.tables(video_positions(GRID, FPS), audio_positions(audio.shape[2]), dtype)
        seen = Pass(context.video.to(dtype), context.audio.to(dtype))
        [(v, a)] = model(*streams, [seen], tables)
        return {"transformer, video velocity": tokens_to_video(v, GRID), "transformer, audio velocity":
                tokens_to_audio(a, audio.shape[1])}

    def native(dtype: torch.dtype) -> Made:
        model = native_transformer(overlay, dtype)
        joined = torch.cat((context.video, context.audio), dim=-1).to(dtype)
        v, a = model([video.to(dtype), audio.to(dtype)], torch.tensor([SIGMA]), joined, None, frame_rate=FPS)
        return {"transformer, video velocity": v, "transformer, audio velocity": a}

    return _four(ours, native)


def connectors() -> list[Made]:
    """Features of a prompt to contexts."""
    overlay = trained()
    widths = module(overlay, "connectors", torch.float32)
    video = noise(1, 20, widths.video_embeddings_connector.learnable_registers.shape[1])
    audio = noise(1, 20, widths.audio_embeddings_connector.learnable_registers.shape[1], seed=2)

    def ours(dtype: torch.dtype) -> Made:
        v, a = contexts(module(overlay, "connectors", dtype), video.to(dtype), audio.to(dtype))
        return {"connectors": torch.cat((v, a), dim=-1)}

    def native(dtype: torch.dtype) -> Made:
        model = native_transformer(overlay, dtype)
        return {"connectors": model.preprocess_text_embeds(torch.cat((video, audio), dim=-1).to(dtype), True)}

    return _four(ours, native)


def native_text(overlay: Overlay, dtype: torch.dtype) -> tuple[Any, Any]:
    """ComfyUI's text encoder with projection, and its tokenizer, at the tiny model's sizes."""
    from comfy.sd1_clip import SDClipModel
    from comfy.text_encoders import llama, lt

    values = gemma_config(overlay.require("text_encoder").config)
    fields = {field.name for field in dataclasses.fields(llama.Gemma3_12B_Config)}
    config = llama.Gemma3_12B_Config(**{key: value for key, value in values.items() if key in fields})
    config.head_dim = values["head_dim"]
    sliding = values["sliding_window"]
    config.sliding_attention = [sliding, sliding, sliding, sliding, sliding, False]

    class Gemma(llama.BaseLlama, torch.nn.Module):
        def __init__(self, _: object, kind: torch.dtype, device: str, operations: object) -> None:
            super().__init__()
            self.num_layers, self.dtype = config.num_hidden_layers, kind
            self.model = llama.Llama2_(config, device=device, dtype=kind, ops=operations)

    class Encoder(SDClipModel):
        def __init__(self, device: str = "cpu", dtype: torch.dtype | None = None,
                     model_options: dict[str, Any] | None = None, **_: object) -> None:
            super().__init__(device=device, layer="all", layer_idx=None, textmodel_json_config={}, dtype=dtype,
                             special_tokens={"start": 2, "pad": 0}, layer_norm_hidden_state=False, model_class=Gemma,
                             enable_attention_masks=True, return_attention_masks=True,
                             model_options=model_options or {})

    with opened((), now=True, check=lambda: None) as state:
        encoder = state(native_gemma(overlay))[0]
        projection = state(native_file(overlay, PROJECTION))[0]
    encoder["model.embed_tokens.weight"] = encoder["model.embed_tokens.weight"][:values["vocab_size"]]
    model = lt.ltxav_te(dtype_llama=dtype, text_encoder_model=Encoder, **lt.sd_detect([projection]))(dtype=dtype)
    model.set_clip_options({"execution_device": torch.device("cpu")})
    for each in (encoder, projection):
        missing, _ = model.load_sd(each)
        assert not missing, missing
    return model, lt.LTXAVGemmaTokenizer(tokenizer_data={"spiece_model": encoder["spiece_model"]})


def gemma() -> list[Made]:
    """A prompt to the hidden states of all layers, joined."""
    from ltx23_core.models.text.gemma import hidden_states

    overlay = trained()
    ids = Tokenizer(TINY / "gemma").encode(PROMPT)

    def ours(dtype: torch.dtype) -> Made:
        states = hidden_states(module(overlay, "text_encoder", dtype), ids)
        return {"Gemma, hidden states": torch.stack(states, dim=1)}

    def native(dtype: torch.dtype) -> Made:
        model, tokenizer = native_text(overlay, dtype)
        tokens = tokenizer.tokenize_with_weights(PROMPT)
        assert [pair[0] for pair in tokens["gemma3_12b"][0]][-len(ids):] == ids, "other token ids"
        out, _, extra = model.gemma3_12b.encode_token_weights(tokens["gemma3_12b"])
        return {"Gemma, hidden states": out[:, :, -int(extra["attention_mask"].sum()):]}

    return _four(ours, native)


def text() -> list[Made]:
    """A prompt to the features of both streams, through projection."""
    from ltx23_core.models.text.gemma import hidden_states

    overlay = trained()
    ids = Tokenizer(TINY / "gemma").encode(PROMPT)

    def ours(dtype: torch.dtype) -> Made:
        states = hidden_states(module(overlay, "text_encoder", dtype), ids)
        return {"Gemma and projection": torch.cat(features(module(overlay, "text_projection", dtype), states), dim=-1)}

    def native(dtype: torch.dtype) -> Made:
        model, tokenizer = native_text(overlay, dtype)
        return {"Gemma and projection": model.encode_token_weights(tokenizer.tokenize_with_weights(PROMPT))[0]}

    return _four(ours, native)


def native_vae(overlay: Overlay, part: str, dtype: torch.dtype) -> Any:  # noqa: ANN401 (ComfyUI's own)
    """A VAE of ComfyUI's, by its own loader."""
    import comfy.sd

    tensors, metadata = state_of(overlay, part)
    return comfy.sd.VAE(sd=tensors, metadata=metadata, dtype=dtype)


def video_vae() -> list[Made]:
    """A latent to frames and back."""
    overlay = trained()
    latent, frames = latents(overlay)[0], torch.rand((25, 128, 192, 3), generator=torch.Generator().manual_seed(3))

    def ours(dtype: torch.dtype) -> Made:
        pixels = module(overlay, "video_decoder", dtype)(latent.to(dtype)).float().clamp(-1, 1)
        given = (2 * frames - 1).movedim(-1, 0)[None]
        return {"video VAE, frames": ((pixels + 1) / 2).movedim(1, -1),
                "video VAE, latent": module(overlay, "video_encoder", dtype)(given.to(dtype))}

    def native(dtype: torch.dtype) -> Made:
        vae = native_vae(overlay, "vae", dtype)
        return {"video VAE, frames": vae.decode(latent), "video VAE, latent": vae.encode(frames)}

    return _four(ours, native)


def with_golden_vocoder() -> Overlay:
    """The tiny model with the vocoder of the golden one: ComfyUI's blocks of a vocoder have three dilations."""
    import tempfile

    from safetensors import safe_open
    from safetensors.torch import save_file

    folder = Path(tempfile.mkdtemp())
    with safe_open(GOLDEN / "ltx-2.3-tiny.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if key.startswith("vocoder.")}
        config = {"vocoder": json.loads(file.metadata()["config"])["vocoder"]}
    save_file(tensors, folder / "vocoder.safetensors", {"config": json.dumps(config)})
    return materialize(TINY / "ltx-2.3-tiny-world.safetensors", components=[folder / "vocoder.safetensors"],
                       output=folder / "overlay.json")


def audio_vae() -> list[Made]:
    """A latent to a spectrum, and to sound."""
    overlay = with_golden_vocoder()
    latent = latents(overlay)[1]

    def ours(dtype: torch.dtype) -> Made:
        mel = module(overlay, "audio_decoder", dtype)(latent.to(dtype)).float()
        return {"audio VAE and vocoder, sound": module(overlay, "vocoder", torch.float32)(mel)}

    def native(_: torch.dtype) -> Made:  # always float32
        vae = native_vae(overlay, "audio_vae", torch.float32)
        return {"audio VAE and vocoder, sound": vae.decode(latent).movedim(-1, 1)}

    return _four(ours, native)


if __name__ == "__main__":
    main()
