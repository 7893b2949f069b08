"""From what lies in the folders to an overlay: auto chooses, and a file of auto's that does not fit is left out."""
from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from ...errors import OverlayError
from ..downloads import where_to_get
from ..manifest import NotWritable, Overlay
from ..materialize import materialize
from .choose import Choice, choose
from .shelf import Item

MOST = 12  # files that are left out before the error is given


def assemble(items: Sequence[Item], wanted: Mapping[str, Item | str], budget: int,
             output: Callable[[Choice], Path], variant: str = "auto") -> tuple[Overlay, Choice]:
    """Choose, and describe the chosen files as one model.

    A file that somebody asked for is an error where it does not fit. One that auto took is left out with a note, and
    auto chooses again among the others.

    Args:
        items, wanted, budget: as of `choose`.
        output: where the manifest of a choice is written.
        variant: "auto", or what the user says.

    Raises:
        OverlayError: the files that were asked for do not fit, or there is no transformer that does; `NotWritable`:
            the output is no place for a file.
    """
    left, notes = list(items), []
    while True:
        choice = choose(left, wanted, budget)
        if "checkpoint" not in choice.files:
            expected, fix = where_to_get("transformer")
            fix = choice.unfinished.get("transformer", fix)
            raise OverlayError("no file brings the transformer", expected, fix)
        try:
            overlay = materialize(**_arguments(choice, variant), output=output(choice))
        except NotWritable:  # no file's fault
            raise
        except OverlayError as error:
            role = _culprit(choice, variant) if len(notes) < MOST else None
            if role is None:
                raise
            notes.append(f"{role}: {choice.files[role].place} is left out: {error.found}")
            left.remove(choice.files[role])
            if not choose(left, wanted, budget).files.get("checkpoint"):
                raise
            continue
        choice.notes[:0] = notes
        return overlay, choice


def _arguments(choice: Choice, variant: str) -> dict[str, object]:
    return choice.arguments() | ({} if variant == "auto" else {"variant": variant})


def _culprit(choice: Choice, variant: str) -> str | None:
    """The role whose file, taken by auto, keeps the others from being described; None if it is one asked for."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "trial.json"
        asked = {role for role in choice.files if role in choice.given}
        if not _works(choice, {"checkpoint"}, variant, target):
            return None if "checkpoint" in choice.given else "checkpoint"
        if not _works(choice, {"checkpoint", *asked}, variant, target):
            return None
        kept = {"checkpoint", *asked}
        for role in choice.files:
            if role in kept:
                continue
            if not _works(choice, {*kept, role}, variant, target):
                return role
            kept.add(role)
    return None


def _works(choice: Choice, roles: Collection[str], variant: str, target: Path) -> bool:
    """Whether some of the chosen files can be described together."""
    part = Choice({role: item for role, item in choice.files.items() if role in roles}, choice.given & set(roles))
    try:
        materialize(**_arguments(part, variant), output=target)
    except OverlayError:
        return False
    return True
