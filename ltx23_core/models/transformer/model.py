"""The dual-stream transformer: velocities of video and audio latents for all guidance passes at one sigma (spec/02)."""
from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from ...config import StreamConfig, TransformerConfig
from ...memory.pieces import forward_pieces
from ...ops.attention import AttentionFunction
from ...ops.modulate import add_norm_modulate, per_token
from ...ops.pick import chosen, kernels, way
from ...ops.record import Beside, set_aside
from ...ops.rope import rope_rows, rope_tables
from .adaln import AdaLayerNormSingle
from .attention import Attention, KeysValues
from .block import BlockCall, State, States, StreamStep, TransformerBlock
from .graphs import MOST_TOKENS, Graphs, room, wanted
from .inputs import STAGES, STREAMS, Hidden, Pass, Span, StreamInput, StreamTables
from .masked import Rows
from .rows import Coefficients, StepRows

Velocities = tuple["Tensor | None", "Tensor | None"]
BLOCKS = "transformer_blocks."  # what the names of parameters of blocks begin with


class StreamModules(NamedTuple):
    """What the model has once for each stream."""

    patchify: nn.Linear
    adaln: AdaLayerNormSingle
    prompt: AdaLayerNormSingle
    cross: AdaLayerNormSingle
    gate: AdaLayerNormSingle
    table: Tensor
    project: nn.Linear


class Prepared(NamedTuple):
    """One stream at one sigma: for the blocks, and the embedding that the output head needs."""

    step: StreamStep
    embedding: Tensor


class Branch(NamedTuple):
    """Passes whose hidden states are equal so far."""

    members: list[int]
    states: States


class Transformer(nn.Module):
    """LTX-2.3 transformer; parameter names are the official ones.

    Attributes:
        codes_inside: what the names of those layers begin with that multiply 8-bit codes where they are quantised
            (`quant.layers.replace_layers`); None: none does.
    """

    codes_inside: str | None = None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.graphs = Graphs()
        video, audio = config.video.width, config.audio.width
        self.patchify_proj = nn.Linear(config.video.in_channels, video)
        self.audio_patchify_proj = nn.Linear(config.audio.in_channels, audio)
        self.adaln_single = AdaLayerNormSingle(video, 9)
        self.audio_adaln_single = AdaLayerNormSingle(audio, 9)
        self.prompt_adaln_single = AdaLayerNormSingle(video, 2)
        self.audio_prompt_adaln_single = AdaLayerNormSingle(audio, 2)
        self.av_ca_video_scale_shift_adaln_single = AdaLayerNormSingle(video, 4)
        self.av_ca_audio_scale_shift_adaln_single = AdaLayerNormSingle(audio, 4)
        self.av_ca_a2v_gate_adaln_single = AdaLayerNormSingle(video, 1)
        self.av_ca_v2a_gate_adaln_single = AdaLayerNormSingle(audio, 1)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.layers))
        self.scale_shift_table = nn.Parameter(torch.empty(2, video))
        self.audio_scale_shift_table = nn.Parameter(torch.empty(2, audio))
        self.proj_out = nn.Linear(video, config.video.out_channels)
        self.audio_proj_out = nn.Linear(audio, config.audio.out_channels)

    def set_attention(self, function: AttentionFunction) -> None:
        """Use one attention function (see `ops.attention.attention_backend`) in every attention."""
        for part in self.modules():
            if isinstance(part, Attention):
                part.attend = function

    def tables(self, video_positions: Tensor | None, audio_positions: Tensor | None, dtype: torch.dtype,
               video_rows: tuple[Rows, ...] = ()) -> tuple[StreamTables | None, StreamTables | None]:
        """What is constant over a run: rotary tables and what the self attention sees.

        Args:
            video_positions: float32 (B, 3, Nv, 2) [start, end) in seconds and pixels, or None.
            audio_positions: float32 (B, 1, Na, 2) in seconds, or None.
            dtype: dtype of the tables (the activations').
            video_rows: a mask of the video self attention, or (): everything is seen.
        """
        config = self.config

        def stream(positions: Tensor | None, shape: StreamConfig,
                   rows: tuple[Rows, ...]) -> StreamTables | None:
            if positions is None:
                return None
            middles = positions.float().mean(dim=-1)
            made = rope_rows if kernels("norms", middles) is not None else rope_tables  # which only kernels read
            own = made(middles, shape.width, shape.max_pos, config.rope_theta, dtype)
            cross = made(middles[:, :1], config.audio.width, config.cross_max_pos, config.rope_theta, dtype)
            return StreamTables(own, cross, rows)

        return stream(video_positions, config.video, video_rows), stream(audio_positions, config.audio, ())

    def _stream(self, stream: str) -> StreamModules:
        if stream == "video":
            return StreamModules(self.patchify_proj, self.adaln_single, self.prompt_adaln_single,
                                 self.av_ca_video_scale_shift_adaln_single, self.av_ca_a2v_gate_adaln_single,
                                 self.scale_shift_table, self.proj_out)
        return StreamModules(self.audio_patchify_proj, self.audio_adaln_single, self.audio_prompt_adaln_single,
                             self.av_ca_audio_scale_shift_adaln_single, self.av_ca_v2a_gate_adaln_single,
                             self.audio_scale_shift_table, self.audio_proj_out)

    def _prepared(self, name: str, own: StreamInput, other: StreamInput | None,
                  table: StreamTables) -> Prepared:
        """AdaLN rows of one stream for all blocks and passes, and the embedding that the output head needs."""
        scale, modules = self.config.timestep_scale, self._stream(name)
        gate_scale = scale * (self.config.av_gate_timestep_scale / scale)
        rows, embedding = modules.adaln(own.timesteps * scale)
        prompt, _ = modules.prompt(own.sigma[:, None] * scale)
        cross = gate = None
        if other is not None:
            cross, _ = modules.cross(own.timesteps * scale)
            gate, _ = modules.gate(other.sigma[:, None] * gate_scale)
        every_block = StepRows(self.transformer_blocks, name, Coefficients(rows, prompt, cross, gate))
        step = StreamStep(every_block, table.rope, table.cross_rope, index=own.index,
                          self_rows=table.self_rows, enabled=own.enabled)
        return Prepared(step, embedding)

    def _head(self, name: str, state: State, given: Prepared) -> Tensor:
        """Velocity of one stream, (B, N, out channels)."""
        modules, index, eps = self._stream(name), given.step.index, self.config.norm_eps
        x, _ = add_norm_modulate(state.x, state.update, (), index, eps)
        table = modules.table.to(x.dtype)
        shift, scale = table[0] + given.embedding, table[1] + given.embedding  # both on the same embedding
        normed = layer_norm(x, x.shape[-1:], None, None, eps)
        return modules.project(torch.addcmul(per_token(shift, index), normed, per_token(1 + scale, index)))

    def forward(self, video: StreamInput | None, audio: StreamInput | None, passes: Sequence[Pass],
                tables: tuple[StreamTables | None, StreamTables | None], check: Callable[[], None] | None = None,
                span: Span | None = None) -> list[Velocities] | list[Hidden]:
        """Velocities of every guidance pass at one sigma.

        The passes run block by block (each weight is used by all of them before the next is needed). They stay
        together until a stage of a block treats them differently, and what none of them reads is not computed: both
        exact (spec/08 §2). So the STG pass costs only the blocks from the perturbed one on, and the first self
        attention of all passes is one.

        Args:
            video, audio: the streams, or None where absent.
            passes: guidance passes.
            tables: of `tables`.
            check: called once a block and branch; may raise to interrupt.
            span: some of the blocks; None: all of them. The same bytes, wherever it is cut.

        Returns:
            Per pass (video velocity (B, Nv, out channels), audio velocity (B, Na, out channels)); None for a stream
            that is absent or that no pass of its branch reads. Of a span that ends before the last block the states.
        """
        latent = (video or audio).latent
        given = video, audio, list(passes), tuple(tables), span
        if wanted(latent, self.proj_out.bias):
            forms = chosen(), self.transformer_blocks[0].attn1.attend
            made = self.graphs.run(self, given, forms, room(latent, self.config.video.width), check)
            if made is not None:
                return made
        beside = self._beside(video, audio)
        work = self.pieces(*given, check=check, beside=beside)
        try:
            while True:
                next(work)
        except StopIteration as end:
            return end.value
        finally:
            if beside is not None:
                beside.settle()

    def _beside(self, video: StreamInput | None, audio: StreamInput | None) -> Beside | None:
        """A second stream of the device for a forward that is not recorded, where its kernels take longer than their
        launches. Weights that come and go with the blocks come on the first one."""
        if way("sound") != "always" or video is None or audio is None or not video.latent.is_cuda:
            return None
        few = video.latent.shape[0] * video.latent.shape[1] <= MOST_TOKENS
        if few or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        if any(block._forward_pre_hooks for block in self.transformer_blocks):
            return None
        return Beside(video.latent.device)

    def pieces(self, video: StreamInput | None, audio: StreamInput | None, passes: Sequence[Pass],
               tables: tuple[StreamTables | None, StreamTables | None], span: Span | None = None,
               check: Callable[[], None] | None = None,
               beside: Beside | None = None) -> Generator[None, None, list[Velocities] | list[Hidden]]:
        """The work of `forward`, which may be cut after every block (`graphs`).

        ``beside``: a second stream of the device for the sound. It gains where nothing waits for the host.
        """
        if video is not None:
            self._set_aside(video.latent, passes)
        given, steps = {}, {}
        for name, own, other, constant in zip(STREAMS, (video, audio), (audio, video), tables, strict=True):
            if own is not None:
                given[name] = self._prepared(name, own, other, constant)
                steps[name] = given[name].step
        layers = len(self.transformer_blocks)
        span = span or Span(0, layers)
        branches = self._beginning(video, audio, len(passes), span)
        for number in range(span.first, span.last):
            if beside is not None:
                _part(beside, number, steps, branches)
            branches = self._block(number, branches, steps, passes, check, beside)
            if beside is not None:
                beside.join()
            yield
        if span.last < layers:
            return self._hidden(branches, steps, len(passes))
        return self._velocities(branches, given, len(passes))

    def _set_aside(self, latent: Tensor, passes: Sequence[Pass]) -> None:
        """Have memory in pieces that fit what a forward makes (`memory.pieces.forward_pieces`)."""
        if kernels("norms", latent) is None:
            return  # the torch forms make other tensors
        kept, pushed = -1, False
        for each in passes:
            kept += "video" in each.needs(True)
            pushed = pushed or each.nag_of("video") is not None
        shape = self.config.video
        set_aside(latent.device, forward_pieces(*latent.shape[:2], shape.width, shape.heads, latent.element_size(),
                                                max(kept, 0), pushed))

    def _beginning(self, video: StreamInput | None, audio: StreamInput | None, count: int, span: Span) -> list[Branch]:
        """The passes before the first block of a span."""
        if not span.states:
            return [Branch(list(range(count)), self._first_states(video, audio))]
        found: dict[tuple[int, int], Branch] = {}
        for member, (own, other) in enumerate(span.states):
            states = {name: State(x) for name, x in zip(STREAMS, (own, other), strict=True) if x is not None}
            found.setdefault((id(own), id(other)), Branch([], states)).members.append(member)
        return list(found.values())

    def _first_states(self, video: StreamInput | None, audio: StreamInput | None) -> States:
        states = {}
        for name, own in zip(STREAMS, (video, audio), strict=True):
            if own is not None:
                # One layout whoever made the latent: a product over a transposed view rounds otherwise.
                states[name] = State(self._stream(name).patchify(own.latent.contiguous()))
        return states

    def _block(self, number: int, branches: list[Branch], steps: dict[str, StreamStep], passes: Sequence[Pass],
               check: Callable[[], None] | None, beside: Beside | None) -> list[Branch]:
        """One block of all passes, stage by stage; branches fork where a stage treats their passes differently.

        Takes the branches out of the list that it is given: the caller must not keep them alive.
        """
        block, last = self.transformer_blocks[number], number == len(self.transformer_blocks) - 1
        shared: dict[tuple[str, int], KeysValues] = {}
        for stage in STAGES:
            ahead = not last or STAGES.index(stage) < STAGES.index("cross")
            forked = []
            # Each is let go as soon as it is done: its memory is what the next one's results need.
            while branches:
                members, states = branches.pop(0)
                groups = _groups(members, passes, number, stage)
                while groups:
                    members = groups.pop(0)
                    own = dict(states) if groups else states  # of which the block takes what it updates
                    if check is not None and stage == STAGES[-1]:
                        check()
                    wanted = frozenset().union(*(passes[member].needs(ahead) for member in members))
                    call = BlockCall(number, steps, passes[members[0]], wanted, shared, beside)
                    forked.append(Branch(members, block(stage, own, call)))
                del states, own
            branches = forked
        return branches

    def _hidden(self, branches: list[Branch], steps: dict[str, StreamStep], count: int) -> list[Hidden]:
        """Of each pass its streams with what was to be added to them, as the next block's norm would make them."""
        results: list[Hidden] = [(None, None)] * count
        for members, states in branches:
            made = {}
            for name, state in states.items():
                made[name], _ = add_norm_modulate(state.x, state.update, (), steps[name].index, self.config.norm_eps)
            for member in members:
                results[member] = made.get("video"), made.get("audio")
        return results

    def _velocities(self, branches: list[Branch], given: dict[str, Prepared], count: int) -> list[Velocities]:
        results: list[Velocities] = [(None, None)] * count
        for members, states in branches:
            made = {}
            for name, state in states.items():
                made[name] = self._head(name, state, given[name])
            for member in members:
                results[member] = made.get("video"), made.get("audio")
        return results


def _part(beside: Beside, number: int, steps: dict[str, StreamStep], branches: Sequence[Branch]) -> None:
    """Let the second stream go on with a block, for which the first one has made all that both read."""
    for step in steps.values():
        step.rows[number]
    for branch in branches:
        beside.keep(branch.states.get("audio"), longer=True)
    beside.fork()


def _groups(members: Sequence[int], passes: Sequence[Pass], number: int, stage: str) -> list[list[int]]:
    """Members of a branch, by how a stage treats them."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for member in members:
        groups.setdefault(passes[member].key(number, stage), []).append(member)
    return list(groups.values())
