"""22B within a budget of device memory: streamed against resident in time, memory and bits; what registering brings.

    python -m bench streaming --folder /dev/shm/w [--disk DIR] [--gemma] [--short]

Writes transformers of random weights in the true 22B layout (bf16, 38 GB, and fp8, 20 GB), each block with its own
numbers, and reads them in every way. Budgets limit the process's allocator too, so a plan that does not hold fails.
"""
from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench import registering
from bench.generate_weights import GEMMA_12B, Layout, gemma_layout, manifest_22b, random_tensor
from bench.loading import drop_cache
from ltx23_core import Overlay, materialize
from ltx23_core.config import TransformerConfig
from ltx23_core.errors import OutOfMemoryError
from ltx23_core.geometry import audio_latent_length, audio_positions, video_grid, video_positions
from ltx23_core.memory.estimates import sampling_bytes
from ltx23_core.memory.ram import total_ram
from ltx23_core.memory.room import Memory, place
from ltx23_core.models.registry import STACKS, build
from ltx23_core.models.transformer.inputs import Pass, Perturbation, StreamInput
from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.runtime.component import Component
from ltx23_core.runtime.policy import Streamed, policy_for
from ltx23_core.runtime.second_try import SecondTry, shrink
from ltx23_core.weights.pages import Pages, registered_bytes
from ltx23_core.weights.reader import RangeReader, read_tensors

PREFIX = "model.diffusion_model."
DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn}
SIZES = {"768x512": (768, 512, 121), "1280x704": (1280, 704, 121)}
BUS = 55e9


def transformer_layout(fp8: bool) -> tuple[Layout, dict[str, str]]:
    """Tensors of the transformer alone; with ``fp8`` the matrices of blocks as e4m3 with one scale each."""
    tensors, metadata = manifest_22b()
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (dtype, shape) in tensors.items():
        if not name.startswith(PREFIX) or "_connector." in name:
            continue
        packed = fp8 and ".transformer_blocks." in name and name.endswith(".weight") and len(shape) == 2
        layout[name] = ("F8_E4M3" if packed else dtype, shape)
        if packed:
            layout[name + "_scale"] = ("F32", ())
    return layout, metadata


def write(path: Path, layout: Layout, metadata: Mapping[str, str] | None, device: torch.device) -> float:
    """Write random weights of a layout with several threads; returns GB."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    places, end = {}, 0
    for name, (dtype, shape) in layout.items():
        size = math.prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        places[name], end = end, end + size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 256)
    head = struct.pack("<Q", len(text)) + text
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, ThreadPoolExecutor(12) as pool:
        file.write(head)
        file.flush()
        os.truncate(path, len(head) + end)
        room = threading.Semaphore(24)

        def put(data: memoryview, at: int) -> None:
            try:
                done = 0
                while done < len(data):
                    done += os.pwrite(file.fileno(), data[done:], at + done)
            finally:
                room.release()

        jobs = []
        for name, tensor in random_tensors(layout, device):
            data = memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).cpu().numpy())
            room.acquire()
            jobs.append(pool.submit(put, data, len(head) + places[name]))
        for job in jobs:
            job.result()
    return (len(head) + end) / 1e9


def random_tensors(layout: Layout, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Weights that keep signals near unit size; a scale goes with the weight before it."""
    peak = 1.0
    for name, (dtype, shape) in layout.items():
        if name.endswith("_scale"):
            yield name, torch.tensor(peak / 448, dtype=torch.float32)
        elif dtype == "F8_E4M3":
            weight = random_tensor(name, shape, torch.float32, device)
            peak = weight.abs().max().item()
            yield name, (weight * (448 / peak)).to(torch.float8_e4m3fn)
        else:
            yield name, random_tensor(name, shape, DTYPES[dtype], device)


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
        self.bytes = {count: sampling_bytes(config, grid.tokens, length, count, 1, 2) for count in (1, 4)}

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
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        asking.append(time.perf_counter() - start)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), statistics.median(asking)


def anonymous_gb() -> float:
    """Memory of the process that is no file's."""
    table = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(table["RssAnon"].split()[0]) * 1024 / 1e9


def beside_torch_gb() -> float:
    """Device memory in use that torch's allocator does not have: context, kernels, libraries (and other processes)."""
    free, total = torch.cuda.mem_get_info()
    return (total - free - torch.cuda.memory_reserved()) / 1e9


class Bench:
    """The measurements, each printed as it comes."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.total = device, torch.cuda.get_device_properties(device).total_memory

    def say(self, *row: object) -> None:
        """One line of the table."""
        print(" | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row), flush=True)

    def component(self, name: str, overlay: Overlay) -> Component:
        """As a pipeline makes it."""
        entry = overlay.require(name)
        return Component(name, lambda: build(name, entry.config), entry.tensors, torch.bfloat16, stack=STACKS[name],
                         verify=overlay.verify)

    def limit(self, budget: float | None) -> None:
        """Most GB that torch may take; None: all."""
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, (budget or 1e3) * 1e9 / self.total), self.device)

    def steps(self, name: str, overlay: Overlay, size: str, passes: int, budgets: tuple[float | None, ...],
              repeats: int = 2) -> None:
        """One row a budget: seconds, the ratio to the first row, bits, and peak against the plan."""
        component, work = self.component("transformer", overlay), Steps(overlay, SIZES[size], self.device)
        first, want = None, None
        for budget in budgets:
            self.limit(budget)
            # Recordings are the allocator's (reserved), and end when the component is placed.
            base = torch.cuda.memory_allocated() - (component.loaded_bytes - component.recorded_bytes)
            memory = Memory() if budget is None else Memory("auto", int(budget * 1e9))
            try:
                [placed] = place([component.need()], float("inf"), work.bytes[passes] + base, memory)
            except OutOfMemoryError as error:
                self.say(name, size, f"{passes} passes", budget, str(error))
                continue
            try:
                start = time.perf_counter()
                component.place(policy_for(placed), self.device)
                torch.cuda.synchronize()
                loading = time.perf_counter() - start
                torch.cuda.reset_peak_memory_stats()
                ready = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
                start = time.perf_counter()
                got = [part.cpu() for part in work.run(component, passes)]
                cold = time.perf_counter() - start
                work.run(component, passes)  # resident: the second one is recorded as graphs
                retries = torch.cuda.memory_stats()["num_alloc_retries"]
                seconds, host = timed(lambda: work.run(component, passes), repeats)
            except (torch.cuda.OutOfMemoryError, OutOfMemoryError) as error:
                self.say(name, size, f"{passes} passes", budget, placed.text, "DOES NOT FIT", str(error)[:400],
                         f"peak {(torch.cuda.max_memory_allocated() - base) / 1e9:.2f}",
                         f"reserved {torch.cuda.max_memory_reserved() / 1e9:.2f}")
                component.release()
                continue
            peak, plan = (torch.cuda.max_memory_allocated() - base) / 1e9, (placed.peak + work.bytes[passes]) / 1e9
            first, want = first or seconds, want or got
            equal = all(map(torch.equal, got, want))
            self.say(name, size, f"{passes} passes", f"budget {budget}", placed.text, f"placed in {loading:.2f}",
                     f"first {cold:.3f}", f"step {seconds:.3f}",
                     f"host {host:.3f}", f"x{seconds / first:.3f}",
                     "bits equal" if equal else "BITS DIFFER", f"peak {peak:.2f} of planned {plan:.2f}",
                     f"reserved {torch.cuda.max_memory_reserved() / 1e9:.2f}",
                     f"lost when placed {ready / 1e9:.3f}",
                     f"allocator began again {torch.cuda.memory_stats()['num_alloc_retries'] - retries} times",
                     f"beside torch {beside_torch_gb():.2f}",
                     "" if component.streamed == placed.streamed else f"SECOND TRY: {component.streamed} streamed",
                     f"registered {registered_bytes() / 1e9:.1f}", f"anonymous {anonymous_gb():.2f}")
        component.release(pages=True)
        self.limit(None)

    def loads(self, path: Path, what: str) -> None:
        """Registering, and loading with and without it."""
        refs, size = read_header(path).tensors, path.stat().st_size / 1e9
        torch.cuda.synchronize()
        start = time.perf_counter()
        kept = dict(read_tensors(refs, self.device, None))
        torch.cuda.synchronize()
        ring = size / (time.perf_counter() - start)
        del kept
        pages = Pages(self.device)
        start = time.perf_counter()
        spans = [pages.spans(ref) for ref in refs.values()]
        registering = time.perf_counter() - start
        rates = []
        for _ in range(3):
            reader = RangeReader(self.device, pages)
            start = time.perf_counter()
            reader.expect(refs.values())
            kept = [reader.read(ref, None) for ref in refs.values()]
            torch.cuda.synchronize()
            rates.append(size / (time.perf_counter() - start))
            reader.close()
            del kept
        held = pages.held_bytes / 1e9
        start = time.perf_counter()
        pages.close()
        giving = time.perf_counter() - start
        self.say("load", what, f"{size:.1f} GB", f"ring {ring:.1f} GB/s",
                 f"registered {held:.1f} GB in {registering:.2f} s = {held / registering:.1f} GB/s",
                 f"then {[round(rate, 1) for rate in rates]} GB/s", f"given back in {giving:.2f} s",
                 f"refused {sum(each is None for each in spans)}")

    def gemma(self, folder: Path) -> None:
        """One prompt through Gemma 12B, streamed layer by layer, against resident."""
        from ltx23_core.models.text.gemma import hidden_states
        config = dict(GEMMA_12B)
        refs = {name.removeprefix("language_model.model."): ref
                for name, ref in read_header(folder / "model.safetensors").tensors.items()}
        ids, found = list(range(2, 200)), {}
        for way, placing in (("resident", None), ("streamed", Streamed(48))):
            component = Component("text_encoder", lambda: build("text_encoder", config), refs, torch.bfloat16,
                                  stack=STACKS["text_encoder"])
            start = time.perf_counter()
            component.load(self.device) if placing is None else component.place(placing, self.device)
            torch.cuda.synchronize()
            loading = time.perf_counter() - start
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            times = []
            for _ in range(3):
                start = time.perf_counter()
                states = hidden_states(component.module, ids)
                torch.cuda.synchronize()
                times.append(round(time.perf_counter() - start, 3))
            found[way] = [state.cpu() for state in states]
            self.say("gemma", way, f"placed in {loading:.2f}", f"prompts of {len(ids)} tokens {times}",
                     f"peak {torch.cuda.max_memory_allocated() / 1e9:.2f} GB", f"anonymous {anonymous_gb():.2f}")
            component.release(pages=True)
        self.say("gemma", "bits equal" if all(map(torch.equal, *found.values())) else "BITS DIFFER")


def budgets_hold(bench: Bench, name: str, overlay: Overlay) -> None:
    """Rows that once did not fit, and resident beside the first of them."""
    large = 16 if name == "bf16" else 12
    bench.steps(name, overlay, "768x512", 4, (None, large, 8) if name == "bf16" else (large,))
    bench.steps(name, overlay, "1280x704", 4, (large,), 1)
    bench.steps(name, overlay, "768x512", 1, (8,), 1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--disk", type=Path, help="a folder on a disk, for registering pages that come from it")
    parser.add_argument("--gemma", action="store_true")
    parser.add_argument("--short", action="store_true", help="only whether budgets hold, in about 100 seconds")
    args = parser.parse_args()
    device = torch.device("cuda", 0)
    torch.manual_seed(0)
    bench, start = Bench(device), time.perf_counter()
    bench.say(torch.cuda.get_device_name(), torch.__version__, f"RAM {(total_ram() or 0) / 1e9:.0f} GB")
    overlays = {}
    for name, fp8 in (("bf16", False), ("fp8", True)):
        path = args.folder / f"ltx-2.3-22b-dev-{name}.safetensors"
        size = write(path, *transformer_layout(fp8), device)
        overlays[name] = materialize(path, output=args.folder / f"{name}.json")
        bench.say("wrote", name, f"{size:.1f} GB", f"at {time.perf_counter() - start:.0f} s")
        if args.short:
            torch.cuda.empty_cache()
            budgets_hold(bench, name, overlays[name])
    if args.short:
        bench.say("done at", time.perf_counter() - start)
        return
    torch.cuda.empty_cache()
    bench.loads(args.folder / "ltx-2.3-22b-dev-bf16.safetensors", "tmpfs")
    registering.run(args.folder / "ltx-2.3-22b-dev-bf16.safetensors", 8)
    bench.steps("bf16", overlays["bf16"], "768x512", 4, (None, 16, 8, 4.5))
    bench.steps("bf16", overlays["bf16"], "768x512", 1, (None, 8, 3.5))
    bench.steps("bf16", overlays["bf16"], "1280x704", 4, (None, 16, 8), 1)
    bench.steps("fp8", overlays["fp8"], "768x512", 4, (None, 12, 8))
    bench.steps("fp8", overlays["fp8"], "768x512", 1, (None, 8, 4))
    bench.steps("fp8", overlays["fp8"], "1280x704", 4, (None, 12, 8), 1)
    bench.say("steps done at", time.perf_counter() - start)
    if args.disk:
        part = args.disk / "part.safetensors"
        layout, metadata = transformer_layout(False)
        few = {name: spec for name, spec in layout.items()
               if ".transformer_blocks." not in name or int(name.split(".")[3]) < 7}
        write(part, few, metadata, device)
        os.sync()
        bench.loads(part, "page cache of the disk's file")
        registering.run(part, 8)
        drop_cache(part)
        rates = time.perf_counter()
        kept = dict(read_tensors(read_header(part).tensors, device, None))
        torch.cuda.synchronize()
        bench.say("cold load", f"{part.stat().st_size / 1e9 / (time.perf_counter() - rates):.2f} GB/s", len(kept))
        del kept
        part.unlink()
    if args.gemma:
        (args.folder / "ltx-2.3-22b-dev-fp8.safetensors").unlink()
        write(args.folder / "gemma" / "model.safetensors", gemma_layout(GEMMA_12B), None, device)
        bench.gemma(args.folder / "gemma")
    bench.say("done at", time.perf_counter() - start)


if __name__ == "__main__":
    main()
