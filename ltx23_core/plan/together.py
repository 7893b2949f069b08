"""Conditions of one run together: their order, and what cannot go together."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..errors import RequestError
from ..media.audio import Audio
from .condition import ADDS, FREEZES, Clip, Planned

_MADE = {"video": "picture", "audio": "sound"}


def check_conditions(conditions: Sequence[Planned], clip: Clip) -> tuple[Planned, ...]:
    """The conditions in the order in which they are applied, each checked, and all of them together.

    Raises:
        RequestError: one that the clip cannot have, or two that exclude each other.
    """
    for condition in conditions:
        for stream in getattr(condition, "roles", {}):
            if not getattr(clip, stream):
                raise RequestError(f"{condition.name} needs the {_MADE[stream]} in a run that makes none",
                                   "a run of both "
                                   "streams", f"Set streams to both, or take {condition.name} away.")
        condition.check(clip)
    _check_streams(conditions)
    _check_extensions(conditions, clip)
    return tuple(sorted(conditions, key=lambda condition: condition.order))


def source_waveform(conditions: Sequence[Planned], clip: Clip) -> Audio | None:
    """The sound that a condition wants in the file instead of the decoded one, as long as the clip; or None."""
    for condition in conditions:
        if hasattr(condition, "waveform"):
            waveform = condition.waveform(clip)
            if waveform is not None:
                return waveform
    return None


def _check_streams(conditions: Sequence[Planned]) -> None:
    """A stream comes from one source, and a frozen one takes nothing else."""
    for stream, made in _MADE.items():
        acting = [condition for condition in conditions if stream in getattr(condition, "roles", {})]
        strong = [condition for condition in acting if condition.roles[stream] != ADDS]
        if len(strong) > 1:
            raise RequestError(f"{strong[0].name} and {strong[1].name} both decide the {made}",
                               f"one source for the {made}", "Take one of them away.")
        if len(acting) > 1 and strong and strong[0].roles[stream] == FREEZES:
            frozen = strong[0]
            other = acting[1] if acting[0] is frozen else acting[0]
            raise RequestError(f"{frozen.name} keeps the {made} as it is and {other.name} changes it",
                               f"no other condition on the {made}", f"Take {other.name} away.")


def _check_extensions(conditions: Sequence[Planned], clip: Clip) -> None:
    """Clips that are extended stand at different ends and leave something between them."""
    extends = [condition for condition in conditions if hasattr(condition, "frames_in")]
    for stream in ("video", "audio"):
        sides = Counter[str]()
        for extend in extends:
            if stream in extend.roles:
                sides[extend.direction] += 1
        [(side, count)] = sides.most_common(1) or [("", 0)]
        if count > 1:
            raise RequestError(f"two clips are extended {side}, so both would stand in the same place",
                               "one forward, and one backward for a clip that joins the two",
                               "Set the direction of one of them to the other, or take it away.")
    held = 0
    for extend in extends:
        if "video" in extend.roles:
            held += extend.frames_in(clip.fps)
    if held >= clip.frames:
        raise RequestError(f"the clips that are extended have {held} frames and the result has {clip.frames}",
                           "a result that is longer than all clips together",
                           f"Set frames to at least {held + 8 - (held - 1) % 8}.")
