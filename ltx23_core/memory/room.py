"""Does it fit, and how is it placed? The one answer for both residencies and for the automatic choice of files.

Bytes only. What cannot be placed is refused here, before a byte is read.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from ..errors import OutOfMemoryError, RequestError

CONTEXT = 810_000_000  # bytes of a card that the process's context, kernels and libraries took on an H100
SLOTS = 2  # places on the device that streamed blocks share: one computes while the next one arrives
KEPT_WITHIN = 2  # blocks
SPARE = 0.02  # of a budget: what the device's allocator may lose between pieces of different sizes
LOST = 0.1  # of activations: what the allocator may lose where their sizes change all the time, as in decoding
MODES = ("auto", "resident", "stream")


@dataclass(frozen=True)
class Memory:
    """How much of the device the weights may take.

    Attributes:
        mode: "auto" (resident as far as it fits), "resident" (whole or refused) or "stream" (as little as possible).
        budget: most bytes of weights and activations together; None: what the device has free.
    """

    mode: str = "auto"
    budget: int | None = None

    @classmethod
    def parse(cls, value: str | float | Memory) -> Memory:
        """From "auto", "resident", "stream", or a budget in GB (10^9 bytes) as number or text.

        Raises:
            RequestError: anything else.
        """
        if isinstance(value, Memory):
            return value
        if value in MODES:
            return cls(str(value))
        try:
            budget = float(value)
        except (TypeError, ValueError):
            budget = 0.0
        if isfinite(budget) and budget > 0:
            return cls("auto", int(budget * 1e9))
        expected = f"{', '.join(MODES)}, or a budget in GB such as 12"
        raise RequestError(f"memory is {value!r}", expected, "Choose auto.")

    def capacity(self, free: float) -> float:
        """Bytes that may be used where ``free`` bytes are there."""
        if self.budget is None:
            return free
        return min(free, self.budget * (1 - SPARE))


@dataclass(frozen=True)
class Need:
    """What one component takes on a device, in bytes.

    Attributes:
        name: for messages.
        weights: all of them, LoRA factors included.
        blocks: weights of each block that can be streamed, in order; () where it is whole or not at all.
        slot: of one of the places that streamed blocks share: the largest block as it is stored in its file.
        work: beside the weights while a block runs, wherever they are: numbers that are made of quantised weights.
        streamed_work: the same while a streamed block runs: also what is made of it because its file has another dtype.
        apart: part of the weights outside the blocks that is left in the file when blocks are streamed.
    """

    name: str
    weights: int
    blocks: tuple[int, ...] = ()
    slot: int = 0
    work: int = 0
    streamed_work: int = 0
    apart: int = 0

    @property
    def least(self) -> int:
        """Fewest bytes with which it runs."""
        whole = _whole(self).peak
        if not self.blocks:
            return whole
        return min(whole, _streamed(self, len(self.blocks)).peak)

    def least_as(self, mode: str) -> int:
        """Fewest bytes with which it runs in one of `MODES`."""
        if mode == "resident":
            return _whole(self).peak
        return self.least


@dataclass(frozen=True)
class Placement:
    """Where a component's weights shall be.

    Attributes:
        streamed: how many blocks are brought in when they are needed; 0: everything is resident.
        blocks: how many it has.
        weights: bytes on the device: resident weights, and the places that streamed blocks share.
        peak: with what is made of a block while it runs.
        away: bytes of the blocks that are streamed.
    """

    streamed: int
    blocks: int
    weights: int
    peak: int
    away: int = 0

    @property
    def text(self) -> str:
        """For the plan's line: "resident", "streamed 31 of 48 blocks", or "streamed" where none of them stays."""
        if not self.streamed:
            return "resident"
        if self.streamed == self.blocks:
            return "streamed"
        return f"streamed {self.streamed} of {self.blocks} blocks"


def streaming_order(blocks: int) -> tuple[int, ...]:
    """Block numbers in the order in which they give up their place: the first n of them are streamed.

    Any n of them lie about evenly apart, so that the bus also has the time of the resident blocks between; and a
    change of n moves only the difference. (Bits of the number in reverse: van der Corput's sequence.)
    """
    width = max(blocks - 1, 1).bit_length()
    return tuple(sorted(range(blocks), key=lambda number: int(f"{number:0{width}b}"[::-1], 2)))


def streamed_blocks(blocks: int, streamed: int) -> frozenset[int]:
    """The numbers of the blocks that are streamed where ``streamed`` of ``blocks`` are."""
    return frozenset(streaming_order(blocks)[:streamed])


def _whole(need: Need) -> Placement:
    return Placement(0, len(need.blocks), need.weights, need.weights + need.work)


def placed_so(need: Need, streamed: int) -> Placement:
    """The placement in which that many blocks are streamed; 0: everything is resident."""
    if not streamed:
        return _whole(need)
    return _streamed(need, streamed)


def _streamed(need: Need, count: int) -> Placement:
    away = 0
    for number in streamed_blocks(len(need.blocks), count):
        away += need.blocks[number]
    weights = need.weights - need.apart - away + min(SLOTS, count) * need.slot
    peak = weights + max(need.work, need.streamed_work)
    return Placement(count, len(need.blocks), weights, peak, away)


def fitting(need: Need, room: float, memory: Memory = Memory(), now: int | None = None) -> Placement | None:
    """The placement with most resident blocks whose peak fits into ``room`` bytes; None where none does.

    Args:
        need: of the component.
        room: bytes.
        memory: the user's wish; its budget does not count here.
        now: how many of its blocks are streamed at present: kept where the best would be about the same, so that what
            other programs take and give back does not move blocks to and fro.
    """
    whole, count = _whole(need), len(need.blocks)
    if memory.mode != "stream" or not need.blocks:
        if whole.peak <= room:
            return whole
        if memory.mode == "resident" or not need.blocks:
            return None
    fewest = min(SLOTS + 1, count)  # below that the places would hold them all
    if memory.mode == "stream":
        fewest = count
    for streamed in range(fewest, count + 1):
        placed = _streamed(need, streamed)
        if placed.peak > room:
            continue
        if now is not None and streamed < now <= streamed + KEPT_WITHIN:
            return _streamed(need, now)
        return placed
    return None


def freeing(need: Need, now: int, bytes_to_free: float) -> Placement | None:
    """The placement with most resident blocks that gives back that many bytes of weights; None where none does."""
    present = placed_so(need, now)
    for streamed in range(max(now + 1, min(SLOTS + 1, len(need.blocks))), len(need.blocks) + 1):
        placed = _streamed(need, streamed)
        if present.weights - placed.weights >= bytes_to_free:
            return placed
    return None


def place(needs: Sequence[Need], capacity: float, activations: int = 0, memory: Memory = Memory(),
          now: Sequence[int | None] = ()) -> tuple[Placement, ...]:
    """Where the weights of components that run together shall be.

    Args:
        needs: of each component; those that can be streamed share what the others leave, the first one first.
        capacity: bytes that are free for all of it, infinite where that is no question.
        activations: bytes of these.
        memory: the user's wish.
        now: as in `fitting`, of each.

    Returns:
        One placement a component.

    Raises:
        OutOfMemoryError: they do not fit, however little of them is resident (or the user wants all resident).
    """
    room = memory.capacity(capacity) - activations
    least = [need.least_as(memory.mode) for need in needs]
    present = now or [None] * len(needs)
    placed = []
    for number, need in enumerate(needs):
        found = fitting(need, room - sum(least[number + 1:]), memory, present[number])
        if found is None:
            raise refusal(needs, capacity, activations, memory)
        placed.append(found)
        room -= found.peak
    return tuple(placed)


def first_fitting(needs: Sequence[Need], capacity: float, activations: Sequence[int],
                  memory: Memory = Memory()) -> int:
    """Which of several ways to work is the first that fits; the last one where none does.

    A little more than a way needs must be free (`LOST`): where there are several, none has to be cut to the edge.

    Args:
        needs, capacity, memory: as of `place`.
        activations: bytes of each way, the best first.
    """
    least = sum(need.least_as(memory.mode) for need in needs)
    room = memory.capacity(capacity) - least
    for number, size in enumerate(activations):
        if size * (1 + LOST) <= room:
            return number
    return len(activations) - 1


def fits_whole(needs: Sequence[Need], loaded: int, free: float, activations: int,
               memory: Memory = Memory()) -> bool:
    """Whether components with what they need beside them have room without anything else leaving the device.

    Args:
        needs: of each component.
        loaded: bytes of their weights that are there already.
        free: bytes that are free now.
        activations: bytes of these.
        memory: the user's wish; who asks for streaming wants as little as possible on the device.
    """
    if memory.mode == "stream":
        return False
    peak = activations * (1 + LOST)
    for need in needs:
        peak += _whole(need).peak
    return peak - loaded <= free and peak <= memory.capacity(peak)


def refusal(needs: Sequence[Need], capacity: float, activations: int,
            memory: Memory = Memory()) -> OutOfMemoryError:
    """The error of components that do not fit, with the numbers."""
    resident = memory.mode == "resident"
    total, streamable = activations, False
    for need in needs:
        total += need.least_as(memory.mode)
        streamable = streamable or bool(need.blocks)
    limit, how = "are free", ""
    if memory.budget is not None and memory.budget <= capacity:
        limit = "the budget allows"
    fix = "Close other programs that use the device, or choose a smaller size or fewer frames."
    if resident:
        how = " resident"
    if resident and streamable:
        fix = "Choose memory auto or stream."
    names = ", ".join(need.name for need in needs)
    room = gb(max(memory.capacity(capacity), 0))
    return OutOfMemoryError(
        f"{names} with {gb(activations)} of activations need {gb(total)}{how}, {room} {limit}",
        "enough free memory", fix)


def gb(count: float) -> str:
    """Bytes for people, in GB (10^9), small numbers with more digits."""
    if count and count < 1e8:
        return f"{count / 1e9:.2g} GB"
    return f"{count / 1e9:.1f} GB"
