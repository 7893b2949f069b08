"""A component: a module whose weights lie in files until a device needs them."""
from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from ..config import Stack
from ..lora.layers import linear_weights, set_all_changes, set_layer_changes
from ..lora.plan import LoraPlan, LoraUse, ParameterLoras, plan_loras
from ..memory.room import Need
from ..overlay.bytes.source import AnyRef
from ..weights.pages import Pages
from .block_content import BlockContent
from .file_layers import FileEmbedding, FileLinear
from .load import load_tensors, prepare_module
from .policy import Policy, Whole
from .sizes import Sizes
from .switch import switch_loras

log = logging.getLogger("ltx23")
Verify = Callable[[Collection[Path]], None]
META = torch.device("meta")
_NOTHING = ParameterLoras()


class Component:
    """One component of the model and where its weights are.

    On the meta device it holds no memory at all: releasing drops the weights, placing reads their byte ranges
    again (the operating system's page cache makes that cheap while there is room).

    Args:
        name: component name of the overlay, for messages.
        build: makes the module on the meta device; called once, at first use.
        refs: tensor name -> where its bytes are.
        dtype: dtype of the loaded weights.
        loras: as of `set_loras`.
        stack: its blocks, where they may be streamed.
        verify: called before weights are read with the files that will be read; raises if one of them changed.
        after_load: called with (module, device) after the weights are there, for buffers that no file holds.
    """

    def __init__(self, name: str, build: Callable[[], nn.Module], refs: Mapping[str, AnyRef],
                 dtype: torch.dtype, *, loras: Sequence[LoraUse] = (),
                 stack: Stack | None = None, verify: Verify | None = None,
                 after_load: Callable[[nn.Module, torch.device], None] | None = None) -> None:
        self.name, self.refs, self.dtype = name, refs, dtype
        self._build, self._module, self._stack = build, None, stack
        self._verify, self._after_load = verify, after_load
        self._device, self._policy = META, None
        self._prepared = False
        self._there: set[str] = set()  # names of the tensors on the device
        self._pages: Pages | None = None
        self._loras: tuple[LoraUse, ...] = ()
        self._wanted: LoraPlan = {}
        self._applied: LoraPlan = {}  # on the tensors that are on the device
        self._placed: LoraPlan = {}  # of the last `place`
        self.loads = 0  # from nothing
        self.bytes_read = 0  # so far, LoRAs and changes of LoRAs included; streamed blocks are not counted
        if loras:
            self.set_loras(loras)

    @property
    def module(self) -> nn.Module:
        """The module; its parameters are on `device`, those of blocks that are streamed only while they run."""
        if self._module is None:
            self._module = self._build()
        return self._module

    @property
    def device(self) -> torch.device:
        """Where it runs; meta while its weights are only in files."""
        return self._device

    @property
    def streamed(self) -> int:
        """How many blocks are brought in when they are needed."""
        if self._policy is None:
            return 0
        return self._policy.streamed

    # -- what it takes -----------------------------------------------------------------------------------------------
    @cached_property
    def _sizes(self) -> Sizes:
        return Sizes(self.name, self.refs, self.dtype, self._stack)

    @property
    def block_modules(self) -> list[nn.Module]:
        """The blocks that may be streamed, in the order in which they run."""
        if not self._sizes.blocks:
            return []
        blocks: list[nn.Module] = []
        for path in self._stack.paths:
            blocks += self.module.get_submodule(path)
        return blocks

    @property
    def block_count(self) -> int:
        """How many parts may be streamed; of matrices that are used by rows, these."""
        return len(self._sizes.blocks)

    @property
    def shared_blocks(self) -> bool:
        """Whether several passes call a block in turn."""
        return self._stack is not None and self._stack.shared

    def _plan(self, loras: Sequence[LoraUse]) -> LoraPlan:
        if not loras:
            return {}
        return plan_loras(loras, self.refs, linear_weights(self.module), self._sizes.quantised)

    def set_loras(self, loras: Sequence[LoraUse]) -> None:
        """The LoRAs that the weights shall have after the next `place`, in order. Reads nothing.

        Loaded weights keep those that they have until then; `place` then changes only what differs
        (`weights.lora_switch`), and without LoRAs the base is back bit for bit.

        Raises:
            WeightsError: an update does not fit its parameter.
        """
        self._wanted = self._plan(loras)
        self._loras = tuple(loras)

    def need(self, loras: Sequence[LoraUse] | None = None) -> Need:
        """What it takes on a device.

        Args:
            loras: with these; None: with those of `set_loras`.
        """
        if loras is None:
            return self._sizes.need(self._wanted)
        return self._sizes.need(self._plan(loras))

    def need_as(self, refs: Mapping[str, AnyRef]) -> Need:
        """What it would take, with the LoRAs of `set_loras`, if its tensors were these."""
        sizes = Sizes(self.name, refs, self.dtype, self._stack)
        plan: LoraPlan = {}
        if self._loras:
            plan = plan_loras(self._loras, refs, linear_weights(self.module), sizes.quantised)
        return sizes.need(plan)

    def bytes_with(self, loras: Sequence[LoraUse]) -> int:
        """What `size_bytes` would be with these LoRAs."""
        return self._sizes.bytes(self.refs, self._plan(loras))

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights when everything is resident: quantised ones as they are, LoRA factors included."""
        return self._sizes.bytes(self.refs, self._wanted)

    @property
    def loaded_bytes(self) -> int:
        """Bytes that are on the device now."""
        if self._device == META:
            return 0
        loaded = self._sizes.bytes(self._there, self._applied) + self.recorded_bytes
        if self._policy is not None:
            loaded += self._policy.bytes(self)
        return loaded

    @property
    def recorded_bytes(self) -> int:
        """Bytes that a module which records its work (`models.transformer.graphs`) holds for that."""
        graphs = getattr(self._module, "graphs", None)
        if graphs is None:
            return 0
        return graphs.bytes

    def forget_recordings(self) -> None:
        """Drop them: weights are about to move or to change, or their memory is wanted."""
        graphs = getattr(self._module, "graphs", None)
        if graphs is not None:
            graphs.forget()

    # -- where it is -------------------------------------------------------------------------------------------------
    @property
    def pages(self) -> Pages | None:
        """Registered pages of its files: from the second load on, or for streaming."""
        return self._pages

    def place(self, policy: Policy, device: torch.device, check: Callable[[], None] | None = None) -> int:
        """Have the weights where a policy wants them, with the LoRAs of `set_loras`; returns the bytes on the device.

        What is there already stays. An interrupt of a first load leaves nothing behind; one of a change leaves each
        weight with the old or the new LoRAs, and the next call goes on.

        Raises:
            OverlayError: a source file changed. WeightsError: a tensor is missing or unreadable.
        """
        if self._device == device and self.is_placed(policy):
            return self.loaded_bytes
        fresh = self._device != device
        self.forget_recordings()
        if fresh:
            self.release()
            self._prepare()
        self._leave_policy()
        if self._verify is not None:
            self._verify(self._paths())
        if self._pages is None and (policy.streamed or self.loads):
            self._pages = Pages(device)
        try:
            policy.enter(self, device, check)
            if fresh and self._after_load is not None:
                self._after_load(self.module, device)
        except BaseException:
            policy.leave(self)
            if fresh:
                self._drop()
            raise
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what was let go is free for everybody, and in whole pieces
        self._device, self._policy, self._placed = device, policy, dict(self._wanted)
        self.loads += fresh
        return self.loaded_bytes

    def _prepare(self) -> None:
        """Check the module and give it quantised layers, once: it stays so on the meta device."""
        if not self._prepared:
            prepare_module(self.module, self.refs, self.dtype, self.name)
            self._prepared = True

    def is_placed(self, policy: Policy) -> bool:
        """Whether the weights are where a policy wants them, with the LoRAs that are wanted."""
        if type(self._policy) is not type(policy) or self._policy.streamed != policy.streamed:
            return False
        return self._placed == self._wanted

    def load(self, device: torch.device, check: Callable[[], None] | None = None) -> int:
        """`place` with everything resident."""
        return self.place(Whole(), device, check)

    def release(self, pages: bool = False) -> None:
        """Drop the weights; with ``pages`` give back the registered pages of its files too."""
        if self._device != META:
            log.info("released %s: %.1f MB from %s", self.name, self.loaded_bytes / 1e6, self._device)
            self._drop()
        if pages and self._pages is not None:
            self._pages.close()
            self._pages = None

    def _paths(self) -> set[Path]:
        """The files of its weights and of the LoRAs that are wanted on them."""
        refs = list(self.refs.values())
        for plan in self._wanted.values():
            for part in (*plan.fused, *plan.at_use):
                refs += part.update.tensors.values()
        return {ref.path for ref in refs}

    def _wanted_there(self) -> LoraPlan:
        return {name: parts for name, parts in self._wanted.items() if name in self._there}

    def _leave_policy(self) -> None:
        if self._policy is not None:
            self._policy.leave(self)
            self._policy = None

    def _drop(self) -> None:
        self._leave_policy()
        self.forget_recordings()
        set_all_changes(self.module, {})
        self._applied, self._there = {}, set()
        self.module.to(META)
        self._device = META

    # -- what policies ask for -----------------------------------------------------------------------------------------
    def keep(self, names: Collection[str], device: torch.device, check: Callable[[], None] | None) -> None:
        """Have exactly these tensors on the device, with the LoRAs that are wanted."""
        wanted = set(names)
        for name in self._there - wanted:
            self._let_go(name)
        there = {name: self.refs[name] for name in self._there}
        if self._applied != self._wanted_there():
            self.bytes_read += switch_loras(self.module, there, self._applied, self._wanted_there(), device,
                                            self.dtype, check=check, name=self.name).bytes
        new = {}
        for name, ref in self.refs.items():
            if name in wanted and name not in self._there:
                new[name] = ref
        if new:
            self.bytes_read += load_tensors(self.module, new, device, self.dtype, self._wanted,
                                            groups=self._sizes.groups, pages=self._pages, check=check,
                                            name=self.name).bytes
            self._there |= new.keys()
            for name, parts in self._wanted.items():
                if name in new:
                    self._applied[name] = parts

    def names_without(self, away: Collection[int]) -> set[str]:
        """All tensors but those of these blocks, and but a table that can stay in its file."""
        names = self.refs.keys() - {self._sizes.table}
        for number in away:
            names.difference_update(self._sizes.blocks[number])
        return names

    def content(self, number: int) -> BlockContent:
        """What is streamed of a block, with the LoRAs that are wanted."""
        names = self._sizes.blocks[number]
        prefix = self._sizes.prefix(number)
        refs, loras = {}, {}
        for name in names:
            refs[name.removeprefix(prefix)] = self.refs[name]
        for name, parts in self._wanted.items():
            if name.startswith(prefix):
                loras[name.removeprefix(prefix)] = parts
        return BlockContent(self.block_modules[number], refs, self.dtype, loras)

    def leave_in_files(self, device: torch.device) -> None:
        """Read rows of the table, or of the matrices that are used by rows, from their files from now on."""
        for name in self._sizes.in_files:
            owner, leaf = self._place_of(name)
            layer, ref = getattr(owner, leaf), self.refs[name]
            if name == self._sizes.table:
                instead = FileEmbedding(layer, ref, device, self.dtype)
            else:
                instead = FileLinear(layer, ref, device, self.dtype, self._pages)
            setattr(owner, leaf, instead)

    def take_back(self) -> None:
        """The opposite of `leave_in_files`; what was left is on the meta device then."""
        for name in self._sizes.in_files:
            owner, leaf = self._place_of(name)
            instead = getattr(owner, leaf)
            if isinstance(instead, FileEmbedding | FileLinear):
                [layer] = instead.replaced
                if isinstance(instead, FileLinear):
                    layer.bias = instead.bias
                setattr(owner, leaf, layer)

    def _place_of(self, name: str) -> tuple[nn.Module, str]:
        """The module that has the layer of a weight, and the layer's name there."""
        path, _, leaf = name.removesuffix(".weight").rpartition(".")
        return self.module.get_submodule(path), leaf

    def _let_go(self, name: str) -> None:
        """Drop one tensor, and what acts on it."""
        if self._applied.pop(name, _NOTHING).at_use:
            set_layer_changes(self.module, name, ())
        self._there.discard(name)
        path, _, leaf = name.rpartition(".")
        owner = self.module.get_submodule(path)
        parts = (leaf,)
        if name in self._sizes.quantised:
            parts = owner.part_names
        for part in parts:
            if part in owner._parameters:
                away = owner._parameters[part].to(META)
                owner._parameters[part] = nn.Parameter(away, requires_grad=False)
            else:
                owner._buffers[part] = owner._buffers[part].to(META)
