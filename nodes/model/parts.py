"""Which of the chosen files brings which part, and what is missing, as the page lists it."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from ...ltx23_core.overlay.shelf.choose import Choice
    from ...ltx23_core.overlay.shelf.shelf import Item

# Component -> how people call it, in the order in which the page lists it.
PARTS: dict[str, str] = {
    "transformer": "transformer", "connectors": "connectors", "text_projection": "text projection",
    "video_decoder": "video decoder", "video_encoder": "video encoder", "audio_decoder": "audio decoder",
    "audio_encoder": "audio encoder", "vocoder": "vocoder", "text_encoder": "text encoder", "tokenizer": "tokenizer",
    "text_encoder_vision": "vision", "upsampler_x2": "x2 upscaler", "upsampler_x1.5": "x1.5 upscaler",
    "upsampler_temporal_x2": "temporal upscaler", "distilled_lora": "distilled LoRA"}
SOME_NEED = ("upsampler_x2", "distilled_lora")  # told as optional where no recipe of the graph needs them


def owners(choice: Choice) -> dict[str, Item]:
    """Component -> the file that it comes from."""
    from ...ltx23_core.overlay.downloads import UPSAMPLERS

    own: dict[str, Item] = {}
    for role in (*choice.in_order(), *UPSAMPLERS):
        if role in choice.files:
            own |= dict.fromkeys(choice.files[role].identity.brings, choice.files[role])
    if "distilled_lora" in choice.files:
        own["distilled_lora"] = choice.files["distilled_lora"]
    if "text_encoder" in choice.files:  # whatever the checkpoint also holds
        for name in choice.files["text_encoder"].identity.brings:
            if name.startswith(("text_encoder", "tokenizer")):
                own[name] = choice.files["text_encoder"]
    return own


def files_of(choice: Choice) -> list[dict[str, Any]]:
    """The chosen files, each with the parts that come from it."""
    parts: dict[Path, list[str]] = {}
    items = {}
    own = owners(choice)
    for name, words in PARTS.items():
        if name in own:
            item = own[name]
            items[item.identity.path] = item
            parts.setdefault(item.identity.path, []).append(words)
    found = []
    for path, item in items.items():
        who = item.identity
        found.append({"name": item.name, "folder": f"models/{item.folder}", "size": who.size_bytes,
                      "format": who.dtypes, "variant": who.variant or "", "parts": parts[path],
                      "sentence": who.sentence})
    return found


def missing_of(choice: Choice, needed: set[str]) -> list[dict[str, Any]]:
    """What no file brings, one entry a file to fetch: which parts, its size in bytes, where from and whereto.

    Args:
        choice: the files.
        needed: optional components that the graph's recipes need.
    """
    from ...ltx23_core.overlay.downloads import DOWNLOADS, OPTIONAL

    found: dict[str, dict[str, Any]] = {}
    for name in choice.missing:
        if name in OPTIONAL and name not in needed and name not in SOME_NEED:
            continue
        entry, purpose = DOWNLOADS[name]
        file = found.setdefault(entry.path or entry.repo, {
            "name": (entry.path or entry.repo).rpartition("/")[2], "folder": f"models/{entry.folder}",
            "size": int((entry.size or 0) * 1e9), "parts": [], "purposes": [], "needed": False, "broken": "",
            "address": f"https://huggingface.co/{entry.repo}" + f"/blob/main/{entry.path}" * bool(entry.path)})
        file["parts"].append(PARTS.get(name, name))
        if purpose not in file["purposes"]:
            file["purposes"].append(purpose)
        file["needed"] = file["needed"] or name not in OPTIONAL or name in needed
        file["broken"] = file["broken"] or choice.unfinished.get(name, "")
    return list(found.values())
