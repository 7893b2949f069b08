"""A transformer whose forwards are shared out among ranks: passes among groups, tokens within each group."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..models.transformer.graphs import wanted
from ..models.transformer.inputs import STREAMS, Hidden, Pass, Span, StreamInput, StreamTables
from ..models.transformer.model import Transformer, Velocities
from ..ops.rope import Rope, RopeRows
from .assign import Arrangement, Part
from .attention import install
from .cost import branches_by_block
from .cut import Cut, cut_for
from .gate import Gate, blocks_of
from .world import World

Tables = tuple["StreamTables | None", "StreamTables | None"]
Arrange = Callable[[Sequence[Pass], tuple[int, int], int], Arrangement]
"""Passes, tokens of (video, audio) and tokens of a prompt -> who does what."""


class SharedTransformer:
    """Called as `Transformer` is, with the same arguments on every rank of a world; every rank gets the same result.

    All else is the transformer's.

    Args:
        model: this rank's, with all weights.
        world: the ranks.
        arrange: decides who does what; the same on every rank.
        gate: where an interrupt stops all ranks; None: nothing but `check` does.
    """

    def __init__(self, model: Transformer, world: World, arrange: Arrange, gate: Gate | None = None) -> None:
        self._model, self._world, self._arrange, self._gate = model, world, arrange, gate

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._model, name)

    def __call__(self, video: StreamInput | None, audio: StreamInput | None, passes: Sequence[Pass],
                 tables: Tables, check: Callable[[], None] | None = None) -> list[Velocities]:
        """See `Transformer.forward`. With a gate, its places take the place of ``check``."""
        streams = {name: own for name, own in zip(STREAMS, (video, audio), strict=True) if own is not None}
        prompt = next(context for context in (passes[0].video_context, passes[0].audio_context)
                      if context is not None)
        arrangement = self._arrange(passes, _tokens(video, audio), prompt.shape[1])
        for part in arrangement.parts:  # by all ranks in one order, whether they are in it or not
            self._world.group(part.ranks)
        for name, own in streams.items():
            # What ranks computed for themselves, such as an encoded picture, may differ in the last bits.
            streams[name] = replace(own, latent=self._world.all.broadcast(own.latent.clone(), 0))
        leaving: list[Callable[[], None]] = []
        try:
            made = self._phases(arrangement, streams, passes, tables, check, leaving)
        finally:  # an interrupt finds whoever takes over before the same place, so it does
            for left in leaving:
                left()
        self._exchange(arrangement, streams, passes, made)
        return [(found.get("video"), found.get("audio")) for found in made]

    def _phases(self, arrangement: Arrangement, streams: dict[str, StreamInput], passes: Sequence[Pass], tables: Tables,
                check: Callable[[], None] | None, leaving: list[Callable[[], None]]) -> list[dict[str, Tensor]]:
        """What this rank does; of each pass its velocities by stream, where they are its own."""
        made: list[dict[str, Tensor]] = [{} for _ in passes]
        half_way: dict[int, Hidden] = {}
        for phase in arrangement.phases:
            start = self._gate.following() if self._gate is not None else 0
            for part in phase:
                if self._world.rank in part.given_by:
                    leaving.append(self._hand_over(part, half_way))
            for part in phase:
                if self._world.rank not in part.ranks:
                    continue
                if part.given_by:
                    self._take_over(part, streams, passes, half_way)
                found = self._part(part, streams, passes, tables, half_way, start, check)
                made = [old | new for old, new in zip(made, found, strict=True)]
        return made

    def _hand_over(self, part: Part, half_way: dict[int, Hidden]) -> Callable[[], None]:
        """Start to give the states of a part's passes to the rank that goes on with this one's tokens."""
        taker = part.ranks[part.given_by.index(self._world.rank)]
        given = [x for number in part.passes for x in half_way.pop(number) if x is not None]
        return self._world.hand_over(given, taker)

    def _take_over(self, part: Part, streams: dict[str, StreamInput], passes: Sequence[Pass],
                   half_way: dict[int, Hidden]) -> None:
        """The states of a part's passes, from the rank that has begun with them."""
        cut, config = cut_for(self._world.group(part.ranks), *_tokens(*map(streams.get, STREAMS))), self._model.config
        widths, rooms = {"video": config.video.width, "audio": config.audio.width}, []
        for number in part.passes:
            pair: dict[str, Tensor] = {}
            for name, own in streams.items():
                if name in passes[number].needs(ahead=True):
                    rows = cut.rows(name) or own.latent.shape[1]
                    pair[name] = own.latent.new_empty(own.latent.shape[0], rows, widths[name])
            half_way[number] = pair.get("video"), pair.get("audio")
            rooms += pair.values()
        self._world.take_over(rooms, part.given_by[part.ranks.index(self._world.rank)])

    def _places(self, start: int, part: Part, passes: Sequence[Pass],
                check: Callable[[], None] | None) -> Callable[[], None] | None:
        """The check of one part's forward. A block is the same place on all ranks, so that all end at the last one."""
        if self._gate is None:
            return check
        first, last = part.blocks or (0, self._model.config.layers)
        return blocks_of(self._gate, start + first, branches_by_block(passes, self._model.config.layers)[first:last])

    def _part(self, part: Part, streams: dict[str, StreamInput], passes: Sequence[Pass], tables: Tables,
              half_way: dict[int, Hidden], start: int, check: Callable[[], None] | None) -> list[dict[str, Tensor]]:
        """Velocities of the passes of a part, of the whole streams, made by all its ranks: of each pass by stream.

        Nothing of a part that ends before the last block; the states of its passes are ``half_way`` then.
        """
        cut = cut_for(self._world.group(part.ranks), *_tokens(*map(streams.get, STREAMS)))
        install(self._model, cut)
        given = [passes[number] for number in part.passes]
        own: dict[str, StreamInput | None] = dict.fromkeys(STREAMS)
        own_tables: list[StreamTables | None] = []
        for name, table in zip(STREAMS, tables, strict=True):
            if name in streams:
                own[name] = _own_tokens(cut, name, streams[name])
            own_tables.append(table and _own_rows(cut, name, table))
        check = self._places(start, part, given, check)
        if self._gate is not None and wanted((own["video"] or own["audio"]).latent, self._model.proj_out.bias):
            check = None  # a recorded forward is short, and looks up at times that no rank shares
        span = None
        if part.blocks is not None:
            states = [half_way.pop(number) for number in part.passes] if part.blocks[0] else []
            span = Span(*part.blocks, tuple(states))
        found = self._model(own["video"], own["audio"], given, tuple(own_tables), check, span)
        made: list[dict[str, Tensor]] = [{} for _ in passes]
        if span is not None and span.last < self._model.config.layers:
            half_way.update(zip(part.passes, found, strict=True))
            return made
        for index, name in enumerate(STREAMS):
            there = [place for place, each in enumerate(given)
                     if name in each.reads and found[place][index] is not None]
            if not there:
                continue
            together = torch.stack([found[place][index] for place in there])
            if cut.count(name):
                together = cut.join(name, together)
            for place, velocity in zip(there, together, strict=True):
                made[part.passes[place]][name] = velocity
        return made

    def _exchange(self, arrangement: Arrangement, streams: dict[str, StreamInput], passes: Sequence[Pass],
                  made: list[dict[str, Tensor]]) -> None:
        """Give every rank the velocities that others made."""
        for part in arrangement.parts:
            ends = part.blocks is None or part.blocks[1] == self._model.config.layers
            if len(part.ranks) == self._world.size or not ends:
                continue
            for name, own in streams.items():
                readers = [number for number in part.passes if name in passes[number].reads]
                if not readers:
                    continue
                # A latent has as many channels as its velocity.
                together = own.latent.new_empty(len(readers), *own.latent.shape)
                if self._world.rank == part.ranks[0]:
                    torch.stack([made[number][name] for number in readers], out=together)
                self._world.all.broadcast(together, part.ranks[0])
                for number, velocity in zip(readers, together, strict=True):
                    made[number][name] = velocity


def _tokens(video: StreamInput | None, audio: StreamInput | None) -> tuple[int, int]:
    """Of both streams, 0 for an absent one."""
    counts = []
    for own in (video, audio):
        counts.append(0 if own is None else own.latent.shape[1])
    return counts[0], counts[1]


def _own_tokens(cut: Cut, name: str, own: StreamInput) -> StreamInput:
    """This rank's tokens of a stream."""
    if not cut.count(name):
        return own
    timesteps, index = own.timesteps, own.index
    if index is not None:
        index = cut.take(name, index, dim=0)
    elif timesteps.shape[1] > 1:  # a timestep for each token
        timesteps = cut.take(name, timesteps)
    return replace(own, latent=cut.take(name, own.latent), timesteps=timesteps, index=index)


def _own_rows(cut: Cut, name: str, table: StreamTables) -> StreamTables:
    """This rank's rotary rows, by the tokens' place in the whole stream. A mask stays whole: attention sees it all."""
    if not cut.count(name):
        return table

    def own(rope: Rope) -> Rope:
        if isinstance(rope, RopeRows):
            return rope._replace(index=cut.take(name, rope.index, dim=2).contiguous())
        return cut.take(name, rope[0]), cut.take(name, rope[1])

    return replace(table, rope=own(table.rope), cross_rope=table.cross_rope and own(table.cross_rope))
