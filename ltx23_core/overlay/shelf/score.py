"""How good a file is for a role, and what it would take on the device, stage by stage.

The first field in which two scores differ is the reason for the choice. What fits is asked of the function that also
places weights when they run (`memory.room.place`).
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import partial
from operator import attrgetter

from ...config import ROW_PIECES
from ...errors import OutOfMemoryError
from ...memory.advice import smaller_weights
from ...memory.room import Memory, Need, gb, place
from ..weight_dtype import ADVISED
from .facts import apart, with_dtype
from .identity import Identity

# Number formats, the most exact first: by the relative error of normal weights with few outliers. Measured by
# tests/unit/shelf/test_exact.py: Q8_0 0.54 %, int8 0.88, fp8 scaled and MXFP8 2.65 (equal within 1 %), fp8 e4m3 3.3,
# Q5_1 3.8, Q5_0 4.3, fp8 e5m2 5.3, Q4_1 7.9, Q4_0 8.6, NVFP4 9.5, int4 ConvRot 14; bf16, fp16 and fp32 hold the
# official numbers as they are. The others, which nothing here can write, stand where bits and block sizes put them.
EXACT = ("bf16", "fp16", "fp32", "GGUF BF16", "GGUF F16", "GGUF Q8_0", "int8", "GGUF Q6_K", "fp8 scaled", "MXFP8",
         "fp8 e4m3", "GGUF Q5_K", "GGUF Q5_1", "GGUF Q5_0", "fp8 e5m2", "GGUF Q4_K", "GGUF IQ4_XS", "GGUF IQ4_NL",
         "GGUF Q4_1", "w4a8 ConvRot", "GGUF Q4_0", "NVFP4", "int4 AWQ", "int4 ConvRot", "GGUF Q3_K", "GGUF Q2_K")


@dataclass(frozen=True, order=True)
class Score:
    """Of one file for one role; smaller is better, and the order of the fields is the rule.

    Attributes:
        lacks: components that neither this file nor another one that fits it brings.
        generation: 0: header or name say 2.3, 1: neither says anything, 2: an older family.
        over_room: 0: fits into the device; else the bytes that it would take there.
        other_variant: of what belongs to one variant: 0: the transformer's, 1: its name says none, 2: the other.
        changed: 1: its name says that somebody changed the official weights; another model is no more exact one.
        loss: place of its number format in `EXACT`.
        weaker: minus the modules of a LoRA times their mean rank.
        recipe: 0: dev, 1: distilled, 2: unknown.
        apart: -1: a file that is taken anyway, 0: one for this alone, 1: part of a checkpoint; of a checkpoint: minus
            the components it brings.
        older: minus its version.
        copy: 1: its name is one that systems give to a second copy.
    """

    lacks: int = 0
    generation: int = 0
    over_room: int = 0
    other_variant: int = 0
    changed: int = 0
    loss: int = 0
    weaker: int = 0
    recipe: int = 0
    apart: int = 0
    older: int = 0
    copy: int = 0


def loss_of(format: str) -> int:
    """Place of a number format, the last one for those that are unknown."""
    return [*EXACT, format].index(format)


def first_difference(best: Score, second: Score) -> str:
    """Name of the first field in which two scores differ, "" where none does."""
    for each in fields(Score):
        if getattr(best, each.name) != getattr(second, each.name):
            return each.name
    return ""


# Field -> what to say where it is the first in which the best score differs from the second. {other}: the second file;
# {own_format}, {other_format}: number formats; {size}: what the other one takes; {budget}: for what there is room.
SAY: dict[str, str] = {
    "lacks": "{other} leaves more missing",
    "generation": "nothing says that {other} is of LTX-2.3",
    "over_room": "{other} takes {size} on the device, which has room for {budget}",
    "other_variant": "{other} is not said to be of the transformer's variant",
    "loss": "{own_format} is more exact than {other_format} of {other}",
    "weaker": "{other} changes less: fewer modules or lower ranks",
    "recipe": "dev before distilled before unknown, as in the official default recipe; next: {other}",
    "apart": "it goes before {other} by what else they hold",
    "changed": "{other} says that it is changed",
    "older": "{other} is older",
    "copy": "{other} is a copy by its name",
    "": "equal to {other} but for the name",
}

# What is on the device together, and the activations beside it, in bytes: what the stages set aside for the 22B at
# 768x512x121, with four passes (a test compares them).
STAGES: dict[tuple[str, ...], int] = {
    ("transformer",): 963_000_000,
    ("text_encoder",): 560_000_000,
    ("text_projection",): 869_000_000,
    ("connectors",): 159_000_000,
    ("video_encoder",): 78_000_000,
    ("video_decoder",): 622_000_000,
    ("audio_decoder", "vocoder"): 199_000_000,
    ("audio_encoder",): 101_000_000,
}


@dataclass(frozen=True)
class Fit:
    """How a stage lies on the device.

    Attributes:
        stage: its components.
        total: bytes that it takes when all of it is resident, activations included.
        text: "resident", "streamed 31 of 48 blocks", or "does not fit".
    """

    stage: tuple[str, ...]
    total: int
    text: str

    @property
    def is_resident(self) -> bool:
        """Whether nothing has to be streamed."""
        return self.text == "resident"

    def line(self, budget: int) -> str:
        """For the report."""
        total, room = gb(self.total), gb(budget)
        return f"{', '.join(self.stage)}: {total} with activations, the device has room for {room}: {self.text}"


def need(identity: Identity, component: str, extra: int = 0) -> Need:
    """What one component of a file takes.

    Args:
        identity: of the file.
        component: that it brings.
        extra: bytes beside it, such as those of a LoRA that acts at use.
    """
    weights, *blocks = identity.weights.get(component) or [identity.size_bytes]
    slot = max(blocks, default=0)
    if component == "text_projection":
        slot = -(-slot // ROW_PIECES)
    [table] = identity.weights.get(apart(component), [0])
    return Need(component, weights=weights + extra, blocks=tuple(blocks), slot=slot,
                work=identity.work.get(component, 0), streamed_work=identity.work.get(component, 0), apart=table)


def fit(identity: Identity, stage: tuple[str, ...], budget: int, extra: int = 0) -> Fit:
    """Whether the components of a stage that a file brings fit into the device."""
    activations = STAGES[stage]
    needs, total = [], activations
    for name in stage:
        if name in identity.brings:
            each = need(identity, name, extra)
            needs.append(each)
            total += each.weights + each.work
    try:
        placed = place(needs, budget or float("inf"), activations, Memory())
    except OutOfMemoryError:
        return Fit(stage, total, "does not fit")
    for each in placed:
        if each.streamed:
            return Fit(stage, total, each.text)
    return Fit(stage, total, "resident")


def smaller(identity: Identity, budget: int) -> str:
    """What would keep more of a file's transformer on the device; "" where nothing would (`memory.advice`)."""
    return smaller_weights(need(identity, "transformer"), partial(_others, identity), budget - STAGES["transformer",])


def _others(identity: Identity) -> dict[str, Need]:
    """What its transformer would take with each weight_dtype: {} where it is quantised in its file."""
    slot, others = max(identity.weights["transformer"][1:], default=0), {}
    for form in ADVISED:
        if with_dtype(form) in identity.weights:
            made = need(identity, with_dtype(form))
            # A block comes as its file has it, and is quantised in the place where it arrives.
            others[form] = replace(made, slot=slot, streamed_work=made.work + made.slot)
    return others


def stages_of(identity: Identity, components: Iterable[str]) -> list[tuple[str, ...]]:
    """The stages that a file takes part in with some of its components."""
    wanted = set(components) & set(identity.brings)
    return [stage for stage in STAGES if wanted & set(stage)]


def over_room(identity: Identity, components: Iterable[str], budget: int, extra: int = 0) -> int:
    """0 where everything fits resident, or where memory does not count; else the bytes of the largest stage."""
    if not budget:
        return 0
    fits = [fit(identity, stage, budget, extra) for stage in stages_of(identity, components)]
    if all(map(attrgetter("is_resident"), fits)):
        return 0
    return max(map(attrgetter("total"), fits))
