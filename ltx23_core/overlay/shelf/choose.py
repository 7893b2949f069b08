"""`auto`: which of the files that lie in the model folders make the best complete set, and why."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .downloads import UPSAMPLERS, missing
from .identify_folder import fingerprint
from .shelf import Item

AUTO, NONE = "auto", "none"
# Input -> the components it stands for, in the order of the report.
ROLES: dict[str, tuple[str, ...]] = {
    "checkpoint": ("transformer",), "connectors": ("connectors",), "text_projection": ("text_projection",),
    "text_encoder": ("text_encoder",), "video_vae": ("video_decoder", "video_encoder"),
    "audio_vae": ("audio_decoder", "audio_encoder", "vocoder"), "distilled_lora": ("distilled_lora",),
}
_OTHER_ARGUMENTS = ("text_encoder", "distilled_lora")  # of materialize, beside its components
# Number formats, the most exact first.
EXACT = ("bf16", "fp16", "fp32", "GGUF BF16", "GGUF F16", "fp8 scaled", "GGUF Q8_0", "MXFP8", "int8", "fp8 e4m3",
         "GGUF Q6_K", "NVFP4", "GGUF Q5_K", "GGUF Q4_K", "fp8 e5m2", "int4 ConvRot", "GGUF Q3_K", "GGUF Q2_K")


@dataclass
class Choice:
    """A set of files.

    Args:
        files: role of `ROLES`, or component of `UPSAMPLERS` -> the file.
        given: the roles whose file was wanted, not chosen here.
        reasons: sentences that say why auto took them.
        missing: components that no file brings.
    """

    files: dict[str, Item] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    reasons: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def brings(self) -> set[str]:
        """All components of the chosen files."""
        return {name for item in self.files.values() for name in item.identity.brings}

    @property
    def variant(self) -> str:
        """Variant of the checkpoint for `materialize`."""
        return ("checkpoint" in self.files and self.files["checkpoint"].identity.variant) or AUTO

    def fingerprint(self) -> list[str]:
        """Stands for the content of all files: differs when one of them was replaced."""
        lines = []
        for role, item in sorted(self.files.items()):
            info = item.identity.path.stat()
            state = fingerprint(item.identity.path) if item.identity.path.is_dir() else f"{info.st_size}"
            lines.append(f"{role}:{item.identity.path}:{info.st_mtime_ns}:{state}")
        return lines

    def arguments(self) -> dict[str, Any]:
        """Arguments of `materialize`. Later components replace earlier ones there: files that auto added only for what
        the checkpoint lacks come before it, files that were asked for behind it.
        """
        path = {role: item.identity.path for role, item in self.files.items()}
        parts = [role for role in path if role not in ("checkpoint", *_OTHER_ARGUMENTS, *UPSAMPLERS)]
        added = sorted((role for role in parts if role not in self.given),
                       key=lambda role: -len(self.files[role].identity.brings))
        ordered = [*added, "checkpoint", *(role for role in parts if role in self.given)]
        first, *rest = dict.fromkeys(path[role] for role in ordered)
        return {"checkpoint": first, "components": rest, "text_encoder": path.get("text_encoder"),
                "upsamplers": [path[name] for name in UPSAMPLERS if name in path],
                "distilled_lora": path.get("distilled_lora"), "variant": self.variant}


def choose(items: Sequence[Item], wanted: Mapping[str, Item | str], budget: int = 0) -> Choice:
    """Complete a set of files.

    Args:
        items: everything that is there.
        wanted: role, or "upsampler" -> a certain file, "auto" (what a missing key means too) or "none".
        budget: bytes of the device's memory; 0 where that does not count.
    """
    usable = [item for item in items if item.identity.usable]
    choice = Choice()
    for role in ROLES:
        _fill(choice, role, wanted.get(role, AUTO), usable, budget)
    _add_upsamplers(choice, wanted.get("upsampler", AUTO), usable)
    choice.missing = missing(choice.brings, choice.variant)
    return choice


def _fill(choice: Choice, role: str, wanted: Item | str, usable: list[Item], budget: int) -> None:
    """Put a file into a role: the one that is wanted, or the best if the chosen files lack its components."""
    if isinstance(wanted, Item):
        choice.files[role] = wanted
        choice.given.add(role)
        return
    if wanted == NONE or (role == "distilled_lora" and choice.variant == "distilled"):
        return
    for name in ROLES[role]:  # one file may bring all of them
        parts = [each for each in ROLES[role] if each not in choice.brings]
        able = [item for item in usable if name in parts and name in item.identity.brings and fits(choice, item)]
        if not able:
            continue
        rank = _rank_checkpoint(usable, budget) if role == "checkpoint" else _rank_part(choice, parts)
        best = min(able, key=rank)
        choice.files[name if role in choice.files else role] = best
        if role == "checkpoint" or len(able) > 1:
            choice.reasons.append(_reason(role, best, able, usable, budget))


def fits(choice: Choice, item: Item) -> bool:
    """Whether a file's sizes agree with those of the files chosen so far."""
    other = {key: value for each in choice.files.values() for key, value in (each.identity.fits or {}).items()}
    mine = item.identity.fits or {}
    return all(other.get(key, value) == value for key, value in mine.items())


def _exactness(item: Item) -> int:
    return EXACT.index(item.identity.dtypes) if item.identity.dtypes in EXACT else len(EXACT)


def _is_complete(item: Item, usable: Iterable[Item]) -> bool:
    """Whether the components that a video with sound needs are there, in this file or in ones that fit it."""
    own = Choice({"checkpoint": item})
    there = own.brings.union(*(each.identity.brings for each in usable if fits(own, each)))
    return {"transformer", "connectors", "text_projection", "text_encoder", "video_decoder", "audio_decoder",
            "vocoder"} <= there


def _is_small_enough(item: Item, budget: int) -> bool:
    return not budget or item.identity.size_bytes <= budget


def _rank_checkpoint(usable: list[Item], budget: int) -> Callable[[Item], tuple[object, ...]]:
    def rank(item: Item) -> tuple[object, ...]:
        who = item.identity
        return (not _is_complete(item, usable), not _is_small_enough(item, budget), _exactness(item),
                {"dev": 0, "distilled": 1}.get(who.variant or "", 2), -len(who.brings), "1.1" not in who.sentence,
                item.name)

    return rank


def _rank_part(choice: Choice, parts: Sequence[str]) -> Callable[[Item], tuple[object, ...]]:
    """Whole before part, exact before quantised, of the same variant, with tokenizer, newest name last in order."""
    variant = choice.variant

    def rank(item: Item) -> tuple[object, ...]:
        who = item.identity
        return (sum(name not in who.brings for name in parts), _exactness(item), who.variant not in (None, variant),
                who.kind in ("checkpoint", "diffusers"), "1.1" not in item.name, item.name)

    return rank


def _reason(role: str, best: Item, able: list[Item], usable: list[Item], budget: int) -> str:
    """Why a file was taken, in one sentence."""
    if role != "checkpoint":
        return f"{role}: {best.name} ({best.identity.dtypes}), the most exact of {len(able)}"
    why = ["with the files here it makes a complete set" if _is_complete(best, usable) else
           "the set is not complete, see below"]
    if len(able) > 1:
        if budget:
            why.append(f"fits into the device's {budget / 1e9:.0f} GB" if _is_small_enough(best, budget) else
                       f"none of them fits into the device's {budget / 1e9:.0f} GB")
        why.append(f"{best.identity.dtypes} is the most exact among those")
        if best.identity.variant == "dev" and any(item.identity.variant == "distilled" for item in able):
            why.append("dev before distilled, as in the official default recipe")
    return f"checkpoint: {best.name}, of {len(able)}: {', '.join(why)}"


def _add_upsamplers(choice: Choice, wanted: Item | str, usable: list[Item]) -> None:
    """The wanted upscaler, or for auto the newest of each kind that fits."""
    if isinstance(wanted, Item):
        choice.files[wanted.identity.brings[0]] = wanted
        return
    have = choice.brings
    for name in UPSAMPLERS if wanted == AUTO else ():
        able = [item for item in usable if name in item.identity.brings and fits(choice, item)]
        if able and name not in have:
            choice.files[name] = min(able, key=lambda item: (_exactness(item), "1.1" not in item.name, item.name))
