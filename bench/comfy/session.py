"""One server and what is asked of it; each request is a row: what, seconds, peak, RAM, verdict."""
from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.host.client import HostClient, Run
from tools.client import ClientError, Graph
from tools.host import ComfyUI, HostError, Server

from .files import ROOT, Models, environment
from .graphs import LATENT
from .watch import Watch

PLACED = re.compile(r"free: .*?transformer (resident|streamed \d+ of \d+ blocks).*?peak ([\d.]+) GB")
IDLE_SECONDS = 8.0  # at most, for what POST /free asks: the server does it between prompts
STILL_SECONDS = 1.5
ASK_AGAIN = 1.0
REST_SECONDS = 11.0  # ComfyUI gives back what its allocator keeps 10 s after it last did, and between prompts alone
FULL_SECONDS = 120.0  # for one event of a prompt
HEAD = ("what", "seconds", "peak GB", "RAM GB", "verdict")


@dataclass
class Table:
    """All rows, each printed as it comes."""

    rows: list[tuple[object, ...]] = field(default_factory=list)

    def add(self, *row: object) -> None:
        """One row."""
        self.rows.append(row)
        print("# " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row), flush=True)


@dataclass
class Session:
    """A running server with some options."""

    models: Models
    watch: Watch
    table: Table
    comfy: ComfyUI
    options: Sequence[str]
    name: str = ""
    server: Server | None = None
    latents: dict[str, torch.Tensor] = field(default_factory=dict)  # of the first run of each kind
    _seen: int = 0  # characters of the log

    def __enter__(self) -> Session:
        """Start."""
        begin = time.perf_counter()
        self.server = Server(self.comfy, self.models.base, self.models.base.root / f"server{self.name}.log",
                             options=self.options, environment=dict(environment()))
        self.server.start()
        self.watch.pid = self.server.process.pid
        self.client = HostClient(self.server.url, self.models.base.root, FULL_SECONDS)
        self.watch.begin()
        self.idle = self.watch.now
        self.table.add(f"server {' '.join(self.options)}", time.perf_counter() - begin, self.watch.peak,
                       self.watch.ram, "started")
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.client.close()
        self.server.stop()
        self.watch.pid = 0

    def log(self) -> str:
        """What the server printed since the last question."""
        text = self.server.log_text()
        fresh, self._seen = text[self._seen:], len(text)
        return fresh

    def placed(self) -> str:
        """Where the log says that the transformer was."""
        found = PLACED.findall(self.log())
        return "" if not found else f"{found[-1][0]}, planned {found[-1][1]}"

    def run(self, what: str, graph: Graph, most: float | None = None, same_as: str = "") -> Run | None:
        """One prompt to its end.

        Args:
            what: for the table.
            graph: of the prompt.
            most: GB that it may take at most.
            same_as: name under which the first latent is kept that all others with this name must equal.
        """
        self.watch.begin()
        self.log()
        begin = time.perf_counter()
        try:
            run = self.client.run(graph)
        except (ClientError, OSError, HostError) as error:
            self.table.add(what, time.perf_counter() - begin, self.watch.peak, self.watch.ram, f"FAILED: {error}"[:400])
            return None
        seconds, words = time.perf_counter() - begin, []
        if not run.ok:
            words.append(f"FAILED: {(run.error or {}).get('exception_message', run.events[-1].type)}"[:400].strip())
        elif same_as:
            words.append(self._compared(run, same_as))
        if most is not None and self.watch.peak > most:
            words.append(f"OVER {most:.1f} GB")
        words.append(self.placed())
        self.table.add(what, seconds, self.watch.peak, self.watch.ram, "; ".join(filter(None, words)) or "ok")
        return run

    def _compared(self, run: Run, name: str) -> str:
        """Whether the latent that a run saved has the bits of the first of that name."""
        [entry] = run.outputs[LATENT]["latents"]
        latent = load_file(self.client.file(entry))["latent_tensor"]
        if name not in self.latents:
            self.latents[name] = latent
            return "finite" if torch.isfinite(latent.float()).all() else "NOT FINITE"
        return "bits equal" if torch.equal(latent, self.latents[name]) else "BITS DIFFER"

    def interrupt(self, what: str, graph: Graph, when: Callable[[object], bool], wait: float = 0.0) -> None:
        """Queue a prompt, wait for an event and some seconds, and interrupt; the row says what came of it."""
        self.watch.begin()
        prompt, asked, steps = self.client.queue(graph), 0.0, 0.0
        last = ""
        for event in self.client.events(prompt):
            last = event.type
            for state in event.data.get("nodes", {}).values() if event.type == "progress_state" else ():
                steps = max(steps, state["value"] if state["state"] == "running" else 0)
            if not asked and when(event):
                time.sleep(wait)
                self.client.interrupt()
                asked = time.perf_counter()
        seconds = time.perf_counter() - asked
        good = last == "execution_interrupted" and asked
        self.table.add(what, seconds, self.watch.peak, self.watch.ram,
                       f"{'interrupted' if good else 'NOT INTERRUPTED: ' + last} after step {steps:.0f}, "
                       f"{self.watch.now - self.idle:.1f} GB kept")

    def rest(self) -> None:
        """Let the server be idle until what it holds is in use, and not what its allocator keeps for the next prompt.

        Measured on an H200, 20 prompts of 2 to 11 s: right behind one in three of them ComfyUI had just given that
        back, behind the others 1.1 to 1.2 GB more were held.
        """
        if self.watch.card.free():
            time.sleep(REST_SECONDS)

    def free(self, what: str = "", *, outputs: bool = True) -> None:
        """POST /free, and wait until the card changes no more.

        It is asked again meanwhile: ComfyUI 0.3.75 misses it while it collects garbage after a prompt, and would do it
        after the next one.
        """
        begin = still = asked = time.perf_counter()
        self.client.free(unload_models=True, free_memory=outputs)
        left = self.watch.now
        while time.perf_counter() < min(still + STILL_SECONDS, begin + IDLE_SECONDS):
            time.sleep(0.1)
            if abs(self.watch.now - left) > 0.01:
                left, still = self.watch.now, time.perf_counter()
            elif time.perf_counter() > asked + ASK_AGAIN and left - self.idle > 1:
                self.client.free(unload_models=True, free_memory=outputs)
                still = asked = time.perf_counter()
        left -= self.idle
        if what:
            self.watch.begin()
            self.table.add(what, time.perf_counter() - begin, self.watch.now, self.watch.ram,
                           f"{left:.2f} GB more than before the first prompt")


def front_end(folder: Path) -> Path:
    """A page for the server, which starts with none of its own: nobody looks at it here."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text("<!doctype html><title>none</title>")
    return folder


def pack(models: Models) -> None:
    """This repository as a custom node."""
    models.base.link_pack("ltx23", ROOT)
