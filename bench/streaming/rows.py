"""One call of the transformer within a budget: seconds, bits, memory, and what the bus and the device take alone."""
from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ltx23_core import Overlay
from ltx23_core.config import TransformerConfig
from ltx23_core.errors import OutOfMemoryError
from ltx23_core.geometry import audio_latent_length, audio_positions, video_grid, video_positions
from ltx23_core.memory.estimates import sampling_bytes
from ltx23_core.memory.room import Memory, Placement, place
from ltx23_core.models.registry import STACKS, build
from ltx23_core.models.transformer.graphs import most_tokens
from ltx23_core.models.transformer.inputs import Pass, Perturbation, StreamInput
from ltx23_core.runtime.block_source import Arrival, Parts
from ltx23_core.runtime.component import Component
from ltx23_core.runtime.policy import policy_for
from ltx23_core.runtime.second_try import SecondTry, shrink
from ltx23_core.weights.pages import registered_bytes

SIZES = {"768x512": (768, 512, 121), "1280x704": (1280, 704, 121), "tiny": (64, 64, 9)}


class Card:
    """What is asked of the device's allocator; nothing where there is none, for smoke runs on a CPU.

    Args:
        device: that computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.there = device, device.type == "cuda"

    def wait(self) -> None:
        """For all that was asked of it."""
        if self.there:
            torch.cuda.synchronize()

    def limit(self, budget: float | None) -> None:
        """Most GB that torch may take; None: all."""
        if self.there:
            total = torch.cuda.get_device_properties(self.device).total_memory
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(min(1.0, (budget or 1e3) * 1e9 / total), self.device)

    def allocated(self) -> int:
        """Bytes now."""
        return torch.cuda.memory_allocated() if self.there else 0

    def peak(self) -> tuple[int, int]:
        """Most bytes that were allocated, and that were reserved."""
        if not self.there:
            return 0, 0
        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()

    def from_now(self) -> None:
        """Peaks count from here."""
        if self.there:
            torch.cuda.reset_peak_memory_stats()

    def retries(self) -> int:
        """How often the allocator had to begin again."""
        return torch.cuda.memory_stats()["num_alloc_retries"] if self.there else 0


class Steps:
    """One call of the transformer on random inputs, as a step of sampling makes it."""

    def __init__(self, overlay: Overlay, size: tuple[int, int, int], device: torch.device) -> None:
        config = TransformerConfig.from_dict(overlay.require("transformer").config)
        grid, length = video_grid(*size), audio_latent_length(size[2], 24.0)
        generator = torch.Generator(device).manual_seed(1)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).bfloat16()

        sigma = torch.full((1,), 0.7, device=device)
        self.streams = [StreamInput(latent, sigma, sigma[:, None]) for latent in (
            random(1, grid.tokens, config.video.in_channels), random(1, length, config.audio.in_channels))]
        v, a, nv, na = (random(1, 1024, width) for width in (config.video.width, config.audio.width) * 2)
        skip = frozenset((28,))
        self.passes = [Pass(v, a), Pass(nv, na), Pass(v, a, Perturbation(skip, skip)),
                       Pass(v, a, Perturbation(cross=True))]
        self.positions = video_positions(grid, 24.0).to(device), audio_positions(length).to(device)
        recorded = grid.tokens <= most_tokens(device)
        self.bytes = {count: sampling_bytes(config, grid.tokens, length, count, 1, 2, recorded=recorded)
                      for count in (1, 4)}

    def run(self, component: Component, passes: int) -> list[Tensor]:
        """Velocities of the first passes."""
        model = component.module
        whole = SecondTry(model, partial(shrink, component, self.bytes[passes]),
                          lambda: OutOfMemoryError("the step does not fit", "a plan that holds", "Look at it."))
        with torch.no_grad():
            tables = model.tables(*self.positions, torch.bfloat16)
            found = whole(*self.streams, self.passes[:passes], tables)
        return [part for pair in found for part in pair]


def timed(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of a call, and of them those in which the host asked; the first two have run."""
    seconds, asking = [], []
    wait = torch.cuda.synchronize if torch.cuda.is_available() else bool
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        function()
        asking.append(time.perf_counter() - start)
        wait()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), statistics.median(asking)


def ram_gb() -> tuple[float, float]:
    """Memory of the process that is no file's; and that is a file's or shared, such as its registered pages."""
    table = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        table[name] = value
    rows = [int(table[name].split()[0]) * 1024 / 1e9 for name in ("RssAnon", "RssFile", "RssShmem")]
    return rows[0], rows[1] + rows[2]


def beside_torch_gb() -> float:
    """Device memory in use that torch's allocator does not have: context, kernels, libraries (and other processes)."""
    free, total = torch.cuda.mem_get_info()
    return (total - free - torch.cuda.memory_reserved()) / 1e9


class Nothing:
    """A source that brings nothing: what a step takes with the streamed blocks' work but without their copies."""

    def fetch(self, parts: Parts) -> Arrival:
        """See `BlockSource`."""
        return self

    def wait(self) -> None:
        """See `Arrival`."""

    def close(self) -> None:
        """See `BlockSource`."""


def apart_of(component: Component, run: Callable[[], object]) -> tuple[float, float, float]:
    """Seconds of a step that copies nothing, seconds of its copies alone, and their GB; weights are wrong meanwhile."""
    stream = component._policy._stream
    source, stream._source = stream._source, Nothing()
    alone, _ = timed(run, 2)
    stream._source = source
    wanted = [stream._parts[number, place] for number in stream._order
              for place in range(len(stream._places))
              if (number, place) in stream._parts][:len(stream._order)]
    size = sum(target.numel() for parts in wanted for _, target in parts) / 1e9

    def copies() -> None:
        for arrival in [source.fetch(parts) for parts in wanted]:
            arrival.wait()

    copying, _ = timed(copies, 2)
    stream._holds = [None] * len(stream._holds)  # and are right again from the next step on
    return alone, copying, size


class Rows:
    """The measurements, each printed as it comes."""

    def __init__(self, device: torch.device) -> None:
        """Remember what the process has before anything is loaded."""
        self.device, self.card = device, Card(device)
        torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)
        self.before = ram_gb()[0]
        self.best: dict[tuple[str, str, int], float] = {}  # (weights, size, passes) -> seconds, and within 8 GB
        self.within: dict[tuple[str, str, int, float | None], float] = {}
        self.wanted: dict[tuple[str, str, int], list[Tensor]] = {}

    def say(self, *row: object) -> None:
        """One line of the table."""
        print(" | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row if cell != ""),
              flush=True)

    def component(self, name: str, overlay: Overlay) -> Component:
        """As a pipeline makes it."""
        entry = overlay.require(name)
        return Component(name, lambda: build(name, entry.config), entry.tensors, torch.bfloat16, stack=STACKS[name],
                         verify=overlay.verify)

    def steps(self, name: str, overlay: Overlay, component: Component, size: str, passes: int,
              budgets: tuple[float | None, ...], repeats: int = 2, want: list[Tensor] | None = None,
              apart: bool = False) -> None:
        """One row a budget: seconds, the ratio to the first row, bits, and peak against the plan.

        Args:
            name: of the weights.
            overlay: with them.
            component: the transformer, which keeps its registered pages.
            size: of `SIZES`.
            passes: 1 or 4.
            budgets: in GB; None: no limit.
            repeats: timed calls.
            want: what all must equal, of rows before; an empty list takes the first result, None those of the same
                weights, size and passes.
            apart: whether streamed rows also say what a step takes without its copies, and these alone.
        """
        work = Steps(overlay, SIZES[size], self.device)
        want = self.wanted.setdefault((name, size, passes), []) if want is None else want
        for budget in budgets:
            self.card.limit(budget)
            # Recordings are the allocator's (reserved), and end when the component is placed.
            base = self.card.allocated() - (component.loaded_bytes - component.recorded_bytes)
            memory = Memory() if budget is None else Memory("auto", int(budget * 1e9))
            row = name, size, f"{passes} passes", f"budget {budget}"
            try:
                [placed] = place([component.need()], float("inf"), work.bytes[passes] + base, memory)
                self.say(*row, *self.step(component, work, passes, placed, base, want, repeats,
                                          (name, size, passes, budget)))
                if apart and component.streamed:
                    alone, copying, brought = apart_of(component, partial(work.run, component, passes))
                    self.say(*row, f"no copies {alone:.3f}, copies alone {copying:.3f} = {brought / copying:.1f} GB/s")
            except (torch.cuda.OutOfMemoryError, OutOfMemoryError) as error:
                self.say(*row, "DOES NOT FIT", str(error)[:300],
                         f"peak {(self.card.peak()[0] - base) / 1e9:.2f}",
                         f"reserved {self.card.peak()[1] / 1e9:.2f}")
                component.release()
        component.release()
        self.card.limit(None)

    def step(self, component: Component, work: Steps, passes: int, placed: Placement, base: int, want: list[Tensor],
             repeats: int, key: tuple[str, str, int, float | None]) -> list[object]:
        """The cells of one placement; ``want`` takes the first result, which all others must equal."""
        start = time.perf_counter()
        component.place(policy_for(placed), self.device)
        self.card.wait()
        loading = time.perf_counter() - start
        self.card.from_now()
        start = time.perf_counter()
        got = [part.cpu() for part in work.run(component, passes)]
        cold = time.perf_counter() - start
        if not component.streamed:
            work.run(component, passes)  # is recorded as graphs
        retries = self.card.retries()
        seconds, host = timed(lambda: work.run(component, passes), repeats)
        retries = self.card.retries() - retries
        want += [] if want else got
        self.within[key] = seconds
        first = self.best.setdefault(key[:3], seconds)
        peak, plan = (self.card.peak()[0] - base) / 1e9, (placed.peak + work.bytes[passes]) / 1e9
        cells = [placed.text, f"placed in {loading:.2f}", f"first {cold:.3f}", f"step {seconds:.3f}",
                 f"host {host:.3f}", f"x{seconds / first:.3f}",
                 "bits equal" if all(map(torch.equal, got, want)) else "BITS DIFFER",
                 f"peak {peak:.2f} of planned {plan:.2f}", f"reserved {self.card.peak()[1] / 1e9:.2f}"]
        anonymous, files = ram_gb()
        cells += [f"allocator began again {retries} times" if retries else "",
                  "" if component.streamed == placed.streamed else f"SECOND TRY: {component.streamed} streamed",
                  f"RAM {anonymous - self.before:+.2f} GB",
                  f"files' {files:.1f}, registered {registered_bytes() / 1e9:.1f}"]
        return cells
