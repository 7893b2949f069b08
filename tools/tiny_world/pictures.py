"""Pictures for README and documents: `python -m tools.tiny_world.pictures --target docs/pictures`."""
from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.quality import clip_of, open_tiny
from ltx23_core import Extend, ImageCondition, Pipeline, Retake, SourceClip
from tools.tiny_world import shipped

PROMPTS = ("a red ball bounces from left to right on a blue background", "a yellow star spins on a purple background",
           "a green square falls over a gradient from grey to white", "a white ring moves to the left on brown",
           "a big orange triangle shrinks on a black background", "a cyan ball appears on a green background")
FRAMES, GAP = 7, 4
WIDTH, HEIGHT, LENGTH = shipped.SIZE


def strip(frames: np.ndarray, count: int = FRAMES) -> np.ndarray:
    """Some frames of a clip (F, H, W, 3) side by side."""
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    gap = np.full((chosen.shape[1], GAP, 3), 255, np.uint8)
    parts = [part for frame in chosen for part in (frame, gap)][:-1]
    return np.concatenate(parts, axis=1)


def save(rows: Sequence[np.ndarray], path: Path) -> None:
    """Strips below each other, as a JPEG."""
    gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    parts = [part for row in rows for part in (row, gap)][:-1]
    Image.fromarray(np.concatenate(parts)).save(path, quality=82)
    print(path, path.stat().st_size, flush=True)


def main() -> None:
    """Make and write them."""
    parser = argparse.ArgumentParser(prog="python -m tools.tiny_world.pictures", description=__doc__)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=shipped.FOLDER)
    options = parser.parse_args()
    options.target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pipe = Pipeline(open_tiny(options.folder, Path(folder)), device="cpu")

        def clip(prompt: str, **more: object) -> np.ndarray:
            given = {"recipe": "one_stage", "width": WIDTH, "height": HEIGHT, "frames": LENGTH, "seed": 10, **more}
            return clip_of(pipe, pipe.sample(pipe.encode(prompt), **given))[0]

        clips = [clip(prompt) for prompt in PROMPTS]
        save([strip(clips[0])], options.target / "tiny-demo.jpg")
        save([strip(frames) for frames in clips], options.target / "tiny-samples.jpg")
        first = torch.from_numpy(clips[0])
        source = SourceClip(first)
        given = {"image_to_video": {"conditions": [ImageCondition(first[0], crf=0)]},
                 "first_last_frame": {"conditions": [ImageCondition(first[k], k, crf=0) for k in (0, -1)]},
                 "extend": {"frames": 49, "conditions": [Extend(source)]},
                 "retake": {"conditions": [Retake(source, 0.4, 0.7)], "seed": 3},
                 "two_stage": {"recipe": "two_stage", "width": 256}}
        for name, settings in given.items():
            save([strip(clip(PROMPTS[0], **settings))], options.target / f"tiny-{name}.jpg")


if __name__ == "__main__":
    main()
