"""Every fused operation at the sizes of the 22B model: both forms, their difference, and their share of a copy's rate.

    python -m bench ops [--tokens 6144,32640] [--out FILE]

Bytes are the fewest: each input read once, each output written once. The ceiling is a copy measured in this run. Also
which attention kernel is fastest for each of the model's shapes, and what packing and epilogues give. GPU only.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from ltx23_core.ops import pick
from ltx23_core.ops.attention import PACKAGES, attention, attention_backend
from ltx23_core.ops.codes import FP8, INT8, product, quantise, ways
from ltx23_core.ops.gates import gate_heads
from ltx23_core.ops.gelu import linear_gelu
from ltx23_core.ops.modulate import Modulation, Update, add_norm_modulate
from ltx23_core.ops.norms import norm_rope_pair

from .measure import device_seconds, relative, seconds, table

WIDTH, HEADS, HEAD_DIM, TEXT = 4096, 32, 128, 1024
DTYPE, DEVICE = torch.bfloat16, torch.device("cuda")
CODES = {"fp8": FP8, "int8": INT8}
Row = dict[str, object]


def random(*shape: int) -> Tensor:
    """Standard normal."""
    return torch.randn(shape, device=DEVICE).to(DTYPE)


def copy_rate() -> float:
    """Bytes a second of a large copy, read and written."""
    x = torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE).random_()
    y = torch.empty_like(x)
    return 2 * x.numel() / seconds(lambda: y.copy_(x), repeats=9)


def fused(tokens: int, dtype: torch.dtype = DTYPE) -> dict[str, tuple[Callable[..., object], tuple, int]]:
    """Operation -> function, arguments, and how many passes over (tokens, 4096) it must make at least.

    The same numbers every time, those of bfloat16, in any dtype.
    """
    torch.manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=DEVICE).to(DTYPE).to(dtype)

    product, x, value = random(1, tokens, 3 * WIDTH + HEADS), random(1, tokens, WIDTH), random(1, tokens, WIDTH)
    logits, query, key, _ = product.split([HEADS, WIDTH, WIDTH, WIDTH], -1)
    angles = torch.rand(1, tokens, WIDTH // 2, device=DEVICE)
    rope = angles.cos().to(DTYPE).to(dtype), angles.sin().to(DTYPE).to(dtype)
    weight = 1 + 0.1 * random(WIDTH)
    rows = random(1, 2, 9, WIDTH)
    parts = [Modulation(rows[:, :, i], rows[:, :, i + 1], rows[:, :, i + 2]) for i in (0, 3)]
    one = [Modulation(*(row[:, :1] for row in part[:3])) for part in parts]
    index = (torch.arange(tokens, device=DEVICE) > tokens // 8).long()
    update = Update(value, parts[0].gate)
    attended = random(1, tokens, HEADS, HEAD_DIM)
    return {
        "q and k norm, RoPE": (lambda a, b: norm_rope_pair((a, weight), (b, weight), rope, HEADS, 1e-6),
                               (query, key), 5),
        "norm, modulate": (lambda a: add_norm_modulate(a, None, one[:1], None, 1e-6), (x,), 2),
        "residual, norm, modulate": (lambda a, b: add_norm_modulate(a, Update(b, one[0].gate), one[:1], None, 1e-6),
                                     (x, value), 4),
        "the same, rows by index": (lambda a, b: add_norm_modulate(a, Update(b, update.gate), parts[:1], index, 1e-6),
                                    (x, value), 4),
        "the same, two outputs": (lambda a, b: add_norm_modulate(a, Update(b, update.gate), parts, index, 1e-6),
                                  (x, value), 5),
        "residual alone": (lambda a, b: add_norm_modulate(a, Update(b, one[0].gate), (), None, 1e-6), (x, value), 3),
        "head gate": (lambda a: gate_heads(a, logits), (attended,), 2),
    }


def flat(result: object) -> Tensor:
    """All tensors of a nested result as one."""
    if isinstance(result, Tensor):
        return result.flatten()
    return torch.cat([flat(part) for part in result if isinstance(part, Tensor) or part])


def operations(tokens: int, ceiling: float) -> list[Row]:
    """Both forms of each operation on the device alone, what the host takes for Triton's, and errors to float64."""
    rows, wide = [], fused(tokens, torch.float64)
    for name, (function, arguments, passes) in fused(tokens).items():
        times, results = {}, {}
        for form in ("torch", "triton"):
            pick.choose(form)
            fresh, given, _ = fused(tokens)[name]  # timing repeats what may write over its arguments
            results[form] = flat(fresh(*given)).clone()
            times[form] = device_seconds(lambda f=function, a=arguments: f(*a))
        host = seconds(lambda f=function, a=arguments: f(*a), repeats=9)
        rate = passes * tokens * WIDTH * 2 / times["triton"]
        rows.append({"tokens": tokens, "what": name, "torch ms": 1e3 * times["torch"],
                     "triton ms": 1e3 * times["triton"], "with its launch": 1e3 * host,
                     "of the copy": f"{rate / ceiling:.0%}"} | errors(*wide[name][:2], results))
    return rows


def errors(function: Callable[..., object], arguments: tuple, results: dict[str, Tensor]) -> Row:
    """Relative L2 of both forms in bfloat16 to what the torch form makes of the same numbers in float64."""
    pick.choose("torch")
    want = flat(function(*arguments))
    return {f"{form} to float64": f"{relative(got, want):.1e}" for form, got in results.items()}


def products(tokens: int) -> list[Row]:
    """q, k, v and gate logits in one to four products; the feed-forward's first product with its GELU."""
    x, rows = random(1, tokens, WIDTH), []
    weight, bias = random(3 * WIDTH + HEADS, WIDTH) / 64, random(3 * WIDTH + HEADS)
    sizes = [HEADS, WIDTH, WIDTH, WIDTH]
    ws, bs = weight.split(sizes), bias.split(sizes)
    layer = nn.Linear(WIDTH, 4 * WIDTH, device=DEVICE, dtype=DTYPE).requires_grad_(False)
    pick.choose("triton")
    triton_gelu = pick.kernels("gelu", x).gelu_tanh_
    one, every, wide = WIDTH + HEADS, 3 * WIDTH + HEADS, 4 * WIDTH
    cases = {
        "gate, q, k, v in one": (every, lambda: linear(x, weight, bias)),
        "q, k, v in one, gate apart": (every, lambda: (linear(x, weight[HEADS:], bias[HEADS:]),
                                                       linear(x, ws[0], bs[0]))),
        "gate, q, k, v in four": (every, lambda: [linear(x, w, b) for w, b in zip(ws, bs, strict=True)]),
        "gate, q in one": (one, lambda: linear(x, weight[:one], bias[:one])),
        "gate, q in two": (one, lambda: (linear(x, ws[0], bs[0]), linear(x, ws[1], bs[1]))),
        "q alone": (WIDTH, lambda: linear(x, ws[1], bs[1])),
        "ff in, no GELU": (wide, lambda: layer(x)),
        "ff in, torch GELU": (wide, lambda: gelu(layer(x), approximate="tanh")),
        "ff in, Triton GELU in place": (wide, lambda: triton_gelu(layer(x))),
        "ff in, epilogue": (wide, lambda: linear_gelu(x, layer)),
    }
    few = x[:, :256]
    exact = gelu(linear(few.double(), layer.weight.double(), layer.bias.double()), approximate="tanh")
    for name, (width, call) in cases.items():
        taken = device_seconds(call)
        right = name.startswith("ff in") and "no" not in name
        rows.append({"tokens": tokens, "what": name, "ms": 1e3 * taken,
                     "TFLOP/s": f"{2 * tokens * WIDTH * width / taken / 1e12:.0f}",
                     "against float64": f"{relative(call()[:, :256], exact):.1e}" if right else ""})
    return rows


def coded(tokens: int) -> list[Row]:
    """Products of 8-bit codes, what makes the codes, and their errors to float64 of the numbers."""
    x, rows = random(1, tokens, WIDTH), []
    wide = random(1, tokens, 4 * WIDTH)
    few = x[:, :256].double()
    for name, width, given in (("q, k, v", 3 * WIDTH + HEADS, x), ("q", WIDTH + HEADS, x), ("out", WIDTH, x),
                               ("ff in", 4 * WIDTH, x), ("ff out", WIDTH, wide)):
        weight, bias = random(width, given.shape[-1]) / 64, random(width)
        row: Row = {"tokens": tokens, "what": name,
                    "bf16": 1e3 * device_seconds(lambda g=given, w=weight, b=bias: linear(g, w, b))}
        for label, kind in CODES.items():
            own, codes = quantise(weight, kind), quantise(given, kind)
            scale = own.scale[:, 0].contiguous()
            try:
                taken = device_seconds(lambda c=codes, o=own, s=scale, b=bias: product(c, o.codes, s, b, DTYPE))
            except RuntimeError as error:
                row[label] = row[f"{label} TFLOP/s"] = str(error)[:60]
                continue
            row[label] = 1e3 * taken
            row[f"{label} TFLOP/s"] = f"{2 * tokens * given.shape[-1] * width / taken / 1e12:.0f}"
            if given is x:
                exact = linear(few, weight.double(), bias.double())
                row[f"{label} error"] = f"{relative(product(codes, own.codes, scale, bias, DTYPE)[:, :256], exact):.1e}"
            else:
                row[f"{label} error"] = "–"
        rows.append(row)
    gelus = {"GELU, codes": wide, "codes alone": x}
    pick.choose("triton")
    pick.prepare()
    for name, given in gelus.items():
        module = pick.kernels("codes", given)
        taken = device_seconds(lambda m=module, g=given: m.quantise(g, FP8, g is wide))
        rows.append(dict.fromkeys(rows[0], "–") | {"tokens": tokens, "what": name, "fp8": 1e3 * taken})
    return rows


def installed() -> list[str]:
    """Backends of packages that are there."""
    found = []
    for name, modules in PACKAGES.items():
        if any(find_spec(module) is not None for module, *_ in modules):
            found.append(name)
    return found


def attentions(tokens: int) -> list[Row]:
    """Milliseconds by kernel for the shapes of the model, queries and values as parts of wider products."""
    shapes = {"self": (tokens, tokens, 128), "text": (tokens, TEXT, 128), "audio to video": (tokens, 126, 64),
              "video to audio": (126, tokens, 64)}
    rows = []
    for name, (queries, keys, head_dim) in shapes.items():
        query = random(1, queries, HEADS, head_dim).transpose(1, 2)
        key = random(1, keys, HEADS, head_dim).transpose(1, 2)
        value = random(1, keys, 3 * HEADS, head_dim)[:, :, :HEADS].transpose(1, 2)
        row: Row = {"tokens": tokens, "what": name}
        for kind in ("auto", "torch", "cudnn", "flash", "efficient", *installed()):
            function = {"auto": attention, "torch": nn.functional.scaled_dot_product_attention}.get(kind)
            function = function or attention_backend(kind)
            try:
                if kind in PACKAGES:
                    exact = attention(query, key, value)
                    row[f"{kind} error"] = f"{relative(function(query, key, value, None), exact):.1e}"
                row[kind] = 1e3 * device_seconds(lambda f=function: f(query, key, value, None))  # noqa: B023
            except Exception as error:  # a package has errors of its own
                row[kind] = " ".join(str(error).split())[:24]
                row.setdefault(f"{kind} error", "–")
        out = attention(query, key, value)
        row["out is (B, N, heads, d)"] = out.transpose(1, 2).is_contiguous()
        rows.append(row)
    return rows


@torch.no_grad()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=lambda text: [int(n) for n in text.split(",")], default=[6144, 32640])
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    pick.choose("triton")
    if not pick.prepare():
        raise SystemExit("Triton does not work here")
    ceiling = copy_rate()
    print(f"# copy: {ceiling / 1e12:.2f} TB/s", flush=True)
    every: list[Row] = []
    for make in (lambda n: operations(n, ceiling), products, coded, attentions):
        rows = [row for tokens in args.tokens for row in make(tokens)]
        head = list(dict.fromkeys(key for row in rows for key in row))
        print(table(head, [[row.get(key, "–") for key in head] for row in rows]), flush=True)
        every += rows
    print("# fp8 products that are not made whole:", {key: way for key, way in ways.items() if way != "whole"})
    if args.out:
        args.out.write_text(json.dumps(every, indent=1))
