"""Gemma 3 a token at a time, over the modules of transformers: keys and values have fixed places (spec/03 §2).

transformers' own step grows its cache by a token, so that no two steps are alike, and launches some 60 small kernels
a layer. Here every step does the same work on the same memory, and is recorded as one CUDA graph. The question itself
is read by transformers; what its layers made of it is heard by hooks, whatever kind of cache the release has.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention
from torch.utils.hooks import RemovableHandle

from ...ops.record import Repeated

ALIGNED = 8  # places of the cache come in multiples of this: attention kernels read masks in such pieces
Heard = list[tuple[Tensor, Tensor]]
"""What the key and value projections of each layer made of a question, (1, n, key heads d) each."""


def steppable(gemma: nn.Module) -> bool:
    """Whether `Step` computes what the model does: no weights that come when a layer is called, and plain attention."""
    if any(layer._forward_pre_hooks for layer in gemma.layers):
        return False  # hooks behind a layer are there in transformers 5: they keep hidden states
    return not getattr(gemma.config, "attn_logit_softcapping", None)


@contextmanager
def heard(gemma: nn.Module) -> Iterator[Heard]:
    """While this holds, what the key and value projections make is kept; filled when a pass has ended."""
    parts: dict[tuple[int, str], Tensor] = {}

    def keep(module: nn.Module, key: tuple[int, str]) -> RemovableHandle:
        return module.register_forward_hook(lambda _module, _given, made: parts.__setitem__(key, made))

    handles = []
    for number, layer in enumerate(gemma.layers):
        handles.append(keep(layer.self_attn.k_proj, (number, "k_proj")))
        handles.append(keep(layer.self_attn.v_proj, (number, "v_proj")))
    found: Heard = []
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    for number in range(len(gemma.layers)):
        found.append((parts[number, "k_proj"], parts[number, "v_proj"]))


class Norm:
    """Gemma's RMS norm, in float32 and with 1 + weight, in few kernels."""

    def __init__(self, module: nn.Module, eps: float) -> None:
        self._weight, self._eps = 1 + module.weight.float(), eps

    def __call__(self, x: Tensor) -> Tensor:
        """(…, W) -> (…, W)."""
        return rms_norm(x.float(), self._weight.shape, self._weight, self._eps).to(x.dtype)


class HeadNorm:
    """The norms of queries and keys, as `Norm`, for both at once: a step is limited by how many kernels it launches."""

    def __init__(self, attention: nn.Module, eps: float) -> None:
        query, key = 1 + attention.q_norm.weight.float(), 1 + attention.k_norm.weight.float()
        heads = attention.q_proj.out_features // attention.head_dim
        self._eps, self.key_heads = eps, attention.k_proj.out_features // attention.head_dim
        self._weight = torch.cat((query.expand(heads, -1), key.expand(self.key_heads, -1)))

    def __call__(self, x: Tensor) -> Tensor:
        """(…, heads, d) -> the same: all query heads and then the key heads, or the key heads alone."""
        normed = rms_norm(x.float(), x.shape[-1:], None, self._eps)
        return (normed * self._weight[-x.shape[-2]:]).to(x.dtype)


def rotated(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions, halves of a head as pairs: x (1, N, heads, d), cos and signed sin (1, N, d) of `_tables`."""
    cos, sin = table[0][:, :, None], table[1][:, :, None]  # (1, N, 1, d): the same for all heads
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def _in_places(x: Tensor, places: int) -> Tensor:
    """(1, n, heads, d) in memory for so many tokens: (1, heads, places, d), 0 behind the n."""
    _, length, heads, width = x.shape
    memory = x.new_zeros(1, heads, places, width)
    memory[:, :, :length] = x.transpose(1, 2)
    return memory


class LayerStep:
    """One layer, with the keys and values of everything so far.

    Args:
        layer: of transformers' model.
        heard: keys and values of the question, as its projections gave them.
        table: of `_tables`, for all positions that there may be, (1, L, d).
        eps: of the norms.
    """

    def __init__(self, layer: nn.Module, heard: tuple[Tensor, Tensor], table: tuple[Tensor, Tensor],
                 eps: float) -> None:
        self._layer, self._attention = layer, layer.self_attn
        self.sliding = bool(self._attention.is_sliding)
        self._before = Norm(layer.input_layernorm, eps)
        self._after = Norm(layer.post_attention_layernorm, eps)
        self._before_mlp = Norm(layer.pre_feedforward_layernorm, eps)
        self._after_mlp = Norm(layer.post_feedforward_layernorm, eps)
        self._head_norm = HeadNorm(self._attention, eps)
        key, value = self._heads(heard[0]), self._heads(heard[1])
        length, places = key.shape[1], table[0].shape[1]
        key = rotated(self._head_norm(key), (table[0][:, :length], table[1][:, :length]))
        self._keys = _in_places(key, places)
        self._values = _in_places(value, places)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self._attention.head_dim))

    def __call__(self, x: Tensor, place: Tensor, table: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        """The new token's row.

        Args:
            x: (1, 1, W).
            place: int64 (1,), where the token's keys and values go.
            table: cos and sin of its position, (1, 1, d).
            bias: (1, 1, 1, L), which places it sees.
        """
        x = x + self._after(self._attended(self._before(x), place, table, bias))
        return x + self._after_mlp(self._layer.mlp(self._before_mlp(x)))

    def _attended(self, x: Tensor, place: Tensor, table: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        part = self._attention
        both = self._heads(torch.cat((part.q_proj(x), part.k_proj(x)), dim=-1))
        query, key = rotated(self._head_norm(both), table).tensor_split([-self._head_norm.key_heads], dim=2)
        self._keys.index_copy_(2, place, key.transpose(1, 2))
        self._values.index_copy_(2, place, self._heads(part.v_proj(x)).transpose(1, 2))
        shared = query.reshape(1, self._keys.shape[1], -1, part.head_dim)  # the queries of one key head as its rows
        made = scaled_dot_product_attention(shared, self._keys, self._values, bias, scale=part.scaling)
        return part.o_proj(made.reshape(1, 1, -1))


class Step:
    """The language model's pass over one new token.

    Args:
        gemma: `gemma.build_gemma`'s, with weights, all of them where it runs (`steppable`).
        heard: of the question.
        most: tokens that may follow.
        check: called before every layer on a CPU, where a token may take seconds.
    """

    def __init__(self, gemma: nn.Module, heard: Heard, most: int, check: Callable[[], None] | None = None) -> None:
        config, length = gemma.config, heard[0][0].shape[1]
        places = -(-(length + most) // ALIGNED) * ALIGNED
        self._device = heard[0][0].device
        self._check = check if self._device.type == "cpu" else None
        self._window = config.sliding_window
        self._tables = _tables(gemma, heard[0][0], places)
        self._layers = []
        for layer, own in zip(gemma.layers, heard, strict=True):
            table = self._tables[bool(layer.self_attn.is_sliding)]
            self._layers.append(LayerStep(layer, own, table, config.rms_norm_eps))
        self._norm, self._embed = Norm(gemma.norm, config.rms_norm_eps), gemma.embed_tokens
        self._all = torch.arange(places, device=self._device)
        self._place = torch.full((1,), length, device=self._device)
        self._x = torch.empty(1, 1, config.hidden_size, dtype=heard[0][0].dtype, device=self._device)
        self._work = Repeated(self._run, self._device)

    def __call__(self, token: Tensor) -> Tensor:
        """The normed row (1, 1, W) of the next token (1, 1), which the next call writes over."""
        self._x.copy_(self._embed(token))
        made = self._work()
        self._place += 1
        return made

    def _run(self) -> Tensor:
        place = self._place
        seen = self._all <= place
        biases = self._bias(seen), self._bias(seen & (self._all > place - self._window))
        tables = [(cos.index_select(1, place), sin.index_select(1, place)) for cos, sin in self._tables]
        x = self._x
        for layer in self._layers:
            if self._check is not None:
                self._check()
            x = layer(x, place, tables[layer.sliding], biases[layer.sliding])
        return self._norm(x)

    def _bias(self, seen: Tensor) -> Tensor:
        """bool (L,) as what is added to scores: (1, 1, 1, L), 0 or -inf."""
        bias = torch.zeros(seen.shape, dtype=self._x.dtype, device=self._device)
        return bias.masked_fill_(~seen, -torch.inf)[None, None, None]


def _tables(gemma: nn.Module, like: Tensor, places: int) -> list[tuple[Tensor, Tensor]]:
    """cos and sin (1, places, d) for layers that see everything, and for those with a window.

    The first half of the sines is negative: a head's halves then change places without a kernel for the sign.
    """
    tables = []
    for cos, sin in _angles(gemma, like, torch.arange(places, device=like.device)[None]):
        first, second = sin.chunk(2, dim=-1)
        tables.append((cos, torch.cat((-first, second), dim=-1)))
    return tables


def _angles(gemma: nn.Module, like: Tensor, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
    """cos and sin as transformers has them."""
    if hasattr(gemma, "rotary_emb_local"):  # transformers 4
        return [gemma.rotary_emb(like, positions), gemma.rotary_emb_local(like, positions)]
    kinds = {kind: gemma.rotary_emb(like, positions, kind) for kind in set(gemma.config.layer_types)}
    some = next(iter(kinds.values()))  # no layer asks for a kind that no layer has
    return [kinds.get("full_attention", some), kinds.get("sliding_attention", some)]
