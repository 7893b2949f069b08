"""Reads a LoRA file of any dialect into updates of the model's own parameters (spec/09 §5). Reads its header only.

What a key means is decided by tables (`lora_names`, `lora_update`). What cannot be used is refused by name, or stands
in `LoraFile.unused` with the reason: nothing is skipped in silence.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...config import REFERENCE_SPATIAL, REFERENCE_TEMPORAL, reference_factor
from ...errors import OverlayError, examples
from ..bytes.header import Header
from ..bytes.source import AnyRef, SourceFile
from ..bytes.weights import read_weights
from ..names.architecture import Shapes
from .alpha import Scales, read_scales
from .names import COMFY, OFFICIAL, Names, Place, foreign, refused_method, split_key
from .update import Update, module_updates

COMPONENTS = ("transformer", "connectors", "text_projection")  # what LoRAs of LTX-2.3 act on
_OFFICIAL_ENDINGS = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file, sorted.

    Args:
        source: the file.
        dialect: how it names things, for reports.
        updates: component -> parameter -> update, for each component that was asked for.
        unused: key of the file -> why it changes nothing.
        metadata: the text entries of its header.
    """

    source: SourceFile
    dialect: str
    updates: dict[str, dict[str, Update]]
    unused: dict[str, str]
    metadata: dict[str, str]

    @property
    def reference_downscale_factor(self) -> int:
        """By what an IC-LoRA's reference video is smaller than the video (spec/09 §5); 1 for other LoRAs."""
        return _factor(self.metadata, REFERENCE_SPATIAL)

    @property
    def reference_temporal_scale_factor(self) -> int:
        """The same in time."""
        return _factor(self.metadata, REFERENCE_TEMPORAL)

    def report(self) -> str:
        """A few lines for people: what it changes, and each reason why keys change nothing."""
        counts = []
        for component, updates in self.updates.items():
            if updates:
                counts.append(f"{len(updates)} of {component}")
        what = ", ".join(counts) or "nothing"
        lines = [f"{self.source.path.name}: {self.dialect} LoRA, changes {what}"]
        for reason, keys in _by_reason(self.unused).items():
            lines.append(f"  {len(keys)} keys unused, {reason}: {examples(keys)}")
        return "\n".join(lines)


def read_lora(path: Path, expected: Mapping[str, Shapes], *, official: bool = False) -> LoraFile:
    """Read the header of a LoRA file and say what each tensor does.

    Alpha counts where the file has it, as tensors, in its metadata or in PEFT's adapter_config.json: the scale is
    alpha / rank, or alpha / √rank for rsLoRA. Files of the official trainer have none: scale 1. LoRAs of connectors
    and text projection act on these.

    The official code is narrower: it takes ``.lora_A.weight`` and ``.lora_B.weight`` of the transformer alone, with
    or without ``diffusion_model.`` before the official name, and ignores alpha, biases, connectors and every other
    key without a word. ``official=True`` does exactly that, for comparisons; `LoraFile.unused` says what it ignored.

    Args:
        path: a safetensors or GGUF file.
        expected: component -> parameter -> shape (`architecture.expected_tensors`), of those of `COMPONENTS` that
            shall be changed.
        official: read as the official code does.

    Raises:
        OverlayError: unreadable, made with a method that is not supported, or nothing of it fits LTX-2.3.
    """
    header = read_weights(path)
    if not official and (method := refused_method(header.tensors)) is not None:
        raise OverlayError(f"{path} is a LoRA made with {method}",
                           "LoRA, DoRA, LoKr, LoHa or full differences",
                           "Use another version of this LoRA; this method is not supported.")
    names, unused, dialects = Names(expected), {}, Counter[str]()
    modules: dict[Place, dict[str, tuple[str, str]]] = {}  # -> role -> path, key
    for key in header.tensors:
        found = _find(names, key, official)
        if isinstance(found, str):
            unused[key] = found
            continue
        place, role, path_in_file, dialect = found
        if modules.setdefault(place, {}).setdefault(role, (path_in_file, key)) != (path_in_file, key):
            unused[key] = "a second tensor for the same"
        if dialect == OFFICIAL and not key.endswith(_OFFICIAL_ENDINGS):
            dialect = COMFY
        dialects[dialect] += 1
    updates: dict[str, dict[str, Update]] = {name: {} for name in expected}
    scales = Scales()
    if not official:
        scales = read_scales(header)
    for place, roles in modules.items():
        made, left = _module(place, roles, expected[place.component], header.tensors, scales)
        updates[place.component] |= made
        for role, reason in left.items():
            unused[roles[role][1]] = reason
    if not official and not any(updates.values()):
        raise _nothing_fits(header, unused)
    return LoraFile(header.source, _main_dialect(dialects), updates, unused, metadata=dict(header.metadata))


def _main_dialect(dialects: Counter[str]) -> str:
    """ComfyUI's, wherever it occurs: it is the official one with other endings. Else the most common one."""
    if COMFY in dialects:
        return COMFY
    for name, _ in dialects.most_common(1):
        return name
    return OFFICIAL


def _find(names: Names, key: str, official: bool) -> tuple[Place, str, str, str] | str:
    """(module, role, path in the file, dialect) of a key, or why it has none."""
    parts = split_key(key)
    if official:
        place = None
        if parts and key.endswith(_OFFICIAL_ENDINGS):
            place = names.find_official(parts[0])
        if place is None:
            return "the official code ignores such keys"
        return place, parts[1], parts[0], OFFICIAL
    if parts is None:
        return _made_for(key) or "not an ending of a LoRA"
    found = names.find(parts[0])
    if found is None:
        return _made_for(key) or "no such module here"
    return found[0], parts[1], parts[0], found[1]


def _made_for(key: str) -> str:
    """That a key is another model's, where that can be told; else "". """
    what = foreign(key)
    if what is None:
        return ""
    return f"made for {what}"


def _module(place: Place, roles: Mapping[str, tuple[str, str]], shapes: Shapes, tensors: Mapping[str, AnyRef],
            scales: Scales) -> tuple[dict[str, Update], dict[str, str]]:
    parameter = f"{place.path}.weight"
    if parameter not in shapes:
        parameter = place.path  # a table is a parameter itself
    if parameter not in shapes:
        return {}, dict.fromkeys(roles, "the module has no weight")
    path = next(iter(roles.values()))[0]
    refs = {role: tensors[key] for role, (_, key) in roles.items()}
    return module_updates(refs, path, parameter, shapes=shapes, scales=scales)


def _nothing_fits(header: Header, unused: Mapping[str, str]) -> OverlayError:
    kinds = Counter(filter(None, map(foreign, header.tensors)))
    if kinds:
        found = f"is made for {kinds.most_common(1)[0][0]}"
    elif not any(map(split_key, header.tensors)):
        found = f"is no LoRA ({examples(list(header.tensors)) or 'no tensors'})"
    else:
        reason, keys = max(_by_reason(unused).items(), key=lambda item: len(item[1]))
        found = f"changes nothing of LTX-2.3, {reason}: {examples(keys)}"
    return OverlayError(f"{header.path} {found}", "a LoRA for LTX-2.3", "Use a LoRA made for LTX-2.3.")


def _by_reason(unused: Mapping[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for key, reason in unused.items():
        reasons.setdefault(reason, []).append(key)
    return reasons


def _factor(metadata: Mapping[str, str], keys: tuple[str, ...]) -> int:
    stated = reference_factor(metadata, keys)
    if stated is None or stated[1] is None:
        return 1
    return stated[1]
