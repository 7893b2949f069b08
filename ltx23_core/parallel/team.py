"""The ranks of one run as a pipeline sees them: what is shared out, and what one of them does for all."""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..config import TransformerConfig
from ..decode.tiles import Tiling
from ..models.transformer.inputs import Pass
from ..models.transformer.model import Transformer
from ..runtime.component import Component
from ..runtime.residency import LocalResidency
from .assign import Arrangement, Arranger
from .cost import Rates
from .gate import Gate
from .rates import measured
from .shards import Sharded, sharded_blocks
from .tiles import BLENDS, shared_decode
from .transformer import SharedTransformer
from .world import World

log = logging.getLogger("ltx23")
Value = TypeVar("Value")


class Team:
    """Every rank has one, with a pipeline of its own over the same overlay; all call the same methods in one order.

    Args:
        world: the ranks.
        say: told once for each way of sharing what it is and what it takes; on the first rank only.
        gate: where an interrupt stops all ranks; None: nothing interrupts them.
    """

    def __init__(self, world: World, say: Callable[[str], None] = log.info, gate: Gate | None = None) -> None:
        self.world, self._say, self._gate = world, say, gate
        self._rates: Rates | None = None
        self._arrangers: dict[tuple[object, ...], Arranger] = {}
        self._said: Arrangement | None = None
        self._sharded: dict[str, Sharded] = {}

    @property
    def leads(self) -> bool:
        """Whether this rank gives the results."""
        return self.world.rank == BLENDS

    def alone(self, work: Callable[[], Value]) -> Value:
        """What one rank makes for all: the text encoder is on one device only."""
        return self.world.alone(lambda: self._apart(work))

    def together(self, work: Callable[[], Value]) -> Value:
        """What each rank does for itself, such as loading; where one fails, all do."""
        error: BaseException | None = None
        made = None
        try:
            made = self._apart(work)
        except BaseException as caught:
            error = caught
        self.world.meet(error)
        return made

    def _apart(self, work: Callable[[], Value]) -> Value:
        if self._gate is None:
            return work()
        with self._gate.apart():
            return work()

    def place(self, residency: LocalResidency, component: Component, activation_bytes: int) -> None:
        """Have a component on every rank's device; what no rank has room for is shared out among them.

        Raises:
            OutOfMemoryError: it does not fit on one of the ranks; WeightsError, OverlayError: it cannot be read.
        """
        before = self._sharded.pop(component.name, None)
        room = min(self.world.told(residency.capacity_bytes)) - activation_bytes
        count = sharded_blocks(component.need(), room, self.world.size)
        if before is not None and count is not None and count <= before.streamed and all(
                self.world.told(component.is_placed(before))):
            self._sharded[component.name] = before
            return
        self.together(lambda: residency.use(component, activation_bytes=activation_bytes))
        if count is None or residency.wants_least or not any(self.world.told(component.streamed)):
            return  # whole, or from files, on each rank by itself
        policy = Sharded(count, self.world.group(self.world.all.ranks, "blocks"))
        self.together(lambda: component.place(policy, residency.device, residency.check))
        self._sharded[component.name] = policy
        if self.leads:
            self._say(f"{component.name.replace('_', ' ')}: {count} of {len(component.need().blocks)} blocks are held "
                      f"by {self.world.size} devices in turn")

    def transformer(self, model: Transformer, config: TransformerConfig, dtype: torch.dtype) -> SharedTransformer:
        """A loaded transformer whose forwards are shared out."""
        # Blocks that come and go do so in one order, on all ranks alike.
        stays = not any(self.world.told(any(block._forward_pre_hooks for block in model.transformer_blocks)))
        key = config, dtype, stays
        if key not in self._arrangers:
            if self._rates is None:
                self._rates = measured(self.world, dtype)
            self._arrangers[key] = Arranger(config, self.world.size, self._rates, dtype.itemsize, handing=stays)
        arranger = self._arrangers[key]

        def arrange(passes: Sequence[Pass], tokens: tuple[int, int], text: int) -> Arrangement:
            found = arranger(passes, tokens, text)
            if self.leads and found is not self._said:
                self._said = found
                self._say(f"{self.world.size} devices, {found}")
            return found

        return SharedTransformer(model, self.world, arrange, self._gate)

    def decode(self, decoder: nn.Module, latent: Tensor, tiling: Tiling | None,
               check: Callable[[], None]) -> Iterator[Tensor]:
        """`decode.tiles.tiled_decode`, its tiles shared out; chunks come on the rank that leads."""
        if self._gate is not None:
            check = self._gate.following
        return shared_decode(self.world, decoder, latent, tiling, check)
