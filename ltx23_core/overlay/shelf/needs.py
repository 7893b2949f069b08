"""What files would take on the device, stage by stage, asked of the function that also places weights when they run."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...errors import OutOfMemoryError
from ...memory.room import Memory, Need, gb, place
from .identity import Identity

# What is on the device together, and the activations beside it, in bytes. Sampling: one call of the denoiser with four
# passes at 768x512x121 (`memory.estimates`); the others: what the pipeline sets aside.
STAGES: dict[tuple[str, ...], int] = {
    ("transformer",): 1_030_000_000,
    ("text_encoder",): 1 << 29,
    ("text_projection", "connectors"): 1 << 29,
    ("video_encoder",): 1 << 29,
    ("video_decoder",): 1 << 29,
    ("audio_decoder", "vocoder"): 1 << 29,
    ("audio_encoder",): 1 << 29,
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
        return f"{', '.join(self.stage)}: {gb(self.total)} with activations, the device has {gb(budget)}: {self.text}"


def need(identity: Identity, component: str, extra: int = 0) -> Need:
    """What one component of a file takes.

    Args:
        identity: of the file.
        component: that it brings.
        extra: bytes beside it, such as those of a LoRA that acts at use.
    """
    weights, *blocks = identity.weights.get(component) or [identity.size_bytes]
    return Need(component, weights=weights + extra, blocks=tuple(blocks), slot=max(blocks, default=0),
                work=identity.work.get(component, 0))


def fit(identity: Identity, stage: tuple[str, ...], budget: int, extra: int = 0) -> Fit:
    """Whether the components of a stage that a file brings fit into the device."""
    needs = [need(identity, name, extra) for name in stage if name in identity.brings]
    activations = STAGES[stage]
    total = activations + sum(each.weights + each.work for each in needs)
    try:
        placed = place(needs, budget or float("inf"), activations, Memory())
    except OutOfMemoryError:
        return Fit(stage, total, "does not fit")
    return Fit(stage, total, next((each.text for each in placed if each.streamed), "resident"))


def stages_of(identity: Identity, components: Iterable[str]) -> list[tuple[str, ...]]:
    """The stages that a file takes part in with some of its components."""
    wanted = set(components) & set(identity.brings)
    return [stage for stage in STAGES if wanted & set(stage)]


def over_room(identity: Identity, components: Iterable[str], budget: int, extra: int = 0) -> int:
    """0 where everything fits resident, or where memory does not count; else the bytes of the largest stage."""
    if not budget:
        return 0
    fits = [fit(identity, stage, budget, extra) for stage in stages_of(identity, components)]
    if all(each.is_resident for each in fits):
        return 0
    return max(each.total for each in fits)
