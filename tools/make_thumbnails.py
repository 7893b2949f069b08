#!/usr/bin/env python3
"""Give the templates pictures of what they make: frames of a run of each with the embedded model.

    .venv/bin/python -m tools.make_thumbnails

Needs the trained tiny model in `tiny/` (docs/tiny-model.md); its world is balls and boxes on coloured grounds. The
pictures of graphs for README and help are those of `make_workflows.py`.
"""
from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.example_files import add_media
from tools.host import Base, Server
from tools.install import Place
from tools.queue_client import Queue, files_of
from tools.workflow_graphs import IC_LORA, ui_file, workflows

ROOT = Path(__file__).resolve().parents[1]
WORLD = "ltx-2.3-tiny-world"
FILES = {f"{WORLD}.safetensors": "checkpoints", "gemma": "text_encoders",
         f"{WORLD}-spatial-upscaler-x2.safetensors": "latent_upscale_models",
         f"{WORLD}-distilled-lora.safetensors": "loras"}
PROMPT = "a red ball bounces from left to right on a blue background"
SIZE = {"width": 192, "height": 128, "frames": 25}  # that it was trained at
# What a template needs beside its own values.
OWN: dict[str, dict[str, Any]] = {
    "keyframes": {"at_frames": "0, 24"}, "retake": {"start": 0.3, "end": 0.8}, "extend": {"frames": 41},
    "enhance_prompt": {"max_tokens": 16}, "long_video": {"frames": 41, "window": 25, "overlap": 8}}
PICTURES, HEIGHT, GAP = 3, 240, 6


def values(name: str) -> dict[str, Any]:
    """Inputs of a template for the embedded model; each goes to every node that has it."""
    return {**SIZE, "prompt": PROMPT, "prompts": f"{PROMPT}\n---\n{PROMPT}", **OWN.get(name, {})}


def small(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """A graph in API form with some inputs changed wherever they occur as constants that are in use."""
    graph = json.loads(path.read_text(encoding="utf-8"))
    for node in graph.values():
        inputs = node["inputs"]
        for key, value in given.items():
            if key in inputs and not isinstance(inputs[key], list) and inputs[key] != "":
                inputs[key] = value
        if inputs.get("lora") == IC_LORA:
            inputs["lora"] = f"{WORLD}-distilled-lora.safetensors"
    return graph


def frames_of(path: Path) -> Iterator[Any]:
    """The first, the middle and the last frame of a video, as PIL images."""
    import av

    with av.open(str(path)) as file:
        made = list(file.decode(video=0)) if file.streams.video else []
    for place in range(PICTURES if made else 0):
        yield made[place * (len(made) - 1) // (PICTURES - 1)].to_image()


def sound_of(path: Path) -> Any:  # noqa: ANN401 (a PIL image)
    """The waveform of a file with sound alone."""
    import av
    import numpy as np
    from PIL import Image, ImageDraw

    with av.open(str(path)) as file:
        heard = np.concatenate([frame.to_ndarray().astype(np.float32).reshape(-1) for frame in file.decode(audio=0)])
    picture = Image.new("RGB", (3 * HEIGHT, HEIGHT), (24, 28, 40))
    pen, loudest = ImageDraw.Draw(picture), float(np.abs(heard).max()) or 1.0
    for x, part in enumerate(np.array_split(heard, picture.width)):
        half = float(np.abs(part).max()) / loudest * HEIGHT * 0.45
        pen.line([(x, HEIGHT / 2 - half), (x, HEIGHT / 2 + half)], fill=(120, 220, 255))
    return picture


def thumbnail(path: Path) -> Any:  # noqa: ANN401 (a PIL image)
    """Frames of a result side by side, or its sound."""
    from PIL import Image

    pictures = list(frames_of(path)) or [sound_of(path)]
    scaled = [each.resize((round(HEIGHT * each.width / each.height), HEIGHT)) for each in pictures]
    made = Image.new("RGB", (sum(each.width + GAP for each in scaled) - GAP, HEIGHT), (24, 24, 24))
    x = 0
    for each in scaled:
        made.paste(each, (x, 0))
        x += each.width + GAP
    return made


def run(queue: Queue, base: Base, name: str) -> Path:
    """Run a template; its first file."""
    graph = small(ROOT / "workflows" / "api" / f"{name}.json", values(name))
    [file, *_] = files_of(queue.follow(queue.queue(graph)))
    return base.output / file["subfolder"] / file["filename"]


def use_as_media(base: Base, clip: Path) -> None:
    """Let templates load a clip of the model's own world, and its first frame."""
    shutil.copyfile(clip, base.input / "example.mp4")
    next(frames_of(clip)).save(base.input / "example.png")


def main() -> None:
    """Run every template, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", type=Path, default=ROOT / "tiny", help="folder of the trained model")
    parser.add_argument("--out", type=Path, help="folder for the pictures (default: beside the templates)")
    parser.add_argument("names", nargs="*", help="templates (default: all)")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="ltx23-thumbnails-"))
    base = Base(root).create()
    base.link_pack("ltx23-node-pack", ROOT)
    for name, folder in FILES.items():
        base.add_model(folder, options.tiny / name)
    add_media(base.input)
    server = Server(Place(ROOT).comfy(), base, root / "server.log", options=("--cpu",))
    try:
        with server:
            queue = Queue(server.url, timeout=900)
            use_as_media(base, run(queue, base, "quick_start"))
            for workflow in workflows():
                if options.names and workflow.name not in options.names:
                    continue
                picture = thumbnail(run(queue, base, workflow.name))
                target = ui_file(ROOT / "workflows", workflow.name).with_suffix(".jpg")
                picture.convert("RGB").save((options.out or target.parent) / target.name, quality=88)
                print(f"{target.name}: {picture.width}x{picture.height}", flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
