"""Loading: a bare reader, registered pages, a component; and Gemma layer by layer."""
from __future__ import annotations

import math
import time
from pathlib import Path

import torch

from bench.generate_weights import GEMMA_12B, PREFIX
from ltx23_core import Overlay
from ltx23_core.models.registry import STACKS, build
from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.overlay.bytes.source import TensorRef
from ltx23_core.runtime.component import Component
from ltx23_core.runtime.policy import Streamed
from ltx23_core.weights.pages import Pages
from ltx23_core.weights.reader import RangeReader, read_tensors

from .rows import Rows, ram_gb


def transformer(path: Path, most: float = math.inf) -> tuple[dict[str, TensorRef], float]:
    """A file's tensors of the transformer, at most so many GB of them; and how many that are."""
    found, size = {}, 0.0
    tensors = read_header(path).tensors
    inside = {name: ref for name, ref in tensors.items() if name.startswith(PREFIX)} or tensors
    for name, ref in inside.items():
        if size < most:
            found[name] = ref
            size += ref.size_bytes / 1e9
    return found, size


def ranges(rows: Rows, path: Path, what: str) -> None:
    """Ranges of a file as they are, to the device: by the ring, registering, then by registered pages."""
    refs, size = transformer(path)
    rows.card.wait()
    start = time.perf_counter()
    kept = dict(read_tensors(refs, rows.device, None))
    rows.card.wait()
    ring = size / (time.perf_counter() - start)
    del kept
    pages = Pages(rows.device)
    start = time.perf_counter()
    spans = [pages.spans(ref) for ref in refs.values()]
    registering = time.perf_counter() - start
    rates = []
    for _ in range(3):
        reader = RangeReader(rows.device, pages)
        start = time.perf_counter()
        reader.expect(refs.values())
        kept = [reader.read(ref, None) for ref in refs.values()]
        rows.card.wait()
        rates.append(round(size / (time.perf_counter() - start), 1))
        reader.close()
        del kept
    held = pages.held_bytes / 1e9
    start = time.perf_counter()
    pages.close()
    giving = time.perf_counter() - start
    rows.say("ranges", what, f"{size:.1f} GB", f"ring {ring:.1f} GB/s",
             f"registered {held:.1f} GB in {registering:.2f} s = {held / registering:.1f} GB/s",
             f"then {rates} GB/s", f"given back in {giving:.2f} s", f"refused {sum(each is None for each in spans)}")


def component(rows: Rows, overlay: Overlay, what: str) -> None:
    """The transformer placed whole again and again: the first time by the ring, then by the pages; RAM beside files."""
    made = rows.component("transformer", overlay)
    size, rates = made.size_bytes / 1e9, []
    for _ in range(3):
        rows.card.wait()
        start = time.perf_counter()
        made.load(rows.device)
        rows.card.wait()
        rates.append(round(size / (time.perf_counter() - start), 1))
        made.release()
    rows.say("component", what, f"{size:.1f} GB on the device", f"loads {rates} GB/s",
             f"RAM {ram_gb()[0] - rows.before:+.2f} GB")
    made.release(pages=True)


def gemma(rows: Rows, folder: Path) -> None:
    """One prompt through Gemma 12B, streamed layer by layer, against resident."""
    from ltx23_core.models.text.gemma import hidden_states
    refs = {name.removeprefix("language_model.model."): ref
            for name, ref in read_header(folder / "model.safetensors").tensors.items()}
    ids, found = list(range(2, 200)), {}
    for way, placing in (("resident", None), ("streamed", Streamed(48))):
        made = Component("text_encoder", lambda: build("text_encoder", dict(GEMMA_12B)), refs, torch.bfloat16,
                         stack=STACKS["text_encoder"])
        start = time.perf_counter()
        made.load(rows.device) if placing is None else made.place(placing, rows.device)
        rows.card.wait()
        loading = time.perf_counter() - start
        rows.card.limit(None)
        rows.card.from_now()
        times = []
        for _ in range(3):
            start = time.perf_counter()
            states = hidden_states(made.module, ids)
            rows.card.wait()
            times.append(round(time.perf_counter() - start, 3))
        found[way] = [state.cpu() for state in states]
        rows.say("gemma", way, f"placed in {loading:.2f}", f"prompts of {len(ids)} tokens {times}",
                 f"peak {rows.card.peak()[0] / 1e9:.2f} GB",
                 f"RAM {ram_gb()[0] - rows.before:+.2f} GB")
        made.release(pages=True)
    rows.say("gemma", "bits equal" if all(map(torch.equal, *found.values())) else "BITS DIFFER")
