"""Modules whose weight stays quantised on the device, in the form of its file, and becomes numbers when it is used.

A `QuantLinear` takes the place of an `nn.Linear` before loading; names stay: a manifest entry is still a parameter, and
the parts of a weight (scales) stand beside it. LoRAs change the numbers each time: (dequantise, fuse) per use gives
bit for bit what fusing into a dequantised copy would give, for every kind of update. Adding B (A x) to the output
instead would round otherwise, could not do DoRA or LoKr, and costs as much from some two thousand tokens on.

Where several passes use a layer in turn, its numbers are made once and held meanwhile (`QuantWeight.hold`).
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..lora.apply import apply
from ..lora.layers import ChangedLayer
from ..memory.pieces import aligned
from ..ops.codes import Coded, codes_of
from ..ops.matmul import linears
from ..overlay.bytes.source import AnyRef, QuantRef
from ..overlay.packed.sizes import as_quantised, kept_parts, stays_quantised
from ..weights.dequant import dequantise
from ..weights.reader import TORCH_DTYPES

ROWS_AT_ONCE = 1 << 14  # of an embedding as a head: 126 MB of Gemma 12B in bfloat16


class QuantWeight(ChangedLayer):
    """A quantised matrix: buffer ``weight`` and its other parts, as the file has them.

    Attributes:
        direct: of a `QuantLinear`, see there.

    Args:
        ref: the weight in its file; nothing of it is read.
        dtype: of the numbers when they are used.
    """

    direct = False

    def __init__(self, ref: QuantRef, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape, self.format, self.dtype = ref.shape, ref.format, dtype
        self.parameters = dict(ref.parameters)
        self.part_names, self._held, self._holds = tuple(kept_parts(ref)), None, False
        self.product: OneProduct | None = None  # whose numbers lie behind its own
        self._room: NumbersRoom | None = None
        for name, part in kept_parts(ref).items():
            self.register_buffer(name, torch.empty(part.shape, dtype=TORCH_DTYPES[part.dtype], device="meta"))

    def is_for(self, ref: QuantRef, dtype: torch.dtype) -> bool:
        """Whether this was made for such a weight."""
        if (self.format, self.shape, self.dtype) != (ref.format, ref.shape, dtype):
            return False
        parts = kept_parts(ref)
        if self.parameters != dict(ref.parameters) or set(self.part_names) != parts.keys():
            return False
        for name, part in parts.items():
            mine = getattr(self, name)
            if tuple(mine.shape) != part.shape or mine.dtype != TORCH_DTYPES[part.dtype]:
                return False
        return True

    def numbers(self) -> Tensor:
        """The weight, (rows, columns), with its LoRAs."""
        if self._held is not None:
            return self._held
        parts = {name: getattr(self, name) for name in self.part_names}
        out = None
        if self._holds and self.product is not None:
            out = self.product.place(self)
        elif self._holds and self._room is not None:
            out = self._room.take(*self.shape)
        weight = dequantise(self.format, parts, self.parameters, self.shape, self.dtype, out)
        changes = [change for change in self.changes() if change.strength]
        if changes:
            weight = apply(weight, changes)
        if self._holds:
            self._held = weight
        return weight

    def per_row(self, with_loras: bool = False) -> tuple[Tensor, Tensor] | None:
        """Codes (rows, columns) in fp8 or int8 and scales (rows,) in float32, if those are the whole weight.

        Then W = codes.float() · scales[:, None], and a product can be made with the codes. None: other formats, rotated
        rows, a scale for each square, or LoRAs that change the numbers now.

        Args:
            with_loras: also where LoRAs change the numbers, if all of them can be added to a product (`with_loras`).
        """
        if self.format not in ("fp8", "int8") or self.parameters.get("rotated"):
            return None
        for change, _ in self._changes:
            if change.strength and not (with_loras and change.plain):
                return None
        rows = self.shape[0]
        scale = getattr(self, "weight_scale", None)
        if scale is None:
            return self.weight, self.weight.new_ones(rows, dtype=torch.float32)
        if scale.numel() not in (1, rows):
            return None
        return self.weight, scale.float().reshape(-1).expand(rows)

    def with_loras(self, x: Tensor, y: Tensor) -> Tensor:
        """y = W x + b of the codes, with its LoRAs (`lora.layers.LoraLinear.added`): y + Σ strength scale B (A x)."""
        for number, (change, _) in enumerate(self._changes):
            if change.strength:
                low = functional.linear(x, getattr(self, f"lora_{number}_a"))
                y = y + functional.linear(low, getattr(self, f"lora_{number}_b")) * (change.strength * change.scale)
        return y

    @property
    def makes_numbers(self) -> bool:
        """Whether a product with it needs the numbers, now."""
        return not self.direct or self.per_row(with_loras=True) is None

    def hold(self, on: bool, room: NumbersRoom | None = None) -> None:
        """From now on keep the numbers that are made, in a room if there is one, until this is called with False."""
        self._held, self._holds, self._room = None, on, room
        if self.product is not None:
            self.product.hold(on, room)

    def rows(self, at: Tensor | slice) -> Tensor:
        """Numbers of some rows, (n, columns), without LoRAs: the formats of `packed.sizes.BY_ROW`."""
        parts = {"weight": self.weight[at]}
        scale = getattr(self, "weight_scale", None)
        if scale is not None and scale.numel() != 1:
            scale = scale.reshape(-1)[at]
        if scale is not None:
            parts["weight_scale"] = scale
        shape = len(parts["weight"]), self.shape[1]
        return dequantise(self.format, parts, self.parameters, shape, self.dtype)


class NumbersRoom:
    """One piece of memory for the numbers of a block at a time: none of the activations' pieces is cut for them.

    Args:
        blocks: those layers of each block whose numbers are held, of one dtype.
        device: where they are made.
    """

    def __init__(self, blocks: Sequence[Sequence[QuantWeight]], device: torch.device) -> None:
        self._size, self._at, self._device = 0, 0, device
        self._memory: Tensor | None = None
        self._dtype = torch.bfloat16
        for layers in blocks:
            size, products = 0, set()
            for layer in layers:
                rows, self._dtype = layer.shape[0], layer.dtype
                if layer.product is not None:
                    rows = 0 if layer.product in products else layer.product.count
                    products.add(layer.product)
                size += aligned(rows * layer.shape[1] * layer.dtype.itemsize)
            self._size = max(self._size, size)

    def open(self) -> None:
        """Take the memory, for a forward."""
        if self._size and self._memory is None:
            self._memory = torch.empty(self._size, dtype=torch.uint8, device=self._device)

    def clear(self) -> None:
        """What was taken may be written over: another block begins."""
        self._at = 0

    def close(self) -> None:
        """Let the memory go."""
        self._memory, self._at = None, 0

    def take(self, rows: int, columns: int) -> Tensor | None:
        """(rows, columns) of it; None where it is not open, or full."""
        size = rows * columns * self._dtype.itemsize
        start, end = self._at, self._at + size
        if self._memory is None or end > self._size:
            return None
        self._at = start + aligned(size)
        return self._memory[start:end].view(self._dtype).view(rows, columns)


class OneProduct:
    """Where the numbers of layers that take the same input lie behind each other, so that they are copied once at most.

    Attributes:
        count: rows of all.

    Args:
        layers: in the order of `ops.matmul`; quantised, or plain beside such (gate logits), all of one width.
        dtype: of the numbers.
    """

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> None:
        self._rows: dict[int, slice] = {}
        self.count, self._dtype = 0, dtype
        for layer in layers:
            start, self.count = self.count, self.count + layer.out_features
            self._rows[id(layer)] = slice(start, self.count)
        self._all: Tensor | None = None
        self._copied: set[int] = set()
        self._holds = False
        self._room: NumbersRoom | None = None

    def place(self, layer: nn.Module) -> Tensor:
        """The part of a layer, (rows, columns)."""
        if self._all is None and self._room is not None:
            self._all = self._room.take(self.count, layer.in_features)
        if self._all is None:
            shape = self.count, layer.in_features
            self._all = torch.empty(shape, dtype=self._dtype, device=layer.weight.device)
        return self._all[self._rows[id(layer)]]

    def beside(self, layer: nn.Linear) -> Tensor:
        """The weight of a plain layer, in its part while the numbers of the others are held."""
        if not self._holds or layer.weight.dtype != self._dtype:
            return layer.weight
        place = self.place(layer)
        if id(layer) not in self._copied:
            place.copy_(layer.weight)
            self._copied.add(id(layer))
        return place

    def hold(self, on: bool, room: NumbersRoom | None = None) -> None:
        """Keep what is put there until this is called again."""
        self._all, self._holds, self._room = None, on, room
        self._copied.clear()


def multiply_codes(blocks: nn.Module, on: bool) -> int:
    """Let the quantised linears of some blocks multiply codes, or their numbers again; how many there are."""
    count = 0
    for layer in blocks.modules():
        if isinstance(layer, QuantLinear):
            layer.direct = on
            count += 1
    return count


def coded_groups(module: nn.Module, refs: Mapping[str, AnyRef]) -> list[list[str]]:
    """Groups of weights with a scale for each row that `ops.matmul` takes in one product, by name, in its order.

    Where their codes lie behind each other, and their scales, such a product needs no copy.
    """
    groups = []
    for path, part in module.named_modules():
        for layers in getattr(part, "together", ()):
            names = []
            for layer in layers:
                name = ".".join(filter(None, (path, layer, "weight")))
                if name in refs and has_rows(refs[name]):
                    names.append(name)
            if len(names) > 1:
                groups.append(names)
    return groups


def has_rows(stored: AnyRef) -> bool:
    """Whether a weight is codes of 8 bits with a scale for each row, (rows, 1)."""
    ref = as_quantised(stored)
    if ref is None or ref.format not in ("fp8", "int8") or ref.parameters.get("rotated"):
        return False
    return "weight_scale" in ref.parts and ref.parts["weight_scale"].shape == (ref.shape[0], 1)


def join_products(parts: Iterable[nn.Module]) -> None:
    """Let those layers of a block, given as all its modules, share memory that `ops.matmul` takes in one product."""
    for part in parts:
        for names in getattr(part, "together", ()):
            layers = list(map(part.get_submodule, names))
            dtype = _dtype_of(layers)
            if dtype is None:
                continue
            product = OneProduct(layers, dtype)
            for layer in layers:
                layer.product = product


def _dtype_of(layers: Sequence[nn.Module]) -> torch.dtype | None:
    """The dtype of the numbers of the quantised ones among some layers; None: there are none, or it is not one."""
    dtypes = set()
    for layer in layers:
        if isinstance(layer, QuantLinear):
            dtypes.add(layer.dtype)
    if len(dtypes) != 1:
        return None
    return dtypes.pop()


class QuantLinear(QuantWeight):
    """`nn.Linear` with such a weight; the bias is an ordinary parameter.

    Attributes:
        direct: multiply 8-bit codes of the input with those of the weight (`ops.codes`), where it has a scale for each
            row or one; lossy, by choice alone (`replace_layers`). LoRAs that are plain pairs are added to the product.
    """

    def __init__(self, linear: nn.Linear | QuantLinear, ref: QuantRef, dtype: torch.dtype) -> None:
        super().__init__(ref, dtype)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias

    def forward(self, x: Tensor | Coded) -> Tensor:
        """As `nn.Linear`."""
        if codes_of((self,)) is None:
            return functional.linear(x, self.numbers(), self.bias)
        [made] = linears(x, (self,))
        return made


class QuantEmbedding(QuantWeight):
    """`nn.Embedding` (or Gemma's, which scales) with such a weight: only the rows that are asked for become numbers."""

    def __init__(self, embedding: nn.Embedding | QuantEmbedding, ref: QuantRef, dtype: torch.dtype) -> None:
        super().__init__(ref, dtype)
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        scale = getattr(embedding, "embed_scale", None)  # transformers 4.50: a number; later: a buffer
        if scale is not None:
            scale = torch.empty((), device="meta")
        self.register_buffer("embed_scale", scale, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """As `nn.Embedding`."""
        rows = self.rows(ids.flatten()).unflatten(0, ids.shape)
        if self.embed_scale is None:
            return rows
        return rows * self.embed_scale.to(self.dtype)

    def scores(self, x: Tensor) -> Tensor:
        """x (..., columns) times every row, (..., rows): what a tied head gives.

        A piece of the table at a time: Gemma's as numbers would be 2 GB.
        """
        made = []
        for start in range(0, self.num_embeddings, ROWS_AT_ONCE):
            rows = self.rows(slice(start, start + ROWS_AT_ONCE))
            made.append(functional.linear(x, rows))
        return torch.cat(made, dim=-1)


def replace_layers(module: nn.Module, refs: Mapping[str, AnyRef], dtype: torch.dtype) -> set[str]:
    """Put quantised layers where the overlay has quantised weights; those that are in place stay.

    Args:
        module: on the meta device; ``codes_inside``: where its layers multiply codes (`QuantLinear.direct`).
        refs: its tensors in the overlay.
        dtype: of the numbers.

    Returns:
        the names of the tensors that stay quantised.
    """
    kept, inside = set(), getattr(module, "codes_inside", None)
    for name, ref in refs.items():
        if not stays_quantised(name, ref):
            continue
        path, _, last = name.removesuffix(".weight").rpartition(".")
        parent, quantised = module.get_submodule(path), as_quantised(ref)
        layer = getattr(parent, last)
        if not isinstance(layer, QuantWeight) or not layer.is_for(quantised, dtype):
            layer = _quantised(layer, quantised, dtype).eval()
            layer.direct = inside is not None and name.startswith(inside)
            setattr(parent, last, layer)
        kept.add(name)
    return kept


def _quantised(layer: nn.Module, ref: QuantRef, dtype: torch.dtype) -> QuantWeight:
    """What takes a layer's place."""
    if isinstance(layer, nn.Linear | QuantLinear):
        return QuantLinear(layer, ref, dtype)
    return QuantEmbedding(layer, ref, dtype)


def logical_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a module's tensors, of quantised ones as numbers and without their scales."""
    shapes = {}
    for name, value in module.state_dict().items():
        shapes[name] = tuple(value.shape)
    for path, layer in module.named_modules():
        if isinstance(layer, QuantWeight):
            for part in layer.part_names:
                del shapes[f"{path}.{part}"]
            shapes[f"{path}.weight"] = layer.shape
    return shapes
