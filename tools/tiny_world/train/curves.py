"""Draw the losses of training logs: `python -m tools.tiny_world.train.curves --target docs/pictures/x.svg`."""
from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

WIDTH, HEIGHT, MARGIN = 250, 150, 30
# Log -> what of it is drawn, and its title.
CURVES = {"video_vae": ("mse0", "video VAE: squared error"), "audio_vae": ("mel", "audio VAE: error of the log-mel"),
          "vocoder": ("base_mse", "vocoder: squared error"), "transformer": ("loss", "transformer"),
          "lora": ("loss", "distilled LoRA"), "upsampler": ("loss", "upscaler")}


def points(path: Path, name: str) -> list[tuple[float, float]]:
    """(seconds, value) of a log's rows that have a value; later runs follow the earlier ones."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found, before, last = [], 0.0, 0.0
    for row in rows:
        if row["seconds"] < last:
            before += last
        last = row["seconds"]
        if row.get(name, 0) > 0:
            found.append((before + last, row[name]))
    return found


def panel(found: list[tuple[float, float]], title: str, left: int) -> str:
    """One set of axes with a curve, the values on a logarithmic scale."""
    end, logs = found[-1][0], [math.log10(value) for _, value in found]
    low, high = min(logs), max(logs)
    wide, tall = WIDTH - MARGIN - 10, HEIGHT - 2 * MARGIN
    places = " ".join(f"{left + MARGIN + wide * x / end:.1f},{MARGIN + tall * (high - y) / max(high - low, 1e-9):.1f}"
                      for (x, _), y in zip(found, logs, strict=True))
    words = ((left + MARGIN, 18, title), (left + MARGIN, HEIGHT - 12, f"0 to {end:.0f} s"),
             (left + MARGIN + 90, HEIGHT - 12, f"{10**high:.2g} to {10**low:.2g}"))
    texts = "".join(f'<text x="{x}" y="{y}">{text}</text>' for x, y, text in words)
    frame = f'<rect x="{left + MARGIN}" y="{MARGIN}" width="{wide}" height="{tall}" fill="none" stroke="#999"/>'
    return f'{frame}<polyline points="{places}" fill="none" stroke="#06c"/>{texts}'


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(prog="python -m tools.tiny_world.train.curves", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/tiny"))
    parser.add_argument("--target", type=Path, required=True)
    options = parser.parse_args()
    panels: list[str] = []
    for log, (name, title) in CURVES.items():
        path = options.folder / f"log-{log}.jsonl"
        if path.is_file() and len(found := points(path, name)) > 1:
            panels.append(panel(found, title, WIDTH * len(panels)))
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * len(panels)}" height="{HEIGHT}" '
            'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>')
    options.target.parent.mkdir(parents=True, exist_ok=True)
    options.target.write_text(head + "\n".join(panels) + "</svg>\n", encoding="utf-8")


if __name__ == "__main__":
    main()
