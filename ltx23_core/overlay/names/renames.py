"""Official names <-> names of diffusers, as data (spec/01 §3.1): the same tables write and read diffusers folders.

A component's table has two parts. `start` replaces the beginning of a name: the first row that fits counts, and a
name that no row fits does not belong to the component. `inside` replaces whole dotted parts wherever they stand: all
rows count. Every row works in both directions; the tests demand a bijection on all names of the 22B files.
"""
from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

STEPS = 4  # of the video VAE's resolution, in every 2.3 file


class Pair(NamedTuple):
    """A row: the same part of a name on both sides."""

    official: str
    diffusers: str


@dataclass(frozen=True)
class Names:
    """How the names of one component differ.

    Args:
        start: beginnings of names, with whole parts only; "" fits every name.
        inside: whole parts anywhere in the name.
    """

    start: tuple[Pair, ...]
    inside: tuple[Pair, ...] = ()


def _pairs(*rows: tuple[str, str]) -> tuple[Pair, ...]:
    return tuple(map(Pair._make, rows))


_SAME = Pair("", "")
_NORMS = _pairs(("q_norm", "norm_q"), ("k_norm", "norm_k"))
_STATISTICS = _pairs(("per_channel_statistics.mean-of-means", "latents_mean"),
                     ("per_channel_statistics.std-of-means", "latents_std"))

_TRANSFORMER = Names(
    start=(*_pairs(
        ("patchify_proj", "proj_in"), ("audio_patchify_proj", "audio_proj_in"),
        ("adaln_single", "time_embed"), ("audio_adaln_single", "audio_time_embed"),
        ("prompt_adaln_single", "prompt_adaln"), ("audio_prompt_adaln_single", "audio_prompt_adaln"),
        ("av_ca_video_scale_shift_adaln_single", "av_cross_attn_video_scale_shift"),
        ("av_ca_audio_scale_shift_adaln_single", "av_cross_attn_audio_scale_shift"),
        ("av_ca_a2v_gate_adaln_single", "av_cross_attn_video_a2v_gate"),
        ("av_ca_v2a_gate_adaln_single", "av_cross_attn_audio_v2a_gate")), _SAME),
    inside=(*_pairs(("scale_shift_table_a2v_ca_video", "video_a2v_cross_attn_scale_shift_table"),
                    ("scale_shift_table_a2v_ca_audio", "audio_a2v_cross_attn_scale_shift_table")), *_NORMS))


def _video_encoder(steps: int) -> Names:
    rows = [(f"down_blocks.{2 * steps}", "encoder.mid_block")]
    for step in range(steps):
        rows += [(f"down_blocks.{2 * step + 1}", f"encoder.down_blocks.{step}.downsamplers.0"),
                 (f"down_blocks.{2 * step}", f"encoder.down_blocks.{step}")]
    return Names((*_STATISTICS, *_pairs(*rows, ("", "encoder"))), _pairs(("res_blocks", "resnets")))


def _video_decoder(steps: int) -> Names:
    rows = [("up_blocks.0", "decoder.mid_block")]
    for step in range(steps):
        rows += [(f"up_blocks.{2 * step + 1}", f"decoder.up_blocks.{step}.upsamplers.0"),
                 (f"up_blocks.{2 * step + 2}", f"decoder.up_blocks.{step}")]
    return Names((*_STATISTICS, *_pairs(*rows, ("", "decoder"))), _pairs(("res_blocks", "resnets")))


@cache
def table(component: str, steps: int = STEPS) -> Names:
    """The table of a component.

    Args:
        component: name in an overlay.
        steps: how often the video VAE halves or doubles a resolution.
    """
    if component.startswith("upsampler_"):
        return Names((_SAME,))
    return {
        "transformer": _TRANSFORMER,
        "distilled_lora": Names(tuple(Pair(a, _join("transformer", b)) for a, b in _TRANSFORMER.start),
                                _TRANSFORMER.inside),
        "connectors": Names(_pairs(("video_embeddings_connector", "video_connector"),
                                   ("audio_embeddings_connector", "audio_connector")),
                            (Pair("transformer_1d_blocks", "transformer_blocks"), *_NORMS)),
        "text_projection": Names(_pairs(("video_aggregate_embed", "video_text_proj_in"),
                                        ("audio_aggregate_embed", "audio_text_proj_in"))),
        "video_encoder": _video_encoder(steps), "video_decoder": _video_decoder(steps),
        "audio_encoder": Names((*_STATISTICS, Pair("", "encoder"))),
        "audio_decoder": Names((*_STATISTICS, Pair("", "decoder"))),
        "vocoder": Names((_SAME,), _pairs(
            ("ups", "upsamplers"), ("resblocks", "resnets"),
            ("conv_pre", "conv_in"), ("conv_post", "conv_out"),
            ("act_post", "act_out"), ("downsample.lowpass", "downsample"))),
    }[component]


# Folder of a diffusers pipeline -> the components whose tensors it holds together.
FOLDERS: dict[str, tuple[str, ...]] = {
    "transformer": ("transformer",), "connectors": ("connectors", "text_projection"),
    "vae": ("video_encoder", "video_decoder"), "audio_vae": ("audio_encoder", "audio_decoder"),
    "vocoder": ("vocoder",),
    "latent_upsampler": ("upsampler_x2",), "latent_upsampler_x1.5": ("upsampler_x1.5",),
    "latent_upsampler_temporal_x2": ("upsampler_temporal_x2",),
}


def to_diffusers(component: str, name: str, steps: int = STEPS) -> str:
    """The name that a tensor has in the files of diffusers.

    Args:
        component: name in an overlay.
        name: official name of the tensor, as an overlay has it.
        steps: see `table`.

    Raises:
        ValueError: a name that the component does not have.
    """
    names = table(component, steps)
    renamed = _start(name, names.start)
    if renamed is None:
        raise ValueError(f"{component} has no tensor {name}")
    return _inside(renamed, names.inside)


def to_official(component: str, name: str, steps: int = STEPS) -> str | None:
    """The name that an overlay has for a tensor of a diffusers file; None if it belongs to another component.

    Args:
        component: name in an overlay.
        name: name of the tensor in the files of diffusers (for the LoRA: with ``transformer.`` before it).
        steps: see `table`.
    """
    names = table(component, steps)
    plain = _inside(name, _turned(names.inside))
    return _start(plain, _turned(names.start))


@cache
def _turned(rows: tuple[Pair, ...]) -> tuple[tuple[str, str], ...]:
    """The rows for the other direction; thousands of names are asked for."""
    return tuple((theirs, ours) for ours, theirs in rows)


def _start(name: str, rows: Iterable[tuple[str, str]]) -> str | None:
    for old, new in rows:
        if not old:
            return _join(new, name)
        if name == old or name.startswith(old + "."):
            return _join(new, name[len(old) + 1:])
    return None


def _join(start: str, rest: str) -> str:
    if start and rest:
        return f"{start}.{rest}"
    return start or rest


def _inside(name: str, rows: Iterable[tuple[str, str]]) -> str:
    for old, new in rows:
        if old in name:  # most are not: saves the search
            name = re.sub(rf"(?<![^.]){re.escape(old)}(?![^.])", new, name)
    return name
