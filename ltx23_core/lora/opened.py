"""The LoRAs of a pipeline: files that were read, and what they come to in one stage of a recipe."""
from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from ..overlay import Overlay
from ..overlay.bytes.source import TensorRef
from ..overlay.lora.dialects import COMPONENTS, LoraFile, read_lora
from ..overlay.lora.update import Update
from ..weights.reader import read_tensors
from .plan import LoraUse
from .settings import FAMILIES, Lora, family

_log = getLogger("ltx23")
TEXT = ("connectors", "text_projection")
IDLE = "changes nothing: every factor is 0, as in a LoRA that was never trained"
_ADDED = {"lora": ("b", "a"), "diff": ("diff",)}  # kind -> roles, any of which is 0 where nothing is added


@dataclass(frozen=True)
class OpenLora:
    """A LoRA whose file was read.

    Args:
        lora: what the user asked for.
        file: its updates, for the components of the overlay.
        idle: all that it adds is 0: a LoRA that was not trained.
    """

    lora: Lora
    file: LoraFile
    idle: bool = False

    @classmethod
    def open(cls, lora: Lora, overlay: Overlay) -> OpenLora:
        """Read the header, and factors until one is not 0; what is not used is logged with the reason.

        Raises:
            OverlayError: no readable LoRA, or made for another model.
        """
        shapes = {}
        for name in COMPONENTS:
            if name in overlay.components:
                tensors = overlay.components[name].tensors
                shapes[name] = {key: ref.shape for key, ref in tensors.items()}
        file = read_lora(Path(lora.path), shapes)
        opened = cls(lora, file, _adds_nothing(file))
        if opened.file.unused:
            _log.warning("%s", opened.file.report())
        if opened.idle:
            _log.warning("%s: %s", Path(lora.path).name, IDLE)
        return opened

    def updates(self, component: str) -> dict[float, dict[str, Update]]:
        """Updates of a component by the factor of their stream; those of factor 0 are left out."""
        found: dict[float, dict[str, Update]] = defaultdict(dict)
        for name, update in self.file.updates.get(component, {}).items():
            if factor := self.lora.factor(name):
                found[factor][name] = update
        return dict(found)

    @property
    def text_key(self) -> tuple[object, ...] | None:
        """What of the encoding of a prompt depends on; None: nothing."""
        lora, strength = self.lora, self.lora.strength_in(1)
        if not strength or not any(map(self.updates, TEXT)):
            return None
        return self.file.source, strength, lora.video, lora.audio, lora.mode

    def text_uses(self, component: str) -> list[LoraUse]:
        """What it does to a component of the prompt's encoding, which has the strength of stage 1."""
        strength = self.lora.strength_in(1)
        runtime = strength != 0 and self.lora.mode == "runtime"
        uses = []
        for factor, updates in self.updates(component).items():
            uses.append(LoraUse(updates, strength * factor, runtime))
        return uses

    def staged(self, stages: int) -> StagedLora:
        """What it does to the transformer in a recipe of so many stages."""
        strengths = tuple(map(self.lora.strength_in, range(1, stages + 1)))
        return StagedLora(self.updates("transformer"), strengths, self.lora.mode)

    def report(self) -> str:
        """Lines for people: what it changes, by family, at which strength, and what was left out and why."""
        lora, lines = self.lora, [self.file.report()]
        if self.idle:
            lines.append(f"  {IDLE}")
        for component, updates in self.file.updates.items():
            counts = Counter(map(family, updates))
            families = []
            for name in FAMILIES:
                if counts[name]:
                    families.append(f"{counts[name]} {name}")
            if families:
                lines.append(f"  {component}: {', '.join(families)}")
        lines.append(f"  strength {lora.strength_in(1):g} / {lora.strength_in(2):g} in stage 1 / 2, "
                     f"x video {lora.video:g}, audio {lora.audio:g}, cross-modal {lora.cross:g}; mode {lora.mode}")
        other = self._other_kinds()
        if other and lora.mode != "fused":
            kinds = []
            for kind, count in other.items():
                kinds.append(f"{count} {kind}")
            lines.append(f"  as if fused in every mode: {', '.join(kinds)}")
        if lora.strength_in(2) and not lora.strength_in(1) and any(map(self.updates, TEXT)):
            lines.append("  its changes of the text connectors have no effect: the prompt is encoded once, "
                         "with the strength of stage 1")
        return "\n".join(lines)

    def _other_kinds(self) -> Counter[str]:
        """Kinds of the updates that are no plain pairs."""
        kinds = Counter[str]()
        for updates in self.file.updates.values():
            for update in updates.values():
                if update.dora:
                    kinds[f"DoRA {update.kind}"] += 1
                elif not update.plain:
                    kinds[update.kind] += 1
        return kinds


def _adds_nothing(file: LoraFile) -> bool:
    """Whether everything that a LoRA adds is 0. The first factor that is not ends the search: for most files one."""
    updates = [update for part in file.updates.values() for update in part.values()]
    return bool(updates) and all(map(_is_zero, updates))


def _is_zero(update: Update) -> bool:
    if update.dora or update.kind not in _ADDED:
        return False
    for role in _ADDED[update.kind]:
        ref = update.tensors[role]
        if not isinstance(ref, TensorRef):
            return False
        for _, factor in read_tensors({role: ref}, "cpu", None):
            if not factor.float().any():
                return True
    return False


@dataclass(frozen=True)
class StagedLora:
    """A LoRA on the transformer in one recipe.

    Args:
        updates: by factor, as `OpenLora.updates`.
        strengths: in each stage of the recipe.
        mode: of `lora.MODES`.
    """

    updates: Mapping[float, Mapping[str, Update]]
    strengths: tuple[float, ...]
    mode: str

    @property
    def varies(self) -> bool:
        """Whether a mode has to be chosen: auto, and not the same in all stages."""
        return self.mode == "auto" and len(set(self.strengths)) > 1

    def uses(self, stage: int, runtime: bool) -> list[LoraUse]:
        """What it does in a stage, counted from 1; nothing at all where every stage has strength 0."""
        if not any(self.strengths):
            return []
        found = []
        for factor, updates in self.updates.items():
            found.append(LoraUse(updates, self.strengths[stage - 1] * factor, runtime))
        return found


def stage_uses(loras: Sequence[StagedLora], stage: int, fits: Callable[[list[LoraUse]], bool]) -> list[LoraUse]:
    """What is on the transformer in one stage, in order.

    A LoRA of mode auto is fused where its strength is the same in all stages: the official result. Where it changes
    between stages, fusing would read the touched weights anew before every stage (38 GB of the 22B model for the
    distilled LoRA), so it acts at run time if the factors fit beside the weights.

    Args:
        loras: in the order in which they are added.
        stage: from 1.
        fits: whether weights and factors have room together with the stage's activations.
    """
    def uses(varying: bool) -> list[LoraUse]:
        found = []
        for lora in loras:
            found += lora.uses(stage, lora.mode == "runtime" or (varying and lora.varies))
        return found

    if not any(lora.varies for lora in loras):
        return uses(False)
    at_run_time = uses(True)
    if fits(at_run_time):
        return at_run_time
    _log.info("the factors of LoRAs that change between stages do not fit beside the weights: fused for each "
              "stage")
    return uses(False)
