"""What a card can do: the plan for each card and precision, with what was measured under that budget.

    python -m bench cards [--measured FILE]

All but what comes from ``FILE`` is computed: plans come from the true shapes and the library's own decisions, no weight
is read and no GPU is needed. ``FILE`` is the output of ``python -m bench streaming --only bf16,fp8,q4`` on a GPU.
"""
from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from ltx23_core import Overlay, materialize
from ltx23_core.config import TEXT_TOKENS, TransformerConfig, VideoVAEConfig
from ltx23_core.decode.ways import AUTO_TILING, ways
from ltx23_core.errors import OutOfMemoryError
from ltx23_core.geometry import audio_latent_length, video_grid
from ltx23_core.memory.estimates import sampling_bytes
from ltx23_core.memory.room import CONTEXT, Memory, Need, Placement, first_fitting, place, streamed_blocks
from ltx23_core.memory.text import gemma_bytes
from ltx23_core.models.registry import STACKS, build
from ltx23_core.overlay.bytes.source import TensorRef, tensor_bytes
from ltx23_core.overlay.packed.layers import METADATA
from ltx23_core.runtime.component import Component
from ltx23_core.runtime.residency import RESERVE_BYTES
from ltx23_core.runtime.sizes import Sizes

from .generate_weights import (
    GEMMA_12B,
    PREFIX,
    Layout,
    gemma_layout,
    header_bytes,
    is_packed,
    manifest_22b,
    packed_layout,
)
from .measure import table
from .streaming import gguf

CARDS = (8, 12, 16, 24, 32, 48, 80)  # GiB, as they are sold
PRECISIONS = ("bf16", "fp8", "int8", "NVFP4", "Q8_0", "Q4_K")
SIZES = {"768x512": (768, 512, 121), "1280x704": (1280, 704, 121), "1920x1088": (1920, 1088, 121)}
PASSES = 4
BUSES = {"PCIe 4": 25e9, "PCIe 3": 12.5e9}  # bytes a second of 16 lanes, what such links reach in practice
Measured = Mapping[tuple[str, str, float], float]  # (precision, size, budget in GB) -> seconds of a step


def capacity(card: int) -> int:
    """Bytes that weights and activations may take on a card that nothing else uses."""
    return int(card * 2**30 - CONTEXT - RESERVE_BYTES)


def budget(card: int) -> float:
    """The same in GB, as a budget is written."""
    return round(capacity(card) / 1e9, 2)


def activations(config: TransformerConfig, size: str) -> int:
    """Bytes of a guided step."""
    width, height, frames = SIZES[size]
    return sampling_bytes(config, video_grid(width, height, frames).tokens, audio_latent_length(frames, 24.0),
                          PASSES, 1, 2)


def placed(need: Need, room: float, work: int) -> Placement | None:
    """Where the blocks are; None: it does not fit."""
    try:
        return place([need], room, work, Memory())[0]
    except OutOfMemoryError:
        return None


def over_the_bus(need: Need, placement: Placement) -> int:
    """Bytes that a step brings in."""
    total = 0
    for number in streamed_blocks(placement.blocks, placement.streamed):
        total += need.blocks[number]
    return total


def sparse_overlay(folder: Path, precision: str) -> Overlay:
    """A file of the 22B model's true header, in one of `PRECISIONS`, with a hole behind it."""
    tensors, metadata = manifest_22b()
    path = folder / f"ltx-2.3-22b-dev-{precision}.safetensors"
    if precision in gguf.KINDS:
        path = path.with_suffix(".gguf")
        transformer = {}
        for name, spec in tensors.items():
            if name.startswith(PREFIX) and "_connector." not in name:
                transformer[name] = spec
        header, size = gguf.header(transformer, PREFIX, precision)
    else:
        if precision != "bf16":
            metadata = metadata | _told(tensors, precision)
            tensors = packed_layout(tensors, precision)
        header, size = header_bytes(tensors, metadata)
    path.write_bytes(header)
    os.truncate(path, len(header) + size)
    return materialize(path, output=folder / f"{precision}.json")


def _told(tensors: Layout, precision: str) -> dict[str, str]:
    """What a file says of its int8 layers, since their numbers do not show it."""
    if precision != "int8":
        return {}
    layers = {}
    for name, (_, shape) in tensors.items():
        if is_packed(name, shape):
            layers[name.removesuffix(".weight")] = {"format": "int8_tensorwise"}
    return {METADATA: json.dumps({"format_version": "1.0", "layers": layers})}


def need_of(overlay: Overlay) -> Need:
    """What the transformer takes."""
    return component_need(overlay, "transformer")


def measured_steps(path: Path | None) -> Measured:
    """Seconds of steps in the output of ``bench streaming``."""
    found: dict[tuple[str, str, float], float] = {}
    for line in path.read_text().splitlines() if path else ():
        cells = line.split(" | ")
        steps = [cell for cell in cells if cell.startswith("step ")]
        if len(cells) < 5 or cells[2] != f"{PASSES} passes" or not steps:
            continue
        limit = cells[3].removeprefix("budget ")
        found[cells[0], cells[1], float("inf") if limit == "None" else float(limit)] = float(steps[0].split()[1])
    return found


def cell(name: str, need: Need, size: str, card: int, work: int, measured: Measured) -> list[str]:
    """The plan, the measured step, and what buses allow at best."""
    found = placed(need, capacity(card), work)
    if found is None:
        return ["does not fit", "", ""]
    if not found.streamed:
        seconds = measured.get((name, size, budget(card)), measured.get((name, size, float("inf"))))
        return [f"all resident, {(found.peak + work) / 1e9:.1f} GB", shown(seconds), "no limit"]
    brought = over_the_bus(need, found)
    seconds = measured.get((name, size, budget(card)))
    floors = [f"{brought / rate:.1f} s at {bus}" for bus, rate in BUSES.items()]
    return [f"{found.blocks - found.streamed} of {found.blocks} blocks resident", shown(seconds),
            f"{brought / 1e9:.1f} GB: {', '.join(floors)}"]


def shown(seconds: float | None) -> str:
    """Seconds, where there are any."""
    return "not measured" if seconds is None else f"{seconds:.2f}"


def short(found: Mapping[str, Need], config: TransformerConfig) -> str:
    """Resident blocks and gigabytes that a step brings in: a table a size, a row a card."""
    parts = []
    for size in SIZES:
        work, rows = activations(config, size), []
        for card in CARDS:
            cells = [_few_words(need, placed(need, capacity(card), work)) for need in found.values()]
            rows.append([f"{card} GB", *cells])
        parts.append(f"{size}, computed:\n\n" + table(("card", *found), rows))
    return "\n\n".join(parts)


def beside(overlay: Overlay) -> str:
    """What encodes the prompt and what decodes, each with the card to itself."""
    config = VideoVAEConfig.from_dict(overlay.require("video_decoder").config)
    gemma, decoder, rows = gemma_need(), component_need(overlay, "video_decoder"), []
    for card in CARDS:
        [text] = place([gemma], capacity(card), gemma_bytes(GEMMA_12B, TEXT_TOKENS, 2), Memory())
        row = [f"{card} GB", text.text]
        for width, height, frames in SIZES.values():
            grid = video_grid(width, height, frames)
            shape = 1, config.latent_channels, grid.frames, grid.height, grid.width
            found = ways(config, shape, AUTO_TILING, torch.bfloat16)
            way = found[first_fitting([decoder], capacity(card), [each.bytes for each in found])]
            row.append(f"{way.text.removeprefix('decode ')}, {(way.bytes + decoder.weights) / 1e9:.1f} GB")
        rows.append(row)
    head = "card", "Gemma in bf16", *(f"decode {size}" for size in SIZES)
    return "the other stages, computed:\n\n" + table(head, rows)


def component_need(overlay: Overlay, name: str) -> Need:
    """What a component takes."""
    entry = overlay.require(name)
    return Component(name, lambda: build(name, entry.config), entry.tensors, torch.bfloat16,
                     stack=STACKS.get(name)).need()


def gemma_need() -> Need:
    """What Gemma 3 12B in bf16 takes, from its shapes alone."""
    refs = {}
    for name, (dtype, shape) in gemma_layout(GEMMA_12B).items():
        ref = TensorRef(Path("none"), dtype, shape, 0, tensor_bytes(dtype, shape))
        refs[name.removeprefix("language_model.model.")] = ref
    return Sizes("text_encoder", refs, torch.bfloat16, STACKS["text_encoder"]).need({})


def _few_words(need: Need, placement: Placement | None) -> str:
    if placement is None:
        return "does not fit"
    if not placement.streamed:
        return "all"
    return f"{placement.blocks - placement.streamed}, {over_the_bus(need, placement) / 1e9:.1f} GB"


def long(found: Mapping[str, Need], config: TransformerConfig, measured: Measured) -> str:
    """Tables with what was measured, one a size."""
    parts = []
    for size in SIZES:
        work = activations(config, size)
        rows = []
        for card in CARDS:
            for name, need in found.items():
                rows.append([f"{card} GB", name, *cell(name, need, size, card, work, measured)])
        head = "card", "weights", "plan", "measured on an H100, s", "computed: the bus alone"
        parts.append(f"{size}, 121 frames, a step of {PASSES} passes ({work / 1e9:.2f} GB of activations):\n\n"
                     + table(head, rows))
    return "\n\n".join(parts)


def report(measured: Measured) -> str:
    """All of it."""
    with tempfile.TemporaryDirectory() as folder:
        overlays = {name: sparse_overlay(Path(folder), name) for name in PRECISIONS}
        found = {name: need_of(overlay) for name, overlay in overlays.items()}
        config = TransformerConfig.from_dict(overlays["bf16"].require("transformer").config)
        others = beside(overlays["bf16"])
    return f"{short(found, config)}\n\n{others}\n\n{long(found, config, measured)}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="bench cards", description=__doc__.splitlines()[0])
    parser.add_argument("--measured", type=Path, help="output of: python -m bench streaming --only bf16,fp8,q4")
    print(report(measured_steps(parser.parse_args().measured)))


if __name__ == "__main__":
    main()
