"""Where a component's weights are while it runs: all on the device, or some of its blocks brought in one by one."""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch

from ..memory.room import Placement, streamed_blocks
from .block_source import block_source
from .stream import BlockStream

if TYPE_CHECKING:
    from .component import Component

Check = Callable[[], None]


class Policy(Protocol):
    """What a `Component` asks; one object for each placing of a component."""

    streamed: int

    def enter(self, component: Component, device: torch.device, check: Check | None) -> None:
        """Bring weights to the device, as far as they are not there; what is there and not wanted there leaves.

        Raises:
            OverlayError: a source file changed. WeightsError: a tensor is missing or unreadable.
        """

    def leave(self, component: Component) -> None:
        """Give back what this policy holds beside the component's own tensors. Called before another one enters."""

    def bytes(self, component: Component) -> int:
        """Bytes on the device beside the component's own tensors, true at any moment."""


class Whole:
    """Everything is on the device."""

    streamed = 0

    def __init__(self) -> None:
        """Nothing is there yet."""
        self._numbers: BlockStream | None = None

    def enter(self, component: Component, device: torch.device, check: Check | None) -> None:
        """See `Policy`."""
        component.keep(component.refs.keys(), device, check)
        blocks = component.block_modules
        self._numbers = BlockStream(component.module, blocks, {}, None, device, component.shared_blocks)

    def leave(self, component: Component) -> None:
        """See `Policy`."""
        if self._numbers is not None:
            self._numbers.close()
            self._numbers = None

    def bytes(self, component: Component) -> int:
        """See `Policy`."""
        return 0


class Streamed:
    """Some blocks are resident, the others come in when they are needed (`stream.BlockStream`).

    Args:
        streamed: how many blocks are not resident.
    """

    def __init__(self, streamed: int) -> None:
        """Nothing is there yet."""
        self.streamed = streamed
        self._stream: BlockStream | None = None

    def enter(self, component: Component, device: torch.device, check: Check | None) -> None:
        """See `Policy`."""
        blocks = component.block_modules
        away = streamed_blocks(len(blocks), self.streamed)
        component.keep(component.names_without(away), device, check)
        component.leave_table(device)
        contents = {number: component.content(number) for number in sorted(away)}
        self._stream = BlockStream(component.module, blocks, contents, block_source(device, component.pages), device,
                                   component.shared_blocks)

    def leave(self, component: Component) -> None:
        """See `Policy`."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        component.take_table_back()

    def bytes(self, component: Component) -> int:
        """See `Policy`."""
        return 0 if self._stream is None else self._stream.size_bytes


def policy_for(placement: Placement) -> Policy:
    """The policy that a placement means."""
    return Streamed(placement.streamed) if placement.streamed else Whole()
