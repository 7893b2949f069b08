"""One forward, or one guided step, of the 22B transformer beside its peers: same weights, same run, floor beside it.

    python -m bench transformer --sizes a,b,c --peers diffusers [--profile] [--out FILE]
    python -m bench guided-step --sizes a,c --peers diffusers,fp8

Peers are diffusers' model, and our own in another way: ``fp8`` and ``int8`` multiply codes (lossy, weights quantised
here by rows), ``compiled`` has its attentions and feed-forwards under torch.compile, ``torch-forms`` and ``no-graphs``
leave something out, ``one-stream`` records sound behind picture.

Random weights of the true shapes are made on the device and shared with the peer. Medians by device events; the floor
is the arithmetic of spec/08 §4 at the rates that this run measures. ``--tiny`` is a smoke run on any machine.
"""
from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from ltx23_core.config import TransformerConfig
from ltx23_core.errors import RequestError
from ltx23_core.models.transformer.model import Transformer
from ltx23_core.ops import pick
from ltx23_core.ops.attention import BACKENDS, attention, attention_backend
from ltx23_core.ops.codes import FP8, INT8, ways
from ltx23_core.ops.pick import taking

from .measure import attention_rate, codes_rate, matmul_rate, peaked, profiled, relative, seconds, table
from .models import (
    SIZES,
    TEXT,
    Work,
    coded,
    compile_parts,
    config_22b,
    diffusers_peer,
    random_transformer,
    sharing,
    timed_once,
)

OWN = ("torch-forms", "no-graphs", "one-stream", "whole-tables", "cudnn")  # our own model, with something left out
OTHER = {"gates-apart": {"gates": "apart"}, "gelu-kernel": {"gelu": "kernel"}, "sound-aside": {"sound": "always"},
         "all-other": {"gates": "apart", "gelu": "kernel", "sound": "always"}}  # `ops.pick.WAYS`
CODES = {"fp8": FP8, "int8": INT8}
PEERS = ("diffusers", "diffusers-eager", "compiled", *CODES, *OWN, *OTHER)
LONG = 2.0  # seconds of a first call, from which on it is all the warming that is needed


def operations(config: TransformerConfig, work: Work) -> tuple[float, float]:
    """Operations of one forward in (products, attentions), by the formulas of spec/08 §4."""
    d, a, layers = config.video.width, config.audio.width, config.layers
    video, audio, text = work.latents[0].shape[1], work.latents[1].shape[1], work.contexts[0].shape[1]
    linear = 2 * video * (14 * d * d + 4 * d * a) + 2 * audio * 18 * a * a + 2 * text * (2 * d * d + 2 * a * a)
    attention = 4 * video * video * d + 4 * video * text * d + 8 * video * audio * a + 4 * audio * (audio + text) * a
    return float(layers * linear), float(layers * attention)


def floor_seconds(config: TransformerConfig, work: Work, rates: tuple[float, float]) -> float:
    """What the arithmetic of a forward takes at these rates."""
    linear, attention = operations(config, work)
    return linear / rates[0] + attention / rates[1]


class Timed(NamedTuple):
    """What is timed: the module, and a call of it."""

    module: torch.nn.Module
    call: Callable[[], list]


class Rates(NamedTuple):
    """Operations a second of this run: products, attention, and products of fp8 codes (0 where there are none)."""

    product: float
    attention: float
    coded: float


def calls(args: argparse.Namespace, model: Transformer, work: Work,
          peers: dict[str, torch.nn.Module], guided: bool) -> dict[str, Timed]:
    """What is timed at one size, by name."""
    found = {"ours": Timed(model, work.ours(model, guided))}
    if args.conditioned and (guided or work.name not in args.guided_sizes):  # once: both say the same of it
        found["ours, first frame held"] = Timed(model, work.ours(model, guided, conditioned=True))
    for name in args.peers:
        if args.peer_sizes and work.name not in args.peer_sizes and name not in CODES:
            continue
        peer = model if name in OWN or name in OTHER else peers[name]
        call = work.diffusers(peer, guided) if name.startswith("diffusers") else work.ours(
            peer, guided, whole_tables=name == "whole-tables")
        found[name] = Timed(peer, call)
    return found


def bytes_of(*modules: torch.nn.Module) -> int:
    """Device memory of the tensors of some modules, shared ones once."""
    found = {}
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            found[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(found.values())


@contextmanager
def as_named(name: str, form: str) -> Iterator[None]:
    """The way of running that a name of `PEERS` stands for."""
    graphs = os.environ.get("LTX23_GRAPHS", "auto")
    pick.choose("torch" if name == "torch-forms" else form)
    pick.prepare()
    os.environ["LTX23_GRAPHS"] = "0" if name == "no-graphs" else graphs
    os.environ["LTX23_BESIDE"] = "0" if name == "one-stream" else "1"
    try:
        with taking(**OTHER.get(name, {})):
            yield
    finally:
        os.environ["LTX23_GRAPHS"] = graphs
        pick.choose(form)


@contextmanager
def attending(model: Transformer, name: str) -> Iterator[None]:
    """With one attention alone where the name is a backend's."""
    if name not in BACKENDS:
        yield
        return
    model.set_attention(attention_backend(name))
    try:
        yield
    finally:
        model.set_attention(attention)


def heat(call: Callable[[], object], device: torch.device, seconds: float) -> None:
    """Bring a GPU to what it holds under load: a card that has rested runs the same kernels a tenth faster."""
    end = time.perf_counter() + seconds
    while device.type == "cuda" and time.perf_counter() < end:
        call()
        torch.cuda.synchronize()


def rates_of(config: TransformerConfig, work: Work, codes: bool) -> Rates:
    """Measured now, at a size."""
    tokens, device, dtype = work.latents[0].shape[1], work.latents[0].device, work.latents[0].dtype
    coded_rate = 0.0
    if codes and device.type == "cuda":
        coded_rate = codes_rate(tokens, config.video.width, device)
    found = Rates(matmul_rate(tokens, config.video.width, device, dtype),
                  attention_rate(tokens, config.video.heads, config.video.head_dim, device, dtype), coded_rate)
    print(f"# {work.name}: {tokens} tokens; TFLOP/s: product {found.product / 1e12:.0f}, attention "
          f"{found.attention / 1e12:.0f}, product of fp8 codes {found.coded / 1e12:.0f}", flush=True)
    return found


def row_of(args: argparse.Namespace, work: Work, name: str, timed: Timed, want: list | None) -> tuple[dict, list]:
    """One row, without its floor, and the result; error against ``want``: of another bfloat16 model that is the
    rounding of two orders of summation."""
    device, begin = work.latents[0].device, time.perf_counter()
    result = timed_once(f"{work.name} {name}, first call", timed.call)
    if time.perf_counter() - begin < LONG or "diffusers" in name:  # which compiles in its first call
        heat(timed.call, device, args.heat)
    pairs = zip(result, want or result, strict=True)
    error = max(relative(got[0], expected[0]) for got, expected in pairs)
    taken, peak = peaked(lambda: seconds(timed.call, args.repeats, warm=int(device.type != "cuda")))
    row = {"size": work.name, "what": name, "seconds": taken, "peak_gib": peak, "error": error}
    recorded = getattr(timed.module, "graphs", None)
    if recorded is not None:  # the allocator's own; what replays use of it is counted by nobody else
        row["peak_gib"] += recorded.bytes / 2**30
    if {"all", name} & set(args.profile) and device.type == "cuda":
        row |= dict(zip(("kernels", "top"), profiled(timed.call), strict=True))
    if recorded is not None:
        recorded.forget()
    return row, result


def measure(args: argparse.Namespace, config: TransformerConfig, model: Transformer, work: Work,
            peers: dict[str, torch.nn.Module], guided: bool) -> list[dict[str, object]]:
    """All rows of one size."""
    heat(work.ours(model), work.latents[0].device, args.heat)
    rates, rows, want = rates_of(config, work, "fp8" in peers), [], None
    for name, timed in calls(args, model, work, peers, guided).items():
        try:
            with as_named(name, args.form), attending(model, name):
                row, result = row_of(args, work, name, timed, want)
        except (RequestError, RuntimeError) as error:  # a package that is not there, memory: the others go on
            print(f"# {work.name} {name}: Error: {' '.join(str(error).split())[:200]}", flush=True)
            continue
        want = want or result
        own = (rates.coded or rates.product) if name == "fp8" else rates.product
        row["floor"] = floor_seconds(config, work, (own, rates.attention))
        row["peak_gib"] -= (bytes_of(model, *peers.values()) - bytes_of(timed.module)) / 2**30
        if guided:
            row["what"] = f"guided step, {name}"
        if "held" in name:  # another input than the rest
            row["error"] = None
        rows.append(row)
        print(f"# {row | {'top': None}}", flush=True)
    return rows


@torch.no_grad()
def run(args: argparse.Namespace) -> list[dict[str, object]]:
    """All sizes."""
    device = torch.device(args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    raw = config_22b(args.tiny)
    if args.layers:
        raw["num_layers"] = args.layers
    config = TransformerConfig.from_dict(raw)
    pick.choose(args.form)
    print(f"# kernels: {'triton' if pick.prepare() else 'torch'}", flush=True)
    model = timed_once("random weights", lambda: random_transformer(raw, device, dtype))
    peers: dict[str, torch.nn.Module] = {}
    for name in args.peers:
        if name.startswith("diffusers"):
            peers[name] = diffusers_peer(model, raw, compiled=name == "diffusers")
        elif name in CODES:
            peers[name] = coded(sharing(model, raw), CODES[name])
        elif name == "compiled":
            peers[name] = sharing(model, raw)
            compile_parts(peers[name])
    rows = []
    for size in args.sizes:
        work = Work.make(size, config, device, dtype, 32 if args.tiny else TEXT)
        rows += measure(args, config, model, work, peers, args.guided)
    for size in args.guided_sizes:
        work = Work.make(size, config, device, dtype, 32 if args.tiny else TEXT)
        wanted = [name for name in args.peers if name in CODES]
        own = argparse.Namespace(**vars(args) | {"peers": args.guided_peers or wanted})
        own.repeats, own.profile = args.guided_repeats, []
        rows += measure(own, config, model, work, peers, guided=True)
    return rows


def peer_seconds(rows: list[dict[str, object]], row: dict[str, object]) -> float | None:
    """The fastest peer's at the same work; its guided step, where that was not timed, is four of its forwards."""
    guided, found = row["what"].startswith("guided"), []
    for other in rows:
        if other["size"] == row["size"] and "diffusers" in other["what"]:
            passes = 4 if guided and not other["what"].startswith("guided") else 1
            if guided or not other["what"].startswith("guided"):
                found.append(passes * other["seconds"])
    return min(found, default=None)


def shown(rows: list[dict[str, object]]) -> str:
    """The table; each time also as a multiple of the fastest peer's."""
    lines = []
    for row in rows:
        peer = peer_seconds(rows, row)
        against = "–" if peer is None else f"{peer / row['seconds']:.3f}x"
        shown_error = "–" if row["error"] is None else f"{row['error']:.1e}"
        lines.append([row["size"], row["what"], f"{row['seconds']:.4f}", f"{row['floor']:.4f}",
                      f"{row['floor'] / row['seconds']:.0%}", against, f"{row['peak_gib']:.2f}", shown_error])
    head = ("size", "what", "seconds", "floor of a forward", "of it", "against the peer", "peak GiB", "relative L2")
    return table(head, lines)


def parser(guided: bool) -> argparse.ArgumentParser:
    """Options of both commands."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.set_defaults(guided=guided)
    made.add_argument("--sizes", type=lambda text: text.split(","), default=["a"], help=f"of {', '.join(SIZES)}")
    made.add_argument("--peers", type=lambda text: text.split(","), default=[], help=f"of {', '.join(PEERS)}")
    made.add_argument("--peer-sizes", type=lambda text: text.split(","), help="sizes with peers; all by default")
    made.add_argument("--guided-sizes", type=lambda text: text.split(","), default=[],
                      help="sizes with a guided step too, against four forwards of the peer")
    made.add_argument("--guided-peers", type=lambda text: text.split(","), default=[],
                      help="of --peers, those with a guided step there; default: codes")
    made.add_argument("--guided-repeats", type=int, default=1)
    made.add_argument("--conditioned", action="store_true", help="also with the first frame held")
    made.add_argument("--form", choices=pick.CHOICES, default="auto", help="of our operations")
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--profile", nargs="?", type=lambda text: text.split(","), default=[], const=["all"],
                      help="kernels by class; names as in the table, all by default")
    made.add_argument("--layers", type=int, help="blocks, where not all of them are wanted")
    made.add_argument("--heat", type=float, default=3.0, help="seconds of work before anything is timed")
    made.add_argument("--tiny", action="store_true", help="small widths: a smoke run")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--out", type=Path, help="write the rows as JSON")
    return made


def main(guided: bool = False) -> None:
    """Command line."""
    args = parser(guided).parse_args()
    logging.basicConfig(level=logging.INFO, format="# %(message)s")
    rows = run(args)
    print(shown(rows))
    refused = {key: way for key, way in ways.items() if way != "whole"}
    if refused:
        print(f"# fp8 products that the library does not make as a whole: {refused}")
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))
