"""Encoding prompts with Gemma 3 12B, projection and connectors: seconds, peaks against plan, RAM, bits.

    python -m bench text --folder /dev/shm/w [--budgets stream,2,auto] [--words 900]
    python -m bench text --folder DIR --holes layers   # Gemma's layers are zeros, which need not be written
    python -m bench text --folder DIR --holes all      # files without blocks on the disk: RAM, on any computer

Files of the true 22B layout with random weights. Each budget limits the process too, so a plan that does not hold
fails. The same prompt must give the same bits under every budget.
"""
from __future__ import annotations

import argparse
import json
import shutil
import threading
import time
from pathlib import Path

import torch
from torch import Tensor

from ltx23_core import Overlay, Pipeline, materialize
from ltx23_core.memory.room import Memory, placed_so
from ltx23_core.runtime.component import Component
from ltx23_core.runtime.residency import LocalResidency

from .generate_weights import (
    GEMMA_12B,
    TOKENIZER,
    TOKENIZER_FILES,
    Layout,
    gemma_layout,
    header_bytes,
    manifest_22b,
    random_tensors,
    write_gemma,
)
from .measure import table

HEAD = ("memory", "what", "placed", "peak GB", "planned GB", "plan")
TINY = TOKENIZER.parent / "ltx-2.3-tiny.safetensors"
WORDS = "a boat on a lake at dawn while gulls call over the water and the wind moves the reeds ".split()


class Noting(LocalResidency):
    """A residency that notes, of each use, what it planned and what the device then had at most."""

    def __init__(self, device: torch.device, memory: str) -> None:
        super().__init__(device, memory=memory)
        self.notes: list[list[object]] = []
        self._planned, self._what = 0.0, ("", "")

    def use(self, *components: Component, activation_bytes: int = 0, how: str = "") -> None:
        """See `LocalResidency`."""
        self.end()
        super().use(*components, activation_bytes=activation_bytes, how=how)
        placed = [placed_so(each.need(), each.streamed) for each in components]
        others = self._loaded_bytes() - sum(each.loaded_bytes for each in components)
        self._planned = sum(each.peak for each in placed) + activation_bytes + others
        self._what = " + ".join(each.name for each in components), ", ".join(each.text for each in placed)

    def end(self) -> None:
        """Note the peak of the use so far."""
        if self._what[0]:
            peak = 0.0
            if self.device.type == "cuda":
                torch.cuda.synchronize()
                peak = torch.cuda.max_memory_allocated() / 1e9
            planned, says = self._planned / 1e9, ""
            if peak:
                says = "EXCEEDED" if peak > planned else f"{100 * (planned / peak - 1):.1f} % above"
            self.notes.append([*self._what, f"{peak:.3f}", f"{planned:.3f}", says])
        self._what = "", ""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()


def text_first() -> tuple[Layout, Layout, dict[str, str]]:
    """The checkpoint's layout beginning with what a prompt needs, that part alone, and its metadata."""
    tensors, metadata = manifest_22b()
    text = {}
    for name, spec in tensors.items():
        if "_connector." in name or name.startswith("text_embedding_projection."):
            text[name] = spec
    return text | tensors, text, metadata


def write_file(path: Path, layout: Layout, first: Layout, metadata: dict[str, str] | None, filled: bool,
               device: torch.device) -> None:
    """A file of zeros that take no room, of which ``first``, what it begins with, may be filled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header, size = header_bytes(layout, metadata)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)
        if filled:
            for _, tensor in random_tensors(first, device):
                file.write(tensor.contiguous().reshape(-1).view(torch.uint8).cpu().numpy())


def files(folder: Path, holes: str, device: torch.device) -> Overlay:
    """The files, and their overlay. ``holes``: of the command line."""
    checkpoint, gemma = folder / "ltx-2.3-22b-text.safetensors", folder / "gemma"
    write_file(checkpoint, *text_first(), holes != "all", device)
    if holes:
        layout = gemma_layout(GEMMA_12B)
        beside = {name: spec for name, spec in layout.items() if ".layers." not in name}
        write_file(gemma / "model.safetensors", beside | layout, beside, None, holes != "all", device)
        for name in TOKENIZER_FILES:
            shutil.copy(TOKENIZER / name, gemma / name)
        (gemma / "config.json").write_text(json.dumps(GEMMA_12B))
    else:
        write_gemma(gemma, GEMMA_12B, device)
    return materialize(checkpoint, gemma, output=folder / "text.json")


def status(name: str) -> float:
    """A line of /proc/self/status in GB; 0 where there is none."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    except OSError:
        return 0.0
    return int(lines[name].split()[0]) * 1024 / 1e9


class Anonymous:
    """The most memory of the process that is no file's, looked at every 10 ms."""

    def __init__(self) -> None:
        self.first = self.most = status("RssAnon")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(0.01):
            self.most = max(self.most, status("RssAnon"))

    def end(self) -> str:
        """At most, and now."""
        self._stop.set()
        self._thread.join()
        return f"+{self.most - self.first:.2f} GB at most, +{status('RssAnon') - self.first:.2f} afterwards"


def warm(folder: Path, device: torch.device) -> None:
    """Import and load what every process that encodes has: transformers, the libraries of products and attention."""
    start = status("RssAnon")
    overlay = materialize(TINY, TOKENIZER, output=folder / "tiny.json")
    pipe = Pipeline(overlay, device=device, dtype="bf16")
    pipe.encode("warm", "")
    pipe.residency.release()
    print(f"# libraries: RAM +{status('RssAnon') - start:.2f} GB", flush=True)


def encode(overlay: Overlay, memory: str, prompt: str, device: torch.device) -> tuple[list[list[object]], list[Tensor]]:
    """Rows of one budget, and the contexts."""
    residency = Noting(device, memory)
    pipe = Pipeline(overlay, residency=residency, dtype="bf16")
    rows, made = [], []
    for number in range(2):
        ram, start = Anonymous(), time.perf_counter()
        pair = pipe.encode(f"{prompt} {number}", "")
        residency.end()
        seconds = time.perf_counter() - start
        for note in residency.notes:
            rows.append([memory, *note])
        residency.notes.clear()
        rows.append([memory, f"prompt {number}, {len(prompt.split())} words, and an empty one",
                     f"{seconds:.2f} s", "", "", f"RAM beyond the page cache {ram.end()}"])
        made = [pair.positive.video, pair.positive.audio]
    start = time.perf_counter()
    pipe.encode(f"{prompt} 1", "")
    rows.append([memory, "the same prompt again", f"{time.perf_counter() - start:.4f} s", "", "", ""])
    residency.release()
    return rows, made


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--budgets", type=lambda text: text.split(","), default=["stream", "2", "auto"])
    parser.add_argument("--words", type=int, default=900)
    parser.add_argument("--holes", choices=("", "layers", "all"), default="", help="what is not written")
    parser.add_argument("--tiny", action="store_true", help="the tiny model: a smoke run")
    parser.add_argument("--keep", action="store_true", help="leave the files")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    start = time.perf_counter()
    if args.tiny:
        args.folder.mkdir(parents=True, exist_ok=True)
        overlay = materialize(TINY, TOKENIZER, output=args.folder / "text.json")
    else:
        overlay = files(args.folder, args.holes, device)
    print(f"# files in {time.perf_counter() - start:.1f} s", flush=True)
    warm(args.folder, device)
    prompt = " ".join((WORDS * (args.words // len(WORDS) + 1))[:args.words])
    rows, first = [], None
    for memory in args.budgets:
        limit = Memory.parse(memory).budget
        if device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(min(1.0, (limit or total) / total))
        made, contexts = encode(overlay, memory, prompt, device)
        first = first or contexts
        equal = all(map(torch.equal, first, contexts))
        rows += [*made, [memory, "bits", "equal to the first budget's" if equal else "DIFFER", "", "", ""]]
        for row in made:
            print("#", *row, flush=True)
    print(table(HEAD, rows))
    if not args.keep:
        shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
