"""What the tiny model knows, said where a prompt asks for more: `python -m tools.tiny_world.note PROMPT`."""
from __future__ import annotations

import sys

from tools.tiny_world.captions import understand, unknown_words
from tools.tiny_world.scene import BACKGROUNDS, COLOURS, SHAPES

KNOWS = (
    f"It knows one shape ({', '.join(SHAPES)}; small, medium or big) in one colour ({', '.join(COLOURS)}) that moves "
    "to the left, right, up or down, bounces, grows, shrinks, spins, appears or stays still, on a background of "
    f"{', '.join(BACKGROUNDS)}, or fading from one to another.")
EXAMPLE = "a red ball bounces from left to right on a blue background"


def note(prompt: str) -> str:
    """A sentence or two about what the model will not understand; empty where it understands all."""
    words, request = unknown_words(prompt), understand(prompt)
    missing = [name for name in ("colour", "shape", "motion") if getattr(request, name) is None]
    if not words and not missing:
        return ""
    lines: list[str] = []
    if words:
        lines.append(f"The tiny model has never seen: {', '.join(words)}.")
    if missing:
        lines.append(f"The prompt names no {' and no '.join(missing)} that it knows, so it chooses.")
    return " ".join([*lines, KNOWS, f'For example: "{EXAMPLE}".'])


if __name__ == "__main__":
    print(note(" ".join(sys.argv[1:])), end="")
