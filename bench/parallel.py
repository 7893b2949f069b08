"""One GPU against all of a host in one run: guided steps, single passes, decoding, a queue, and what the plan said.

    python -m bench parallel --gpus 2 [--sizes b,c] [--repeats 2] [--profile] [--out FILE] [--tiny]

Starts one fresh process for each GPU, random 22B weights on each. Every row is written as it is measured, so that a
run that is cut off shows what it has. ``--tiny``: small widths with gloo on the CPU, a smoke run.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ltx23_core.config import TransformerConfig
from ltx23_core.decode.frames import to_frames
from ltx23_core.decode.tiles import auto_tiling, tiled_decode
from ltx23_core.geometry import video_grid
from ltx23_core.models.transformer.model import Transformer
from ltx23_core.ops import pick
from ltx23_core.parallel import attention as exchanges
from ltx23_core.parallel.assign import Arranger
from ltx23_core.parallel.cost import Rates
from ltx23_core.parallel.rates import measured
from ltx23_core.parallel.tiles import shared_decode
from ltx23_core.parallel.transformer import SharedTransformer
from ltx23_core.parallel.world import World

from .decode import random_decoder
from .measure import profiled, relative, table
from .models import SIZES, TEXT, Work, config_22b, random_transformer

Row = dict[str, object]
SILENCE = 100.0  # seconds without a new row: something hangs


class Rank:
    """One process of the bench.

    Args:
        args: of the command line.
        world: all of them.
        rates: of devices and links.
    """

    def __init__(self, args: argparse.Namespace, world: World) -> None:
        self.args, self.world = args, world
        cuda = world.device.type == "cuda"
        self.dtype = torch.bfloat16 if cuda else torch.float32
        raw = config_22b(args.tiny)
        self.config = TransformerConfig.from_dict(raw)
        pick.choose("auto")
        pick.prepare()
        self.note("joined")
        self.model: Transformer = random_transformer(raw, world.device, self.dtype)
        self.note("random weights are there")
        self.rates: Rates = measured(world, self.dtype)
        self.note(f"rates {self.rates}")

    def note(self, text: str) -> None:
        """A line of progress of rank 0."""
        if self.world.rank == 0:
            print(f"# {time.strftime('%H:%M:%S')} {text}", flush=True)

    def row(self, **values: object) -> None:
        """A row of rank 0, written at once."""
        if self.world.rank == 0:
            self.note(str(values))
            with self.args.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")

    def timed(self, function: Callable[[], object], alone: bool = False, repeats: int | None = None) -> float:
        """Median seconds on the slowest rank; ``alone``: rank 0 runs, the others wait."""
        if alone:
            return self.world.alone(lambda: self._median(function, repeats))
        self.world.meet()
        return max(self.world.told(self._median(function, repeats)))

    def _median(self, function: Callable[[], object], repeats: int | None) -> float:
        times = []
        warm = 1 + 2 * (os.environ["LTX23_GRAPHS"] != "0")  # the second call is recorded
        for number in range((repeats or self.args.repeats) + warm):
            self._wait()
            begin = time.perf_counter()
            function()
            self._wait()
            if number >= warm:
                times.append(time.perf_counter() - begin)
        return sorted(times)[len(times) // 2]

    def _wait(self) -> None:
        if self.world.device.type == "cuda":
            torch.cuda.synchronize(self.world.device)

    def shared(self, **options: object) -> SharedTransformer:
        """The transformer of all ranks, in one way of sharing."""
        arranger = Arranger(self.config, self.world.size, self.rates, self.dtype.itemsize, **options)
        return SharedTransformer(self.model, self.world, arranger)

    def steps(self, size: str, guided: bool, recorded: bool = False) -> None:
        """A guided step, or a single pass, at one size: alone and in every way of sharing.

        ``recorded``: forwards of few tokens are recorded as CUDA graphs, exchanges included.
        """
        os.environ["LTX23_GRAPHS"] = "auto" if recorded else "0"
        work = Work.make(size, self.config, self.world.device, self.dtype, 32 if self.args.tiny else TEXT)
        plain = work.ours(self.model, guided)
        what = ("guided step" if guided else "single pass") + ", recorded" * recorded
        want = self.world.alone(lambda: [pair[0].cpu() for pair in plain()]) if guided else None
        alone = self.timed(plain, alone=True)
        tokens, text = (work.latents[0].shape[1], work.latents[1].shape[1]), work.contexts[0].shape[1]
        ways = {f"tokens, {pieces} pieces": {"groups": 1, "phases": 1} for pieces in self.args.pieces}
        if guided:
            ways |= {"passes": {"share": False, "phases": 1}, "two phases": {"handing": False}, "as planned": {}}
            ways = {way: options for way, options in ways.items() if way.split(",")[0] in self.args.ways}
        self.row(size=size, what=what, way="one device", seconds=alone)
        for way, options in ways.items():
            if way.startswith("tokens"):
                exchanges.PIECES = int(way.split()[1])
            arranger = Arranger(self.config, self.world.size, self.rates, self.dtype.itemsize, **options)
            plan = arranger(work.passes(guided), tokens, text)
            self.note(str(plan))
            call = work.ours(SharedTransformer(self.model, self.world, arranger), guided)
            error = None
            if want is not None:
                error = max(relative(got[0].cpu(), one) for got, one in zip(call(), want, strict=True))
            taken = self.timed(call)
            extra = {}
            if self.args.profile and way.startswith("tokens") and not self.args.tiny:
                extra["kernels"] = profiled(call)[0]
            self.row(size=size, what=what, way=way, seconds=taken, speedup=alone / taken, said=plan.seconds,
                     said_alone=plan.alone, error=error, **extra)
            self._plain_again()

    def _plain_again(self) -> None:
        from ltx23_core.parallel.attention import install
        from ltx23_core.parallel.cut import Cut
        from ltx23_core.parallel.world import Group
        install(self.model, Cut(Group((self.world.rank,), self.world.rank, None)))
        self.model.graphs.forget()

    def queue(self, size: str) -> None:
        """Guided steps of as many prompts as ranks: each on its own device, beside one on one device."""
        work = Work.make(size, self.config, self.world.device, self.dtype, 32 if self.args.tiny else TEXT)
        call = work.ours(self.model, guided=True)
        alone = self.timed(call, alone=True, repeats=1)
        together = self.timed(call)
        self.row(size=size, what="queue of guided steps", way="a prompt a device", seconds=together,
                 speedup=self.world.size * alone / together, said=alone)

    def decode(self, size: str) -> None:
        """A video to bytes on the host."""
        decoder, config = random_decoder(self.world.device, self.dtype, self.args.tiny)
        grid = video_grid(*SIZES[size])
        generator = torch.Generator(self.world.device).manual_seed(2)
        latent = torch.randn(1, config.latent_channels, grid.frames, grid.height, grid.width, generator=generator,
                             device=self.world.device)
        latent = latent.to(self.dtype)
        tiling = auto_tiling(latent.shape)
        kept: list[torch.Tensor] = []

        def run(chunks: Iterator[torch.Tensor], keep: bool = False) -> None:
            for chunk in chunks:
                made = to_frames(chunk[0], eight_bit=True)
                if keep:
                    kept.append(made)

        alone = self.timed(lambda: run(tiled_decode(decoder, latent, tiling)), alone=True)
        self.row(size=size, what="decode", way="one device", seconds=alone)
        taken = self.timed(lambda: run(shared_decode(self.world, decoder, latent, tiling)))
        run(shared_decode(self.world, decoder, latent, tiling), keep=True)
        same = None
        if self.world.rank == 0:
            got, kept = torch.cat(kept), []
            run(tiled_decode(decoder, latent, tiling), keep=True)
            same = bool(torch.equal(got, torch.cat(kept)))
        self.row(size=size, what="decode", way="tiles", seconds=taken, speedup=alone / taken, same_bytes=same)
        self.world.meet()


@torch.no_grad()
def rank_main(args: argparse.Namespace) -> None:
    """One process."""
    device = torch.device("cpu") if args.tiny else torch.device("cuda", args.rank)
    if args.tiny:
        torch.set_num_threads(1)
    os.environ["LTX23_GRAPHS"] = "0"
    rank = Rank(args, World.join(args.rank, args.gpus, device, args.meeting))
    heat = Work.make(args.sizes[0], rank.config, device, rank.dtype, 32 if args.tiny else TEXT).ours(rank.model)
    for _ in range(6 * (not args.tiny)):
        heat()
    rank.note("warm")
    for what in args.what:
        for size in args.sizes:
            if what == "guided":
                rank.steps(size, guided=True)
            elif what == "single":
                rank.steps(size, guided=False)
            elif what == "recorded":
                rank.steps(size, guided=True, recorded=True)
                rank.steps(size, guided=False, recorded=True)
            elif what == "queue":
                rank.queue(size)
            elif what == "decode":
                rank.decode(size)
    rank.world.meet()
    rank.note("done")
    os._exit(0)


def start(args: argparse.Namespace, folder: Path) -> list[subprocess.Popen]:
    """One process a GPU."""
    made = []
    for rank in range(args.gpus):
        command = [sys.executable, "-m", "bench", "parallel", *sys.argv[1:], "--rank", str(rank),
                   "--meeting", str(folder / "meeting"), "--rows", str(args.rows)]
        made.append(subprocess.Popen(command))
    return made


def watch(ranks: list[subprocess.Popen], rows: Path) -> str:
    """Wait for the ranks; ends them all when one fails, or when nothing comes any more. What went wrong, or ""."""
    last, seen = time.monotonic(), 0
    while any(process.poll() is None for process in ranks):
        size = rows.stat().st_size if rows.exists() else 0
        if size != seen:
            last, seen = time.monotonic(), size
        failed = [index for index, process in enumerate(ranks) if process.poll() not in (None, 0)]
        if failed or time.monotonic() - last > SILENCE:
            for process in ranks:
                process.kill()
            return f"rank {failed[0]} failed" if failed else f"no row for {SILENCE:.0f} s"
        time.sleep(0.2)
    return ""


def shown(rows: list[Row]) -> str:
    """The table."""
    lines = []
    for row in rows:
        said, speed, error = row.get("said"), row.get("speedup"), row.get("error")
        off = f"{said / row['seconds'] - 1:+.0%}" if said else "–"
        lines.append([row["size"], row["what"], row["way"], row["seconds"], f"{speed:.2f}x" if speed else "–",
                      f"{said:.3f}" if said else "–", off, f"{error:.1e}" if error is not None else
                      row.get("same_bytes", "–")])
    return table(("size", "what", "way", "seconds", "speed", "plan said", "off", "relative L2, or same bytes"), lines)


def parser() -> argparse.ArgumentParser:
    """Options; the last three are for the processes that this one starts."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--gpus", type=int, default=max(torch.cuda.device_count(), 2))
    made.add_argument("--sizes", type=lambda text: text.split(","), default=["b", "c"], help=f"of {', '.join(SIZES)}")
    made.add_argument("--what", type=lambda text: text.split(","), default=["guided", "single", "decode", "queue"],
                      help="also recorded: with CUDA graphs")
    made.add_argument("--pieces", type=lambda text: list(map(int, text.split(","))), default=[exchanges.PIECES],
                      help="of a rank's heads in an exchange, such as 1,2,4")
    made.add_argument("--ways", type=lambda text: text.split(","), help="of a guided step",
                      default=["tokens", "passes", "two phases", "as planned"])
    made.add_argument("--repeats", type=int, default=2)
    made.add_argument("--profile", action="store_true", help="kernels by class")
    made.add_argument("--tiny", action="store_true", help="small widths on the CPU: a smoke run")
    made.add_argument("--out", type=Path, help="write the rows as JSON")
    made.add_argument("--rank", type=int)
    made.add_argument("--meeting", type=Path)
    made.add_argument("--rows", type=Path)
    return made


def main() -> None:
    """Command line."""
    args = parser().parse_args()
    if args.rank is not None:
        rank_main(args)
    with tempfile.TemporaryDirectory() as folder:
        args.rows = Path(folder) / "rows.jsonl"
        problem = watch(start(args, Path(folder)), args.rows)
        rows = []
        if args.rows.exists():
            rows = [json.loads(line) for line in args.rows.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if "kernels" in row:
            print(f"# kernels of {row['size']} {row['what']}, {row['way']}: {row['kernels']}")
    print(shown(rows))
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    if problem:
        sys.exit(f"not complete: {problem}")
