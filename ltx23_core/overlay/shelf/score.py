"""How good a file is for a role. The first field in which two scores differ is the reason for the choice."""
from __future__ import annotations

from dataclasses import dataclass, fields

# Number formats, the most exact first.
EXACT = ("bf16", "fp16", "fp32", "GGUF BF16", "GGUF F16", "fp8 scaled", "GGUF Q8_0", "MXFP8", "int8", "fp8 e4m3",
         "GGUF Q6_K", "w4a8 ConvRot", "NVFP4", "GGUF Q5_K", "GGUF Q5_1", "GGUF Q5_0", "GGUF Q4_K", "GGUF IQ4_XS",
         "GGUF IQ4_NL", "GGUF Q4_1", "GGUF Q4_0", "fp8 e5m2", "int4 AWQ", "int4 ConvRot", "GGUF Q3_K", "GGUF Q2_K")


@dataclass(frozen=True, order=True)
class Score:
    """Of one file for one role; smaller is better, and the order of the fields is the rule.

    Attributes:
        lacks: components that neither this file nor another one that fits it brings.
        generation: 0: header or name say 2.3, 1: neither says anything, 2: an older family.
        over_room: 0: fits into the device; else the bytes that it would take there.
        other_variant: of what belongs to one variant: 0: the transformer's, 1: its name says none, 2: the other.
        loss: place of its number format in `EXACT`.
        weaker: minus the modules of a LoRA times their mean rank.
        recipe: 0: dev, 1: distilled, 2: unknown.
        apart: 0: a file for this alone, 1: part of a checkpoint; of a checkpoint: minus the components it brings.
        changed: 1: its name says that somebody changed the official weights.
        older: minus its version.
    """

    lacks: int = 0
    generation: int = 0
    over_room: int = 0
    other_variant: int = 0
    loss: int = 0
    weaker: int = 0
    recipe: int = 0
    apart: int = 0
    changed: int = 0
    older: int = 0


def loss_of(format: str) -> int:
    """Place of a number format, the last one for those that are unknown."""
    return EXACT.index(format) if format in EXACT else len(EXACT)


def first_difference(best: Score, second: Score) -> str:
    """Name of the first field in which two scores differ, "" where none does."""
    return next((each.name for each in fields(Score) if getattr(best, each.name) != getattr(second, each.name)), "")


# Field -> what to say where it is the first in which the best score differs from the second. {other}: the second file;
# {own_format}, {other_format}: number formats; {size}: what the other one takes; {budget}: what the device has.
SAY: dict[str, str] = {
    "lacks": "{other} leaves more missing",
    "generation": "nothing says that {other} is of LTX-2.3",
    "over_room": "{other} takes {size} on the device, which has {budget}",
    "other_variant": "{other} is not said to be of the transformer's variant",
    "loss": "{own_format} is more exact than {other_format} of {other}",
    "weaker": "{other} changes less: fewer modules or lower ranks",
    "recipe": "dev before distilled before unknown, as in the official default recipe; next: {other}",
    "apart": "it goes before {other} by what else they hold",
    "changed": "{other} says that it is changed",
    "older": "{other} is older",
    "": "equal to {other} but for the name",
}
