"""A real ComfyUI with CUDA, the 22B model's true shapes, a core model and a neighbour on the card.

    python -m bench comfy --comfyui DIR --folder /tmp/w [--only share,budgets,lowvram] [--tiny --cpu]

``DIR`` is a ComfyUI source tree whose packages this Python has. Without ``--tiny`` the folder takes 104 GB: a tmpfs.
Ends with one table; exit code 1 where a row says FAILED, OVER, DIFFER, GROWN or NOT.
"""
from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

import torch

from bench.measure import table
from tools.host import Base, ComfyUI

from . import files
from .sections import OPTIONS, SECTIONS, small
from .session import HEAD, Session, Table, front_end, pack
from .watch import Card, Neighbour, Watch

BAD = re.compile(r"\b(FAILED|OVER|DIFFER|GROWN|NOT)\b")


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="bench comfy", description=__doc__.splitlines()[0])
    made.add_argument("--comfyui", type=Path, required=True, help="source tree of ComfyUI")
    made.add_argument("--folder", type=Path, required=True, help="where models and outputs go")
    made.add_argument("--only", type=lambda text: text.split(","), default=[*SECTIONS, *OPTIONS],
                      help=f"of {', '.join([*SECTIONS, *OPTIONS, 'rows'])}")
    made.add_argument("--tiny", action="store_true", help="the tests' model instead of 22B shapes")
    made.add_argument("--cpu", action="store_true", help="no GPU")
    made.add_argument("--python", type=Path, default=Path(sys.executable), help="Python of the server")
    made.add_argument("--seconds", type=float, default=540.0, help="begin no section after that many")
    return made


class Driver:
    """Servers one after the other, with what they share."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Make the models."""
        self.args, self.begin, self.table = args, time.perf_counter(), Table()
        self.card = Card(args.cpu)
        self.comfy = ComfyUI(args.comfyui, args.python, front_end(args.folder / "page"))
        base = Base(args.folder / "base").create()
        device = torch.device("cpu" if args.cpu else "cuda")
        self.models = (files.tiny if args.tiny else files.full)(base, self.comfy, device, "turns" in args.only)
        pack(self.models)
        if not args.cpu:
            torch.cuda.empty_cache()
        self.table.add(f"{self.card.name()}, torch {torch.__version__}, ComfyUI {self.comfy.version}",
                       time.perf_counter() - self.begin, 0.0, 0.0, "models written")
        self.watch = Watch(self.card)
        self.watch.start()
        self.neighbour = Neighbour(self.watch)
        self.latents: dict[str, torch.Tensor] = {}

    def run(self) -> None:
        """All sections that were asked for and for which there is time."""
        ordinary = [name for name in SECTIONS if name in self.args.only]
        if ordinary:
            self.serve((), [SECTIONS[name] for name in ordinary], ordinary)
        for name, options in OPTIONS.items():
            if name in self.args.only:
                self.serve(options, [small], [name])
        self.neighbour.stop()
        self.watch.stop()
        if "rows" in self.args.only and not self.late():
            self.rows()

    def rows(self) -> None:
        """After the servers: a step within 8 GB and a quarter of the peer, over the same file."""
        from bench.streaming import peer
        from bench.streaming.rows import Rows
        from ltx23_core import materialize
        file = self.models.base.models / "checkpoints" / self.models.dev
        rows = Rows(torch.device("cuda", 0))
        overlay = materialize(file, output=self.args.folder / "rows.json")
        made = rows.component("transformer", overlay)
        rows.steps("bf16", overlay, made, "768x512", 4, (None, 8), 1)
        rows.steps("bf16", overlay, made, "768x512", 1, (8,), 1)
        made.release(pages=True)
        peer.run(rows, file, {"768x512": "a"}, 1, layers=12)

    def serve(self, options: tuple[str, ...], sections: list, names: list[str]) -> None:
        """One server."""
        if self.late():
            self.table.add(f"section {', '.join(names)}", 0.0, 0.0, 0.0, "no time left")
            return
        always = ("--cpu",) if self.args.cpu else ()
        session = Session(self.models, self.watch, self.table, self.comfy, (*always, *options), "-" + names[0])
        session.latents = self.latents
        try:
            with session:
                for section, name in zip(sections, names, strict=True):
                    if self.late():
                        self.table.add(f"section {name}", 0.0, 0.0, 0.0, "no time left")
                        continue
                    section(session, self.neighbour)
        except Exception as error:
            self.table.add(f"section {', '.join(names)}", 0.0, 0.0, 0.0, f"FAILED: {error!r}"[-1500:])

    def late(self) -> bool:
        """Whether no section may begin any more."""
        return time.perf_counter() - self.begin > self.args.seconds


def main() -> None:
    """Command line."""
    args = parser().parse_args()
    driver = Driver(args)
    driver.run()
    print(table(HEAD, driver.table.rows))
    bad = [row for row in driver.table.rows if BAD.search(str(row[-1]))]
    print(f"{len(driver.table.rows)} rows, {len(bad)} bad, {time.perf_counter() - driver.begin:.0f} s")
    raise SystemExit(1 if bad else 0)
