"""Which file brings a component that is missing, where to get it and where to put it (spec/09 §1, §3, §8)."""
from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..hub.catalogue import ENTRIES, Entry

UPSAMPLERS = ("upsampler_x2", "upsampler_x1.5", "upsampler_temporal_x2")
OPTIONAL = (*UPSAMPLERS, "distilled_lora")  # what not every recipe needs
_KIJAI = "Kijai/LTX2.3_comfy"
_VIDEO = Entry("", _KIJAI, "vae/LTX23_video_vae_bf16.safetensors", 1.5, "vae", "")
_AUDIO = Entry("", _KIJAI, "vae/LTX23_audio_vae_bf16.safetensors", 0.4, "vae", "")
# Component -> the file, and what the component is needed for.
DOWNLOADS: dict[str, tuple[Entry, str]] = {
    "transformer": (ENTRIES["dev"], "everything"),
    "connectors": (ENTRIES["dev"], "prompts"),
    "text_projection": (Entry("", _KIJAI, "text_encoders/ltx-2.3_text_projection_bf16.safetensors", 2.3,
                              "text_encoders", ""), "prompts"),
    "text_encoder": (ENTRIES["gemma-comfy"], "prompts"), "video_decoder": (_VIDEO, "pictures"),
    "video_encoder": (_VIDEO, "images and videos as conditions"), "audio_decoder": (_AUDIO, "sound"),
    "audio_encoder": (_AUDIO, "source audio"), "vocoder": (_AUDIO, "sound"),
    "distilled_lora": (ENTRIES["distilled-lora"], "the distilled recipes on dev weights"),
    "upsampler_x2": (ENTRIES["upscaler-x2"], "the two-stage recipes"),
    "upsampler_x1.5": (ENTRIES["upscaler-x1.5"], "upscaling by 1.5"),
    "upsampler_temporal_x2": (ENTRIES["upscaler-temporal-x2"], "twice the frame rate"),
    "text_encoder_vision": (ENTRIES["gemma-comfy"], "enhancing a prompt to an image"),
}
GATED = ENTRIES["gemma"]  # the same text encoder at its owner's
NOT_MISSED = {"text_encoder_vision"}  # in no report: only one optional input asks for it


# What the recommended checkpoint contains: listed for itself only where a transformer is there without it.
_IN_CHECKPOINT = ("transformer", "connectors", "text_projection", "video_decoder", "video_encoder",
                  "audio_decoder", "audio_encoder", "vocoder")


def missing(have: Iterable[str], variant: str | None) -> list[str]:
    """The components that are not there; distilled weights need no LoRA.

    Without a transformer a checkpoint is needed, and what it contains is no other file to fetch.
    """
    there = set(have) | NOT_MISSED
    if "transformer" not in there:
        there.update(_IN_CHECKPOINT[1:])
    if variant == "distilled":
        there.add("distilled_lora")
    return [name for name in DOWNLOADS if name not in there]


def how_to_get(component: str) -> str:
    """One line: the file that brings a component, its size, its folder and its address."""
    entry, _ = DOWNLOADS[component]
    url = f"https://huggingface.co/{entry.repo}"
    what = entry.repo
    if entry.path:
        url += f"/resolve/main/{entry.path}"
        what = entry.path.rsplit("/", 1)[-1]
    if entry.size:
        what += f", {entry.size:.1f} GB"
    line = f"{what} -> models/{entry.folder}: {url}"
    if component == "text_encoder":
        line += f" (or the folder {GATED.repo}, gated: accept Google's terms there first)"
    return line


def missing_lines(names: Iterable[str], optional: bool = True,
                  unfinished: Mapping[str, str] | None = None) -> list[str]:
    """What is missing, one line a file, with what it is needed for.

    Args:
        names: components, of `missing`.
        optional: also those that only some recipes need.
        unfinished: component -> what to do with the broken file that would bring it: no other one is recommended.
    """
    instead = unfinished or {}
    lines: dict[str, list[str]] = {}
    for name in names:
        if optional or name not in OPTIONAL:
            line = instead.get(name) or how_to_get(name)
            lines.setdefault(line, []).append(name)
    described = []
    for line, names in lines.items():
        described.append(f"no {', '.join(names)} (for {_purposes(names)}): {line}")
    return described


def _purposes(names: Iterable[str]) -> str:
    """What components are needed for, each purpose once."""
    purposes: dict[str, None] = {}
    for name in names:
        _, purpose = DOWNLOADS[name]
        purposes[purpose] = None
    return " and ".join(purposes)


def needed_by(upscales: bool, lora: bool, variant: str, have: Iterable[str]) -> list[str]:
    """The lines of what a recipe needs beside the rest.

    Args:
        upscales: whether it has a second stage at twice the size.
        lora: whether it runs distilled stages.
        variant: of the weights.
        have: components that are there.
    """
    lacking = missing(have, variant)
    wanted = []
    if upscales and "upsampler_x2" in lacking:
        wanted.append("upsampler_x2")
    if lora and "distilled_lora" in lacking:
        wanted.append("distilled_lora")
    return missing_lines(wanted)


def where_to_get(name: str) -> tuple[str, str]:
    """For the error about a missing component: what is expected, and what to do."""
    file_of = name
    if name not in DOWNLOADS:
        file_of = "transformer"
    line = how_to_get(file_of)
    return f"a file that brings {name}", f"Download {line}, and choose it in Overlay, or make the overlay anew with it."
