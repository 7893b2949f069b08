"""`/ltx23/cockpit`: which file brings which part, what is missing with its size, and what this card can do with it.

The Overlay node shows it before a run. Headers are read; nothing is loaded and nothing stays written.
"""
from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ltx23_core.errors import LTX23Error, OverlayError, RequestError
from ...ltx23_core.plan.recipes import RECIPES
from ..host import memory, server
from ..host.values import text_problem
from .files import CHECK_SECONDS, FILES, NotThere, lost_of, names_of, unread
from .inputs import AUTO, INPUTS, NONE, OVERLAY
from .overlay import VARIANTS
from .parts import files_of, missing_of

if TYPE_CHECKING:
    from ...ltx23_core.overlay.manifest import Overlay
    from ...ltx23_core.overlay.shelf.choose import Choice
    from ...ltx23_core.overlay.shelf.shelf import Item

USUAL = (768, 512, 121)  # width, height, frames: what `overlay.shelf.score` reckons with, too
SAME_ROOM = 100_000_000  # bytes: changes of less make no other plan
LONGEST = 1_000  # characters of a value


class Cockpit:
    """Answers one after the other; the model of the last files is kept, since describing it takes most of the time."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._lock = threading.Lock()
        self._key: tuple[str, ...] = ()
        self._made: tuple[Overlay, Choice] | None = None
        self._planned: tuple[tuple[object, ...], dict[str, Any]] = ((), {})

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """For the page: files, missing, card, plans, problem and of what kind it is ("wrong": absent, unfit, off,
        together, plan or ""). It asks {"files": {input: name}, "variant", ...}.

        Raises:
            RequestError: a value that no page of ours sends.
        """
        wanted, variant, needed = _wanted(asked), _variant(asked), _needed(asked)
        with self._lock:
            items = FILES.items(CHECK_SECONDS)
            lost = lost_of(wanted, items)
            choice = _chosen_without(lost, wanted, items)
            if lost:
                judged = {"problem": "\n".join(map(str, lost.values())), "wrong": _wrong(lost)}
            else:
                wish = str(asked.get("memory") or AUTO)
                judged, choice = self._judged(wanted, variant, items, choice, wish)
                judged = _switched_off(wanted, items, choice, needed) | judged
        return {
            "problem": "", "wrong": "", "plans": [], **judged,
            "unread": unread(items),
            "card": {**memory.card(), "size": USUAL},
            "files": files_of(choice),
            "missing": missing_of(choice, needed),
            "reasons": [*choice.reasons, *choice.notes],
        }

    def _judged(self, wanted: Mapping[str, str], variant: str, items: Sequence[Item], choice: Choice,
                wish: str) -> tuple[dict[str, Any], Choice]:
        """Plans for files that are all there, or why there are none; and the choice, without what auto left out."""
        try:
            FILES.choose(wanted, items=items)
            overlay, choice = self._assembled(wanted, variant, items, choice)
        except LTX23Error as error:
            return {"problem": str(error), "wrong": "together"}, choice
        return self._plans(overlay, wish), choice

    def _assembled(self, wanted: Mapping[str, str], variant: str, items: Sequence[Item],
                   choice: Choice) -> tuple[Overlay, Choice]:
        """The model of the files, from a manifest that is taken away again."""
        from ...ltx23_core.overlay.shelf.assemble import assemble

        key = (variant, *map(str, sorted(wanted.items())), *choice.fingerprint())
        if self._made is None or key != self._key:
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder) / "cockpit.json"
                self._made = assemble(items, FILES.wanted(wanted, items), memory.device_memory(),
                                      output=lambda _: target, variant=variant)
            self._key = key
        return self._made

    def _plans(self, overlay: Overlay, wish: str) -> dict[str, Any]:
        """Plans for the room that is there now; made anew where that has changed: they take 2 s for a 22B model."""
        try:
            room = memory.Residency(wish).capacity_bytes
        except LTX23Error as error:
            return _no_plan(error)
        key = overlay.id, wish, room // SAME_ROOM
        if key != self._planned[0]:
            self._planned = key, _planned(overlay, wish)
        return self._planned[1]


def _wanted(asked: Mapping[str, Any]) -> dict[str, str]:
    given = asked.get("files") or {}
    wanted = {}
    for each in OVERLAY:
        name = given.get(each.key, AUTO) if isinstance(given, Mapping) else None
        if not isinstance(name, str) or text_problem(each.key, name, LONGEST) is not None:
            raise RequestError("the request names no files", "a name of its list for each input", "Use the page.")
        wanted[each.key] = name
    return wanted


def _needed(asked: Mapping[str, Any]) -> set[str]:
    """Components that the recipes of the graph need beside the rest."""
    needed = set()
    named = asked.get("recipes")
    if not isinstance(named, list):
        return needed
    for name in map(str, named):
        recipe = RECIPES.get(name)
        if recipe is not None and recipe.upscales:
            needed.add("upsampler_x2")
        if recipe is not None and recipe.distils:
            needed.add("distilled_lora")
    return needed


def _variant(asked: Mapping[str, Any]) -> str:
    variant = asked.get("variant")
    if variant in VARIANTS:
        return variant
    return AUTO


def _wrong(lost: Mapping[str, OverlayError]) -> str:
    """What the heading of the page says of files that cannot be had."""
    if any(isinstance(error, NotThere) for error in lost.values()):
        return "absent"
    return "unfit"


def _chosen_without(lost: Mapping[str, OverlayError], wanted: Mapping[str, str], items: Sequence[Item]) -> Choice:
    """The files of the inputs whose wish can be had. Nothing takes the place of the others, not even as missing."""
    from ...ltx23_core.overlay.shelf.choose import choose

    had = dict(wanted)
    for key in lost:
        del had[key]
    kept = FILES.wanted(had, items) | dict.fromkeys(lost, NONE)
    if "checkpoint" in lost:  # without one auto has nothing to complete
        for key in ("connectors", "text_projection", "video_vae", "audio_vae"):
            if kept.get(key, AUTO) == AUTO:
                kept[key] = NONE
    choice = choose(items, kept, memory.device_memory())
    for key in lost:
        _hide(choice, key)
    return choice


def _hide(choice: Choice, key: str) -> None:
    """Not to be fetched: what the file of an input would bring."""
    from ...ltx23_core.overlay.shelf.choose import ROLES

    parts, brings = ROLES.get(key, ()), INPUTS[key].brings
    choice.missing = [each for each in choice.missing if each not in parts and not each.startswith(brings)]


def _switched_off(wanted: Mapping[str, str], items: Sequence[Item], choice: Choice,
                  needed: set[str]) -> dict[str, Any]:
    """What the graph needs and is there, but has none chosen: nothing of it is to be fetched."""
    problems = []
    lacking = _lacking(choice, needed)
    for key, name in wanted.items():
        there = names_of(INPUTS[key], items)
        if name != NONE or not there:
            continue
        _hide(choice, key)
        if _lacking(choice, needed) != lacking:
            problems.append(f"{key} is none, and this graph needs it. Next: Choose auto, or {there[0]}.")
            lacking = _lacking(choice, needed)
    if not problems:
        return {}
    return {"problem": "\n".join(problems), "wrong": "off"}


def _lacking(choice: Choice, needed: set[str]) -> list[str]:
    """Names of files that the graph needs and no file brings."""
    return [file["name"] for file in missing_of(choice, needed) if file["needed"]]


def _planned(overlay: Overlay, wish: str) -> dict[str, Any]:
    """A plan for each `weight_dtype` that changes something: the line that a run of the usual size would say, and how
    many blocks of the transformer stay; or why there is none."""
    from ...ltx23_core.overlay.weight_dtype import AS_STORED, WEIGHT_DTYPES, quantised_forms

    dtypes = WEIGHT_DTYPES
    if quantised_forms(overlay.require("transformer").tensors):
        dtypes = (AS_STORED,)
    try:
        return {"plans": [_plan(overlay, wish, each) for each in dtypes]}
    except LTX23Error as error:
        return _no_plan(error)


def _no_plan(error: LTX23Error) -> dict[str, Any]:
    return {"problem": str(error), "wrong": "plan"}


def _plan(overlay: Overlay, wish: str, weight_dtype: str) -> dict[str, Any]:
    from ...ltx23_core.pipeline import Pipeline
    from ...ltx23_core.plan.settings import Settings

    recipe = "one_stage"  # which needs no other file
    if overlay.variant == "distilled":
        recipe = "distilled_one_stage"
    width, height, frames = USUAL
    pipeline = Pipeline(overlay, residency=memory.Residency(wish), weight_dtype=weight_dtype)
    decision = pipeline.plan(Settings(width=width, height=height, frames=frames, recipe=recipe)).decision
    share = pipeline.resident_blocks(decision)
    need = pipeline.component("transformer").need()
    return {"weight_dtype": weight_dtype, "weights": need.weights, "fits": share is not None,
            "share": share or (0, len(need.blocks)), "line": pipeline.memory_line(decision)}


COCKPIT = Cockpit()


def serve() -> None:
    """Add the address to ComfyUI's server."""
    server.add_command("/ltx23/cockpit", COCKPIT.answer)
