"""One forward, or one guided step, of the 22B transformer beside its peers: same weights, same run, floor beside it.

    python -m bench transformer --sizes a,b,c --peers diffusers [--profile] [--out FILE]
    python -m bench guided-step --sizes a,c --peers diffusers

Random weights of the true shapes are made on the device and shared with the peer. Medians by device events; the floor
is the arithmetic of spec/08 §4 at the rates that this run measures. ``--tiny`` is a smoke run on any machine.
"""
from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ltx23_core.config import TransformerConfig
from ltx23_core.models.transformer.model import Transformer
from ltx23_core.ops import pick

from .measure import attention_rate, by_class, matmul_rate, peak_gib, relative, seconds, table, top_kernels
from .models import SIZES, TEXT, Work, config_22b, diffusers_peer, random_transformer, timed_once

PEERS = ("diffusers", "diffusers-eager", "torch-forms", "no-graphs")
HEAT = 3.0  # seconds of work before anything is timed
OWN = ("torch-forms", "no-graphs")  # our own model, with something left out


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


def calls(args: argparse.Namespace, model: Transformer, work: Work,
          peers: dict[str, torch.nn.Module]) -> dict[str, Callable[[], list]]:
    """What is timed at one size, by name."""
    guided = args.guided
    found = {"ours": work.ours(model, guided)}
    if args.conditioned:
        found["ours, first frame held"] = work.ours(model, guided, conditioned=True)
    wanted = [name for name in args.peers if not args.peer_sizes or work.name in args.peer_sizes]
    for name in wanted:
        found[name] = work.ours(model, guided) if name in OWN else work.diffusers(peers[name], guided)
    return found


def heat(call: Callable[[], object], device: torch.device) -> None:
    """Bring a GPU to what it holds under load: a card that has rested runs the same kernels a tenth faster."""
    end = time.perf_counter() + HEAT
    while device.type == "cuda" and time.perf_counter() < end:
        call()
        torch.cuda.synchronize()


def measure(args: argparse.Namespace, config: TransformerConfig, model: Transformer, work: Work,
            peers: dict[str, torch.nn.Module], device: torch.device, dtype: torch.dtype) -> list[dict[str, object]]:
    """All rows of one size."""
    tokens = work.latents[0].shape[1]
    heat(work.ours(model, args.guided), device)
    rates = (matmul_rate(tokens, config.video.width, device, dtype),
             attention_rate(tokens, config.video.heads, config.video.head_dim, device, dtype))
    floor = floor_seconds(config, work, rates)
    print(f"# {work.name}: {tokens} tokens, product {rates[0] / 1e12:.0f}, attention {rates[1] / 1e12:.0f} TFLOP/s",
          flush=True)
    rows, want, graphs = [], None, os.environ.get("LTX23_GRAPHS", "auto")
    for name, call in calls(args, model, work, peers).items():
        pick.choose("torch" if name == "torch-forms" else args.form)
        os.environ["LTX23_GRAPHS"] = "0" if name == "no-graphs" else graphs
        result = timed_once(f"{work.name} {name}, first call", call)
        want = want or result
        heat(call, device)
        # Against our own result: both are bfloat16, so this is the rounding of two orders of summation.
        error = max(relative(got[0], expected[0]) for got, expected in zip(result, want, strict=True))
        del result
        rows.append({"size": work.name, "what": name, "seconds": seconds(call, args.repeats), "floor": floor,
                     # A recording's memory is the allocator's own; what replays use of it is counted by nobody else.
                     "peak_gib": peak_gib(call) + model.graphs.bytes / 2**30, "error": error})
        if args.profile and device.type == "cuda":
            rows[-1]["kernels"] = by_class(call)
            rows[-1]["top"] = top_kernels(call)
        print(f"# {rows[-1] | {'top': None}}", flush=True)
        model.graphs.forget()
    os.environ["LTX23_GRAPHS"] = graphs
    return rows


@torch.no_grad()
def run(args: argparse.Namespace) -> list[dict[str, object]]:
    """All sizes."""
    device = torch.device(args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    raw = config_22b(args.tiny)
    config = TransformerConfig.from_dict(raw)
    pick.choose(args.form)
    print(f"# kernels: {'triton' if pick.prepare() else 'torch'}", flush=True)
    model = timed_once("random weights", lambda: random_transformer(raw, device, dtype))
    peers = {name: diffusers_peer(model, raw, compiled=name == "diffusers")
             for name in args.peers if name.startswith("diffusers")}
    rows = []
    for size in args.sizes:
        work = Work.make(size, config, device, dtype, 32 if args.tiny else TEXT)
        rows += measure(args, config, model, work, peers, device, dtype)
    return rows


def shown(rows: list[dict[str, object]]) -> str:
    """The table; each time also as a multiple of the fastest peer's."""
    lines = []
    for row in rows:
        others = [other["seconds"] for other in rows if other["size"] == row["size"]
                  and other["what"].startswith("diffusers")]
        against = f"{min(others) / row['seconds']:.3f}x" if others else "–"
        lines.append([row["size"], row["what"], row["seconds"], row["floor"], f"{row['floor'] / row['seconds']:.0%}",
                      against, f"{row['peak_gib']:.1f}", f"{row['error']:.1e}"])
    head = ("size", "what", "seconds", "floor of a forward", "of it", "against the peer", "peak GiB", "relative L2")
    return table(head, lines)


def parser(guided: bool) -> argparse.ArgumentParser:
    """Options of both commands."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.set_defaults(guided=guided)
    made.add_argument("--sizes", type=lambda text: text.split(","), default=["a"], help=f"of {', '.join(SIZES)}")
    made.add_argument("--peers", type=lambda text: text.split(","), default=[], help=f"of {', '.join(PEERS)}")
    made.add_argument("--peer-sizes", type=lambda text: text.split(","), help="sizes with peers; all by default")
    made.add_argument("--conditioned", action="store_true", help="also with the first frame held")
    made.add_argument("--form", choices=pick.CHOICES, default="auto", help="of our operations")
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--profile", action="store_true", help="kernels by class")
    made.add_argument("--tiny", action="store_true", help="small widths: a smoke run")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--out", type=Path, help="write the rows as JSON")
    return made


def main(guided: bool = False) -> None:
    """Command line."""
    args = parser(guided).parse_args()
    rows = run(args)
    print(shown(rows))
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))
