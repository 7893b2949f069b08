"""`auto`: which of the files that lie in the model folders make the best complete set, and why."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...memory.room import gb
from ..bytes.endings import stem_of
from ..downloads import UPSAMPLERS, missing
from ..names.variant import DEV, DISTILLED, generation_of, version_of
from .identify_folder import fingerprint
from .identity import Identity
from .score import SAY, Score, first_difference, fit, loss_of, over_room, smaller, stages_of
from .shelf import Item

AUTO, NONE = "auto", "none"
# Input -> the components it stands for, in the order of the report.
ROLES: dict[str, tuple[str, ...]] = {
    "checkpoint": ("transformer",), "connectors": ("connectors",), "text_projection": ("text_projection",),
    "text_encoder": ("text_encoder",), "video_vae": ("video_decoder", "video_encoder"),
    "audio_vae": ("audio_decoder", "audio_encoder", "vocoder"), "distilled_lora": ("distilled_lora",),
}
_OTHER_ARGUMENTS = ("text_encoder", "distilled_lora")  # of materialize, beside its components
_NEEDED = frozenset(("transformer", "connectors", "text_projection", "text_encoder", "video_decoder", "audio_decoder",
                     "vocoder"))  # by a video with sound
_ANEW = {"text_encoder"}  # chosen even if a file taken for something else brings it: that one may be too large
_OF_VARIANT = ("connectors",)  # that were trained with the transformer
_UNPROVEN = (*UPSAMPLERS, "distilled_lora", "audio_decoder", "audio_encoder")  # generations whose tensors look alike
_OURS = ("", "2.3")
_RECIPE = {DEV: 0, DISTILLED: 1}
_CHANGED = re.compile(r"ablit|heretic|uncensor|merge|finetune|fine-tune|nsfw|10eros|sulphur|dasiwa", re.I)
_OLDER_LORA = "2.0"
_COPY = re.compile(r"( ?\(\d{1,3}\)|[-_ ]+copy( ?\(?\d{1,3}\)?)?)$", re.I)  # as browsers, Windows and macOS name one


@dataclass
class Choice:
    """A set of files.

    Args:
        files: role of `ROLES`, or component of `UPSAMPLERS` -> the file.
        given: the roles whose file was wanted, not chosen here.
        reasons: sentences that say why auto took them.
        missing: components that no file brings.
        notes: what is to be known of the choice: stages that must be streamed, files that were dropped.
        broken: component that is missing -> a file that would bring it, if it were whole.
    """

    files: dict[str, Item] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    reasons: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    broken: dict[str, Item] = field(default_factory=dict)

    @property
    def brings(self) -> set[str]:
        """All components of the chosen files."""
        brings: set[str] = set()
        for item in self.files.values():
            brings.update(item.identity.brings)
        return brings

    @property
    def variant(self) -> str:
        """Variant of the checkpoint for `materialize`."""
        checkpoint = self.files.get("checkpoint")
        if checkpoint is None:
            return AUTO
        return checkpoint.identity.variant or AUTO

    @property
    def unfinished(self) -> dict[str, str]:
        """Missing component -> what to do with the broken file that would bring it."""
        told = {}
        for name, item in self.broken.items():
            told[name] = f"{item.place} is {item.identity.sentence}. {item.identity.fix}"
        return told

    def fingerprint(self) -> list[str]:
        """Stands for the content of all files: differs when one of them was replaced."""
        lines = []
        for role, item in sorted(self.files.items()):
            path = item.identity.path
            try:
                info = path.stat()
                state = f"{info.st_mtime_ns}:{info.st_size}"
                if path.is_dir():
                    state += fingerprint(path)
            except OSError:  # taken away since the look; whoever reads it will say so
                state = "gone"
            lines.append(f"{role}:{path}:{state}")
        return lines

    def arguments(self) -> dict[str, Any]:
        """Arguments of `materialize`."""
        path = {role: item.identity.path for role, item in self.files.items()}
        first, *rest = dict.fromkeys(path[role] for role in self.in_order())
        return {
            "checkpoint": first,
            "components": rest,
            "text_encoder": path.get("text_encoder"),
            "upsamplers": [path[name] for name in UPSAMPLERS if name in path],
            "distilled_lora": path.get("distilled_lora"),
            "variant": self.variant,
        }

    def in_order(self) -> list[str]:
        """Roles of checkpoint and components. Later ones replace earlier ones: files that auto added only for what the
        checkpoint lacks come before it, files that were asked for behind it.
        """
        added, given = [], []
        for role in self.files:
            if role in ("checkpoint", *_OTHER_ARGUMENTS, *UPSAMPLERS):
                continue
            if role in self.given:
                given.append(role)
            else:
                added.append(role)
        added.sort(key=lambda role: -len(self.files[role].identity.brings))
        return [*added, "checkpoint", *given]


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
    choice.notes += _streamed(choice, budget)
    choice.broken = _broken(choice.missing, items)
    would: dict[str, list[str]] = {}
    for name, item in choice.broken.items():
        told = f"{item.identity.sentence}. {item.identity.fix}"
        would.setdefault(f"{item.place} ({told})", []).append(name)
    for file, names in would.items():
        choice.notes.append(f"{', '.join(names)} would be in {file}")
    return choice


def _broken(lacking: Sequence[str], items: Sequence[Item]) -> dict[str, Item]:
    """Files that lack some of their bytes and would bring what is missing: cheaper to complete than to fetch anew."""
    found = {}
    for item in items:
        for name in item.identity.would:
            if name in lacking:
                found.setdefault(name, item)
    return found


def _fill(choice: Choice, role: str, wanted: Item | str, usable: list[Item], budget: int) -> None:
    """Put a file into a role: the one that is wanted, or the best if the chosen files lack its components."""
    if isinstance(wanted, Item):
        choice.files[role] = wanted
        choice.given.add(role)
        return
    if wanted == NONE or (role == "distilled_lora" and choice.variant == DISTILLED):
        return
    for name in ROLES[role]:  # one file may bring all of them
        there = choice.brings - _ANEW
        parts = [each for each in ROLES[role] if each not in there]
        if name not in parts:
            continue
        if role not in choice.files:
            _take_best(choice, role, parts, name, usable=usable, budget=budget)
        else:
            _take_best(choice, name, parts, name, usable=usable, budget=budget)


def _take_best(choice: Choice, role: str, parts: Sequence[str], name: str, *, usable: list[Item], budget: int) -> None:
    """The best file with a component, and the reason."""
    scored: list[tuple[Score, Item]] = []
    for item in usable:
        if name not in item.identity.brings or not fits(choice, item) or not is_ours(item, name):
            continue
        if name == "transformer":
            score = checkpoint_score(item, usable, budget)
        else:
            score = part_score(choice, item, parts, name, budget=budget)
        scored.append((score, item))
    if not scored:
        return
    scored.sort(key=lambda each: (each[0], each[1].name, each[1].folder))
    choice.files[role] = scored[0][1]
    if name == "transformer" or len(scored) > 1:
        choice.reasons.append(_reason(role, name, scored, budget))


def fits(choice: Choice, item: Item) -> bool:
    """Whether a file's sizes agree with those of the files chosen so far."""
    other: dict[str, int] = {}
    for each in choice.files.values():
        other |= each.identity.fits or {}
    mine = item.identity.fits or {}
    return all(other.get(key, value) == value for key, value in mine.items())


def is_ours(item: Item, component: str) -> bool:
    """Whether no name says another generation, where the tensors cannot tell it."""
    if component not in _UNPROVEN or "vocoder" in item.identity.brings:
        return True
    return generation_of(_own_name(item)) in _OURS


def _own_name(item: Item) -> str:
    return item.name.rpartition("/")[2]


def format_of(identity: Identity, component: str) -> str:
    """Number format of a component, or of the file where that is not known."""
    return identity.formats.get(component, identity.dtypes)


def checkpoint_score(item: Item, usable: Iterable[Item], budget: int) -> Score:
    """How good a file is as the one that brings the transformer."""
    who = item.identity
    own = Choice({"checkpoint": item})
    there = own.brings
    for each in usable:
        if fits(own, each):
            there.update(each.identity.brings)
    return Score(
        lacks=len(_NEEDED - there),
        over_room=over_room(who, set(who.brings) - {"text_encoder"}, budget),
        loss=loss_of(format_of(who, "transformer")),
        recipe=_RECIPE.get(who.variant or "", 2),
        apart=-len(who.brings),
        changed=_is_changed(item),
        older=_age(item),
        copy=int(_COPY.search(stem_of(_own_name(item))) is not None),
    )


def part_score(choice: Choice, item: Item, parts: Sequence[str], name: str, *, budget: int) -> Score:
    """How good a file is as the one that brings some other component."""
    who = item.identity
    return Score(
        lacks=len(set(parts).difference(who.brings)),
        generation=_generation(item, name),
        over_room=over_room(who, [name], budget) or _lora_over_room(choice, item, name, budget),
        other_variant=_other_variant(choice, who, name),
        loss=loss_of(format_of(who, name)),
        weaker=_weaker(who, name),
        apart=_apart(choice, item),
        changed=_is_changed(item),
        older=_age(item),
        copy=int(_COPY.search(stem_of(_own_name(item))) is not None),
    )


def _generation(item: Item, name: str) -> int:
    if name not in _UNPROVEN:
        return 0
    if item.identity.generation == _OLDER_LORA:
        return 2
    return int(not item.identity.generation)


def _other_variant(choice: Choice, who: Identity, name: str) -> int:
    if name not in _OF_VARIANT:
        return 0
    if who.variant is None:
        return 1
    mine = choice.variant
    if mine not in _RECIPE:
        mine = DEV  # what `materialize` takes where names say nothing
    if who.variant == mine:
        return 0
    return 2


def _weaker(who: Identity, name: str) -> int:
    if name != "distilled_lora":
        return 0
    return -who.modules * who.rank


def _apart(choice: Choice, item: Item) -> int:
    if item in choice.files.values():
        return -1
    return int(item.identity.kind in ("checkpoint", "diffusers"))


def _lora_over_room(choice: Choice, item: Item, name: str, budget: int) -> int:
    """A LoRA acts beside packed weights and takes its own room there; into others it is fused."""
    checkpoint = choice.files.get("checkpoint")
    if name != "distilled_lora" or checkpoint is None or not budget or not checkpoint.identity.work:
        return 0
    return over_room(checkpoint.identity, ["transformer"], budget, extra=item.identity.size_bytes)


def _is_changed(item: Item) -> int:
    return int(_CHANGED.search(_own_name(item)) is not None)


def _age(item: Item) -> int:
    major, minor = version_of(_own_name(item))
    return -(100 * major + minor)


def _reason(role: str, name: str, scored: Sequence[tuple[Score, Item]], budget: int) -> str:
    """Why the first file was taken, in one sentence: the first field in which its score differs from the second's."""
    score, best = scored[0]
    is_alone = len(scored) == 1
    why = []
    if name == "transformer" and score.lacks:
        why.append("the set is not complete, see below")
    elif name == "transformer":
        why.append("with the files here it makes a complete set")
    if not is_alone:
        second, other = scored[1]
        sentence = SAY[first_difference(score, second)]
        why.append(sentence.format(
            other=other.name,
            own_format=format_of(best.identity, name),
            other_format=format_of(other.identity, name),
            size=gb(second.over_room),
            budget=gb(budget),
        ))
    if score.over_room and is_alone:
        why.append("it does not fit into the device as a whole")
    elif score.over_room:
        why.append("none of them fits into the device, this one takes least")
    return f"{role}: {best.name}, of {len(scored)}: {', '.join(why)}"


def _streamed(choice: Choice, budget: int) -> list[str]:
    """The stages that do not fit into the device as a whole, and how they will run."""
    if not budget:
        return []
    lines = []
    for role in ("checkpoint", "text_encoder"):
        item = choice.files.get(role)
        if item is None:
            continue
        for stage in stages_of(item.identity, ROLES[role]):
            placed = fit(item.identity, stage, budget)
            if placed.is_resident:
                continue
            line = placed.line(budget)
            advice = ""
            if "transformer" in stage:
                advice = smaller(item.identity, budget)
            if advice:
                line += f". In Load, {advice}"
            lines.append(line)
    return lines


def _add_upsamplers(choice: Choice, wanted: Item | str, usable: list[Item]) -> None:
    """The wanted upscaler, or for auto the newest of each kind that fits."""
    if isinstance(wanted, Item):
        choice.files[wanted.identity.brings[0]] = wanted
        choice.given.add(wanted.identity.brings[0])
        return
    if wanted != AUTO:
        return
    for name in UPSAMPLERS:
        if name not in choice.brings:
            _take_best(choice, name, [name], name, usable=usable, budget=0)
