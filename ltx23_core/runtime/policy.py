"""Where a component's weights are while it runs: all on the device, or some of its blocks brought in one by one."""
from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import torch
from torch import nn

from ..memory.room import Placement, streamed_blocks
from ..overlay.bytes.source import AnyRef
from ..weights.pages import Pages
from .block_content import BlockContent
from .block_source import BlockSource, block_source
from .stream import BlockStream

Check = Callable[[], None]


class Placeable(Protocol):
    """What a policy asks of a component."""

    refs: Mapping[str, AnyRef]

    @property
    def module(self) -> nn.Module:
        """The module."""

    @property
    def block_modules(self) -> list[nn.Module]:
        """The blocks that may be streamed, in the order in which they run."""

    @property
    def block_count(self) -> int:
        """How many parts may be streamed; of matrices that are used by rows, these."""

    @property
    def shared_blocks(self) -> bool:
        """Whether several passes call a block in turn."""

    @property
    def pages(self) -> Pages | None:
        """Registered pages of its files."""

    def keep(self, names: Collection[str], device: torch.device, check: Check | None) -> None:
        """Have exactly these tensors on the device."""

    def names_without(self, away: Collection[int]) -> set[str]:
        """All tensors but those of these blocks, and but a table that can stay in its file."""

    def content(self, number: int) -> BlockContent:
        """What is streamed of a block."""

    def leave_in_files(self, device: torch.device) -> None:
        """Read rows of the table, or of the matrices that are used by rows, from their files from now on."""

    def take_back(self) -> None:
        """The opposite of `leave_in_files`."""


class Policy(Protocol):
    """What a component asks; one object for each placing of a component."""

    streamed: int

    def enter(self, component: Placeable, device: torch.device, check: Check | None) -> None:
        """Bring weights to the device, as far as they are not there; what is there and not wanted there leaves.

        Raises:
            OverlayError: a source file changed. WeightsError: a tensor is missing or unreadable.
        """

    def leave(self, component: Placeable) -> None:
        """Give back what this policy holds beside the component's own tensors. Called before another one enters."""

    def bytes(self, component: Placeable) -> int:
        """Bytes on the device beside the component's own tensors, true at any moment."""


class Whole:
    """Everything is on the device."""

    streamed = 0

    def __init__(self) -> None:
        """Nothing is there yet."""
        self._numbers: BlockStream | None = None

    def enter(self, component: Placeable, device: torch.device, check: Check | None) -> None:
        """See `Policy`."""
        component.keep(component.refs.keys(), device, check)
        blocks = component.block_modules
        self._numbers = BlockStream(component.module, blocks, {}, None, device, component.shared_blocks)

    def leave(self, component: Placeable) -> None:
        """See `Policy`."""
        if self._numbers is not None:
            self._numbers.close()
            self._numbers = None

    def bytes(self, component: Placeable) -> int:
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

    def enter(self, component: Placeable, device: torch.device, check: Check | None) -> None:
        """See `Policy`."""
        blocks = component.block_modules
        away = streamed_blocks(component.block_count, self.streamed)
        component.keep(component.names_without(away), device, check)
        component.leave_in_files(device)
        contents, source = {}, None
        if blocks:
            contents = {number: component.content(number) for number in sorted(away)}
            source = self.source(device, component.pages)
        self._stream = BlockStream(component.module, blocks, contents, source, device, component.shared_blocks)

    def source(self, device: torch.device, pages: Pages | None) -> BlockSource:
        """Where the bytes of streamed blocks come from."""
        return block_source(device, pages)

    def leave(self, component: Placeable) -> None:
        """See `Policy`."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        component.take_back()

    def bytes(self, component: Placeable) -> int:
        """See `Policy`."""
        if self._stream is None:
            return 0
        return self._stream.size_bytes


def policy_for(placement: Placement) -> Policy:
    """The policy that a placement means."""
    if placement.streamed:
        return Streamed(placement.streamed)
    return Whole()
