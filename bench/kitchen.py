"""Our fused operations beside those of the package comfy-kitchen: time, and relative L2 to the same numbers in float64.

    python -m bench kitchen [--tokens 6144,32640]

comfy-kitchen (ComfyUI brings it) has norm + modulate as `rms_adaln`, rotary positions as `apply_rope_split_half`, codes
as `quantize_per_tensor_fp8` and `quantize_int8_rowwise`. What else an operation of ours does is torch's beside it. Its
`rms_rope_split_half` norms each head by itself, this model all heads together, so that one cannot be used.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from ltx23_core.ops import pick
from ltx23_core.ops.codes import FP8, INT8, Coded, quantise
from ltx23_core.ops.modulate import Modulation, Update, add_norm_modulate
from ltx23_core.ops.norms import norm_rope_pair

from .measure import device_seconds, relative, seconds, table

PACKAGE = "comfy_kitchen"
WIDTH, HEADS, EPS = 4096, 32, 1e-6
HEAD = ("tokens", "what", "ours, ms", "kitchen, ms", "ours to float64", "kitchen to float64")


class Data(NamedTuple):
    """What the operations get: x, value (1, N, W), rows (1, 2, W) of two timesteps, tables of every token."""

    x: Tensor
    value: Tensor
    query: Tensor
    key: Tensor
    weight: Tensor
    shift: Tensor
    scale: Tensor
    gate: Tensor
    cos: Tensor
    sin: Tensor

    @classmethod
    def make(cls, tokens: int, device: torch.device, dtype: torch.dtype) -> Data:
        """The same random numbers at every call."""
        torch.manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, device=device).to(dtype)

        query, key, _ = random(1, tokens, 3 * WIDTH).chunk(3, dim=-1)  # as parts of a wider product
        angles = torch.rand(1, tokens, WIDTH // 2, device=device)
        scale = (1 + 0.1 * random(1, 2, WIDTH)) - 1  # so that 1 + scale is the same number in both precisions
        return cls(random(1, tokens, WIDTH), random(1, tokens, WIDTH), query, key, 1 + 0.1 * random(WIDTH),
                   random(1, 2, WIDTH), scale, random(1, 2, WIDTH), angles.cos().to(dtype), angles.sin().to(dtype))

    def wide(self) -> Data:
        """In float64."""
        return Data(*(each.double() for each in self))


def ours(data: Data) -> dict[str, Callable[[], object]]:
    """Our operations by name. That of queries and keys may write over them."""
    both = Modulation(data.shift, 1 + data.scale)
    one = Modulation(data.shift[:, :1], both.scale[:, :1])
    update, each = Update(data.value, data.gate[:, :1]), Update(data.value, data.gate)
    index = index_of(data)
    query, key, rope = (data.query, data.weight), (data.key, data.weight), (data.cos, data.sin)
    return {
        "norm, modulate": lambda: add_norm_modulate(data.x, None, [one], None, EPS)[1],
        "residual, norm, modulate": lambda: add_norm_modulate(data.x, update, [one], None, EPS),
        "the same, rows by index": lambda: add_norm_modulate(data.x, each, [both], index, EPS),
        "fp8 codes, a scale a row": lambda: quantise(data.x, FP8),
        "int8 codes, a scale a row": lambda: quantise(data.x, INT8),
        "q and k norm, RoPE": lambda: norm_rope_pair(query, key, rope, HEADS, EPS),
    }


def theirs(data: Data) -> dict[str, Callable[[], object]]:
    """The same with the package."""
    kitchen, index = import_module(PACKAGE), index_of(data)
    shift, scale, gate = (row[:, :1] for row in (data.shift, data.scale, data.gate))
    cos, sin = (half.unflatten(-1, (HEADS, -1)).transpose(1, 2).float() for half in (data.cos, data.sin))
    turns = torch.stack((cos, -sin, sin, cos), dim=-1).unflatten(-1, (2, 2))  # made once a run: not timed

    def by_index() -> tuple[Tensor, Tensor]:
        x = torch.addcmul(data.x, data.value, data.gate[:, index])
        return x, kitchen.rms_adaln(x, data.scale[:, index], data.shift[:, index], EPS)

    def residual() -> tuple[Tensor, Tensor]:
        x = torch.addcmul(data.x, data.value, gate)
        return x, kitchen.rms_adaln(x, scale, shift, EPS)

    def fp8() -> Coded:
        step = data.x.abs().amax().float() / 448
        return Coded(kitchen.quantize_per_tensor_fp8(data.x, step), step)

    def norm_rope() -> list[Tensor]:
        heads = [rms_norm(x, (WIDTH,), data.weight, EPS).unflatten(-1, (HEADS, -1)).transpose(1, 2)
                 for x in (data.query, data.key)]
        return [each.transpose(1, 2).flatten(2) for each in kitchen.apply_rope_split_half(*heads, turns)]

    return {
        "norm, modulate": lambda: kitchen.rms_adaln(data.x, scale, shift, EPS),
        "residual, norm, modulate": residual,
        "the same, rows by index": by_index,
        "fp8 codes, a scale a row": fp8,
        "int8 codes, a scale a row": lambda: Coded(*kitchen.quantize_int8_rowwise(data.x)),
        "q and k norm, RoPE": norm_rope,
    }


def index_of(data: Data) -> Tensor:
    """Which timestep each token has: the first eighth is held."""
    tokens = data.x.shape[1]
    return (torch.arange(tokens, device=data.x.device) > tokens // 8).long()


def flat(result: object) -> Tensor:
    """All numbers of a result, a copy."""
    if isinstance(result, Coded):
        return result.numbers(torch.float32).flatten()
    if isinstance(result, Tensor):
        return result.flatten().clone()
    return torch.cat([flat(part) for part in result])


def exact(data: Data) -> dict[str, Tensor]:
    """What every operation should give, in float64; codes: the numbers themselves."""
    found = {}
    for name, call in ours(data.wide()).items():
        found[name] = data.x.double().flatten() if "codes" in name else flat(call())
    return found


def compared(tokens: int, device: torch.device, dtype: torch.dtype) -> list[tuple[object, ...]]:
    """Rows of `HEAD`; the package's error where it refuses."""
    timer = device_seconds if device.type == "cuda" else partial(seconds, repeats=3)
    data, rows = Data.make(tokens, device, dtype), []
    want, others = exact(data), theirs(data)
    for name, call in ours(data).items():
        their_time, their_error = "–", "–"
        try:  # first: ours may write over what it gets
            their_error = f"{relative(flat(others[name]()), want[name]):.1e}"
            their_time = 1e3 * timer(others[name])
        except Exception as error:  # a package has errors of its own
            their_time = f"{type(error).__name__}: {' '.join(str(error).split())[:60]}"
        error = f"{relative(flat(call()), want[name]):.1e}"
        rows.append((tokens, name, 1e3 * timer(call), their_time, error, their_error))
    return rows


@torch.no_grad()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=lambda text: [int(n) for n in text.split(",")], default=[6144, 32640])
    args = parser.parse_args()
    if find_spec(PACKAGE) is None:
        raise SystemExit(f"{PACKAGE} is not installed")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    backends = import_module(PACKAGE).list_backends()
    ready = [name for name, state in backends.items() if state["available"]]
    print(f"# kernels: {'triton' if pick.prepare() else 'torch'}; the package's: {', '.join(ready)}", flush=True)
    rows = []
    for tokens in args.tokens:
        rows += compared(tokens, device, dtype)
    print(table(HEAD, rows))
