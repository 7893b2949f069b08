"""22B within a budget of device memory: streamed against resident in time, memory and bits; loads; a peer.

    python -m bench streaming --folder /dev/shm/w [--disk DIR] [--only bf16,peer,fp8,q4,loads,registering,gemma]
    python -m bench streaming --folder /tmp/w --only approaches --tiny     # a smoke run, on any computer

Reads transformers of random weights in the true 22B layout, each block with its own numbers, in every way; files that
are not there are written: bf16 (38 GB, or ``--bf16 FILE``: also one with more than the transformer), fp8 (19 GB, or
``--fp8 FILE``), Q4_K (11 GB). Budgets limit the process's allocator too, so a plan that does not hold fails; among them
are those of cards (`bench cards`). The peer needs diffusers and 38 GB of pinned RAM, and takes its figures beside ours
of the same run. What is worth most comes first.
"""
from __future__ import annotations

import argparse
import gc
import os
import time
from functools import partial
from pathlib import Path

import torch

from bench import registering
from bench.cards import budget
from bench.generate_weights import (
    GEMMA_12B,
    PREFIX,
    TOKENIZER,
    gemma_layout,
    manifest_22b,
    transformer_layout,
    write,
)
from bench.loading import drop_cache
from bench.text import TINY
from ltx23_core import Overlay, materialize
from ltx23_core.memory.ram import total_ram
from ltx23_core.memory.room import SPARE
from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.weights.reader import read_tensors

from . import approaches, gguf, loads, peer
from .rows import SIZES, Rows, Steps

PARTS = ("loads", "approaches", "bf16", "peer", "cards", "fp8", "q4", "registering", "gemma")
MARGIN = 250_000  # bytes: room for a third place of the tiny model, and not for all of it
PEER = round(4.2 * 2**30 / 1e9, 2)  # GB: the peer's own peak at 1280x704


class Bench:
    """The parts, in an order in which the files of later ones fit."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Write nothing yet."""
        self.args, self.device = args, torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        self.rows, self.start = Rows(self.device), time.perf_counter()
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        self.rows.say(name, torch.__version__, f"RAM {(total_ram() or 0) / 1e9:.0f} GB")

    def run(self) -> None:
        """All parts that were asked for."""
        wanted = [part for part in PARTS if part in self.args.only]
        if self.args.tiny:
            self.tiny(wanted)
            return
        if {"bf16", "loads", "approaches", "peer", "cards", "registering"} & set(wanted):
            self.bf16(wanted)
        if "fp8" in wanted:
            self.fp8()
        if "q4" in wanted:
            self.q4()
        if self.args.disk:
            self.disk()
        if "gemma" in wanted:
            folder = self.args.folder / "gemma"
            write(folder / "model.safetensors", gemma_layout(GEMMA_12B), None, self.device)
            loads.gemma(self.rows, folder)
        self.rows.say("done at", time.perf_counter() - self.start)

    def tiny(self, wanted: list[str]) -> None:
        """What runs without a GPU, with the tiny model."""
        self.args.folder.mkdir(parents=True, exist_ok=True)
        overlay = materialize(TINY, TOKENIZER, output=self.args.folder / "tiny.json")
        if "approaches" in wanted:
            need, work = self.rows.component("transformer", overlay).need(), Steps(overlay, SIZES["tiny"], self.device)
            room = (need.least + work.bytes[4] + MARGIN) / (1 - SPARE) / 1e9
            approaches.run(self.rows, "tiny", overlay, "tiny", room, 1)

    def written(self, name: str, given: Path | None) -> tuple[Path, Overlay]:
        """A transformer's file and its overlay."""
        path = given or self.args.folder / f"ltx-2.3-22b-dev-{name}.safetensors"
        form = "" if name == "bf16" else name
        if given is None:
            write(path, transformer_layout(form), manifest_22b()[1], self.device)
            torch.cuda.empty_cache()
        self.rows.say("file", name, f"{path.stat().st_size / 1e9:.1f} GB", f"{time.perf_counter() - self.start:.0f} s")
        return path, materialize(path, output=self.args.folder / f"{name}.json")

    def bf16(self, wanted: list[str]) -> None:
        """Rows of the bf16 file."""
        path, overlay = self.written("bf16", self.args.bf16)
        made = self.rows.component("transformer", overlay)
        steps = partial(self.rows.steps, "bf16", overlay, made)
        if "loads" in wanted:
            loads.ranges(self.rows, path, "bf16")
            loads.component(self.rows, overlay, "bf16")
        if "registering" in wanted:
            registering.run(path, 8)
        if "approaches" in wanted:
            approaches.run(self.rows, "bf16", overlay, repeats=2)
            approaches.run(self.rows, "bf16", overlay, passes=1)
        if "bf16" in wanted:
            steps("768x512", 4, (None, 8, PEER), 5, apart=True)
            steps("768x512", 1, (None, 8, 3.5), 5, apart=True)
            steps("1280x704", 4, (None, 8, budget(16), PEER), 1)
            steps("1280x704", 1, (8,), 1)
        if "cards" in wanted and "bf16" not in wanted:  # what the peer and other budgets are compared with
            steps("768x512", 4, (None, 8), 5)
            steps("768x512", 1, (8,), 5)
            steps("1280x704", 4, (None, 8), 1)
        if "peer" in wanted:
            made.release(pages=True)
            peer.run(self.rows, path, {"768x512": "a", "1280x704": "b"}, 1)
            gc.collect()  # its hooks hold it in circles
        if "cards" in wanted:
            steps("768x512", 4, tuple(map(budget, (8, 12, 16, 24, 32))), 1)
            steps("1280x704", 4, tuple(map(budget, (8, 12, 24, 32))), 1)
        made.release(pages=True)
        if self.args.bf16 is None:
            path.unlink()

    def fp8(self) -> None:
        """Rows of the fp8 file."""
        path, overlay = self.written("fp8", self.args.fp8)
        loads.ranges(self.rows, path, "fp8")
        loads.component(self.rows, overlay, "fp8")
        made = self.rows.component("transformer", overlay)
        steps = partial(self.rows.steps, "fp8", overlay, made)
        steps("768x512", 4, (None, *map(budget, (8, 12, 16))))
        steps("768x512", 1, (None, 8))
        steps("1280x704", 4, (None, *map(budget, (8, 12, 16))), 1)
        made.release(pages=True)
        if self.args.fp8 is None:
            path.unlink()

    def q4(self) -> None:
        """Rows of a Q4_K file."""
        path = self.args.folder / "ltx-2.3-22b-dev-Q4_K.gguf"
        size = gguf.write_q4(path, transformer_layout(), PREFIX, self.device) / 1e9
        self.rows.say("wrote", "Q4_K", f"{size:.1f} GB", f"at {time.perf_counter() - self.start:.0f} s")
        overlay = materialize(path, output=self.args.folder / "q4.json")
        loads.ranges(self.rows, path, "Q4_K")
        loads.component(self.rows, overlay, "Q4_K")
        made = self.rows.component("transformer", overlay)
        for size in ("768x512", "1280x704"):
            self.rows.steps("Q4_K", overlay, made, size, 4, (None, *map(budget, (8, 12))), 1)
        made.release(pages=True)
        path.unlink()

    def disk(self) -> None:
        """7 blocks on a disk: from its page cache, and cold."""
        part = self.args.disk / "part.safetensors"
        few = {name: spec for name, spec in transformer_layout().items()
               if ".transformer_blocks." not in name or int(name.split(".")[3]) < 7}
        write(part, few, manifest_22b()[1], self.device)
        os.sync()
        loads.ranges(self.rows, part, "page cache of the disk's file")
        registering.run(part, 8)
        drop_cache(part)
        begin = time.perf_counter()
        kept = dict(read_tensors(read_header(part).tensors, self.device, None))
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        self.rows.say("cold load", f"{part.stat().st_size / 1e9 / seconds:.2f} GB/s", len(kept))
        del kept
        part.unlink()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="bench streaming", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--disk", type=Path, help="a folder on a disk, for registering pages that come from it")
    parser.add_argument("--bf16", type=Path, help="a file that is there: the monolith, or its transformer")
    parser.add_argument("--fp8", type=Path, help="the same of the one in fp8")
    parser.add_argument("--tiny", action="store_true", help="the tiny model: a smoke run of approaches")
    parser.add_argument("--only", type=lambda text: text.split(","), default=PARTS, help=", ".join(PARTS))
    torch.manual_seed(0)
    Bench(parser.parse_args()).run()
