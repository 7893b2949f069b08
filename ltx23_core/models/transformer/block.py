"""One dual-stream transformer block, stage by stage (spec/02 §7)."""
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...config import TransformerConfig
from ...ops.codes import Coded
from ...ops.modulate import Modulation, Update, add_norm_modulate, modulated
from ...ops.record import Beside
from ...ops.rope import Rope
from .attention import Attention, KeysValues
from .feed_forward import FeedForward
from .inputs import STREAMS, Pass
from .masked import Rows
from .rows import FEED, PROMPT, SELF, TEXT, TO_AUDIO, TO_VIDEO, BlockRows, StepRows


@dataclass(frozen=True)
class StreamStep:
    """What is one stream's at one sigma, in all blocks and passes.

    Attributes:
        rows: modulation of every block.
        rope: tables of the self attention; cross_rope: over time, None with one stream.
        index: int64 (N,), which of the U timesteps each token has; None where U is 1 or N.
        self_rows: what the self attention sees, or (): everything.
        enabled: False: the stream only serves as keys and values.
    """

    rows: StepRows
    rope: Rope
    cross_rope: Rope | None = None
    index: Tensor | None = None
    self_rows: tuple[Rows, ...] = ()
    enabled: bool = True


class State(NamedTuple):
    """One stream between two stages. The update waits for the next norm, which reads the sum anyway."""

    x: Tensor
    update: Update | None = None


States = dict[str, State]


@dataclass(frozen=True)
class BlockCall:
    """What a stage of a block is called with, beside the states.

    Attributes:
        number: of the block.
        steps: of each stream that is there.
        given: a pass; all that share the call have its key.
        wanted: streams whose new state is needed.
        keys_values: of the prompts, shared by the passes within a block: (stream, id of the context) -> what they gave.
        beside: a second stream of the device for the sound, which waits for the picture in the middle of a block alone.
    """

    number: int
    steps: dict[str, StreamStep]
    given: Pass
    wanted: frozenset[str] = frozenset(STREAMS)
    keys_values: dict[tuple[str, int], KeysValues] = field(default_factory=dict)
    beside: Beside | None = None

    def rows(self, name: str) -> BlockRows:
        """Modulation of a stream in this block; asked for when the block's weights are there."""
        return self.steps[name].rows[self.number]

    def stream_of(self, name: str) -> AbstractContextManager[object]:
        """Where the work on "video" or "audio" goes."""
        return nullcontext() if self.beside is None else self.beside.on(name == "audio")

    def moving(self, states: States) -> list[str]:
        """Streams that the stage updates."""
        return [name for name in states if name in self.wanted and self.steps[name].enabled]


class Parts(NamedTuple):
    """The modules and tables of one stream; ``tables``: own, prompt, cross-modal. ``cross`` reads the other stream."""

    self_attention: Attention
    text_attention: Attention
    cross: Attention
    feed_forward: FeedForward
    tables: tuple[Tensor, Tensor, Tensor]


class TransformerBlock(nn.Module):
    """Self attention, text attention, both cross-modal attentions, feed-forward; parameter names are official."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        video, audio, eps = config.video, config.audio, config.norm_eps
        self.eps = eps
        v, a = video.width, audio.width
        self.attn1 = Attention(v, v, video.heads, video.head_dim, eps)
        self.attn2 = Attention(v, v, video.heads, video.head_dim, eps)
        self.ff = FeedForward(v)
        self.audio_attn1 = Attention(a, a, audio.heads, audio.head_dim, eps)
        self.audio_attn2 = Attention(a, a, audio.heads, audio.head_dim, eps)
        self.audio_ff = FeedForward(a)
        self.audio_to_video_attn = Attention(v, a, audio.heads, audio.head_dim, eps)
        self.video_to_audio_attn = Attention(a, v, audio.heads, audio.head_dim, eps)
        for name, rows, width in (
            ("scale_shift_table", 9, v), ("audio_scale_shift_table", 9, a),
            ("prompt_scale_shift_table", 2, v), ("audio_prompt_scale_shift_table", 2, a),
            ("scale_shift_table_a2v_ca_video", 5, v), ("scale_shift_table_a2v_ca_audio", 5, a),
        ):
            self.register_parameter(name, nn.Parameter(torch.empty(rows, width)))

    def parts(self, stream: str) -> Parts:
        """Modules and tables of "video" or "audio"."""
        if stream == "video":
            return Parts(self.attn1, self.attn2, self.audio_to_video_attn, self.ff,
                         (self.scale_shift_table, self.prompt_scale_shift_table,
                          self.scale_shift_table_a2v_ca_video))
        return Parts(self.audio_attn1, self.audio_attn2, self.video_to_audio_attn, self.audio_ff,
                     (self.audio_scale_shift_table, self.audio_prompt_scale_shift_table,
                      self.scale_shift_table_a2v_ca_audio))

    def forward(self, stage: str, states: States, call: BlockCall) -> States:
        """Run one stage (`inputs.STAGES`) of one pass.

        Args:
            stage: which.
            states: hidden states of the streams that are there, (B, N, width) each, never changed in place. What the
                stage updates is taken out: nobody else may hold it while the stage needs memory.
            call: all else.

        Returns:
            The states of those streams that `BlockCall.wanted` names.
        """
        stages = {"self": self._self, "text": self._text, "cross": self._cross, "feed": self._feed}
        new = stages[stage](states, call)
        return {name: state for name, state in {**states, **new}.items() if name in call.wanted}

    def _normed(self, state: State, call: BlockCall, name: str,
                *wanted: Modulation) -> tuple[Tensor, list[Tensor | Coded]]:
        """A stream with its update, and its norm under some modulations."""
        return add_norm_modulate(state.x, state.update, wanted, call.steps[name].index, self.eps)

    def _self(self, states: States, call: BlockCall) -> States:
        new, skipped = {}, call.given.perturbation.skipped(call.number)
        for name in call.moving(states):
            step, rows = call.steps[name], call.rows(name).own[SELF]
            attention = self.parts(name).self_attention
            codes = attention.codes(context=False)
            with call.stream_of(name):
                x, [normed] = self._normed(states.pop(name), call, name, rows._replace(codes=codes))
                attended = attention(normed, rope=step.rope, rows=step.self_rows, skip=name in skipped)
            new[name] = State(x, Update(attended, rows.gate))
        return new

    def _text(self, states: States, call: BlockCall) -> States:
        new = {}
        for name in call.moving(states):
            with call.stream_of(name):
                new[name] = self._texted(name, states, call)
        return new

    def _texted(self, name: str, states: States, call: BlockCall) -> State:
        attention, rows = self.parts(name).text_attention, call.rows(name).own[TEXT]
        codes = attention.codes(context=False)
        x, [query] = self._normed(states.pop(name), call, name, rows._replace(codes=codes))
        nag = call.given.nag_of(name)
        pushed = nag and (nag.nag, self._prompt(name, nag.context, call))
        attended = attention(query, bias=call.given.text_bias, nag=pushed,
                             keys_values=self._prompt(name, call.given.context(name), call))
        return State(x, Update(attended, rows.gate))

    def _prompt(self, name: str, context: Tensor, call: BlockCall) -> KeysValues:
        """Keys and values of a prompt, computed once a block for all passes."""
        key = name, id(context)
        if key not in call.keys_values:
            attention = self.parts(name).text_attention
            rows = call.rows(name).prompt[PROMPT]._replace(codes=attention.codes(context=True))
            call.keys_values[key] = attention.keys_values(modulated(context, rows))
        return call.keys_values[key]

    def _cross(self, states: States, call: BlockCall) -> States:
        """Both cross-modal attentions; each reads the state before either was added."""
        moving = call.moving(states)
        if len(states) < len(STREAMS) or call.given.perturbation.cross or not moving:
            return {}
        if call.beside is not None:
            call.beside.join(last=False)
        held, seen = self._seen(states, moving, call)
        if call.beside is not None:
            call.beside.keep(seen["video"])
            call.beside.keep(held["audio"], seen["audio"], longer=True)
            call.beside.fork()
        new = {name: State(x) for name, x in held.items()}
        for name, other in (STREAMS, STREAMS[::-1]):
            if name in moving:
                ropes = call.steps[name].cross_rope, call.steps[other].cross_rope
                with call.stream_of(name):
                    attended = self.parts(name).cross(seen[name][name], seen[other][name], *ropes)
                new[name] = State(held[name], Update(attended, call.rows(name).gate))
        return new

    def _seen(self, states: States, moving: list[str],
              call: BlockCall) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor | Coded]]]:
        """The streams with their updates, and what of each the cross-modal attention of each moving one takes."""
        directions = {"video": TO_VIDEO, "audio": TO_AUDIO}
        held, seen = {}, {}
        for name in list(states):
            wanted: list[Modulation] = []
            for target in moving:
                codes = self.parts(target).cross.codes(context=target != name)
                wanted.append(call.rows(name).cross[directions[target]]._replace(codes=codes))
            held[name], made = self._normed(states.pop(name), call, name, *wanted)
            seen[name] = dict(zip(moving, made, strict=True))
        return held, seen

    def _feed(self, states: States, call: BlockCall) -> States:
        new = {}
        for name in call.moving(states):
            rows, feed = call.rows(name).own[FEED], self.parts(name).feed_forward
            with call.stream_of(name):
                x, [normed] = self._normed(states.pop(name), call, name, rows._replace(codes=feed.codes))
                new[name] = State(x, Update(feed(normed), rows.gate))
        return new
