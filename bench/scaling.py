"""What the plan's model says for 1 to 16 devices: computed, not measured; beside it what two devices were measured at.

    python -m bench scaling

Runs anywhere: the model counts operations and bytes of the 22B transformer (`ltx23_core.parallel.cost`).
"""
from __future__ import annotations

import torch

from ltx23_core.config import TransformerConfig
from ltx23_core.geometry import audio_latent_length, video_grid
from ltx23_core.models.transformer.inputs import Pass, Perturbation
from ltx23_core.parallel.assign import Arrangement, Arranger
from ltx23_core.parallel.cost import Rates

from .measure import table
from .models import SIZES, STG_BLOCK, TEXT, config_22b

# Two H200 of one host, torch 2.11, 2026-11-28: products, attention and copies as that run measured them. 300 GB/s is a
# little below what an all-reduce of 1 GiB reaches on such hosts (329 to 361), 25 us about what a small exchange takes.
MEASURED_RATES = Rates(product=735e12, attention=621e12, memory=2.84e12, link=300e9, latency=25e-6, stage=27e-6)
# (size, passes) -> seconds on one device and on two, of the same run.
MEASURED = {("half-b", 4): (0.623, 0.356), ("half-b", 1): (0.1926, 0.1142), ("a", 4): (1.073, 0.625),
            ("b", 4): (2.900, 1.641), ("c", 4): (9.254, 5.065)}
RANKS = (2, 4, 8, 16)


def passes(count: int) -> list[Pass]:
    """The conditional pass, or the four of the official guidance; only which prompts are the same matters."""
    video, audio, other, another = (torch.empty(1, 1, 1) for _ in range(4))
    stg = frozenset((STG_BLOCK,))
    every = [Pass(video, audio), Pass(other, another), Pass(video, audio, Perturbation(stg, stg)),
             Pass(video, audio, Perturbation(cross=True))]
    return every[:count]


def said(config: TransformerConfig, size: str, count: int, ranks: int, **options: object) -> Arrangement:
    """What the plan takes and says."""
    width, height, frames = SIZES[size]
    tokens = video_grid(width, height, frames).tokens, audio_latent_length(frames, 24.0)
    return Arranger(config, ranks, MEASURED_RATES, **options)(passes(count), tokens, TEXT)


def cell(found: Arrangement) -> str:
    """Seconds, times one device, ranks of each group, phase after phase."""
    groups = ", ".join("+".join(str(len(part.ranks)) for part in phase) for phase in found.phases)
    return f"{found.seconds:.3f} s, {found.alone / found.seconds:.2f}x ({groups})"


def main() -> None:
    """Print both tables."""
    config = TransformerConfig.from_dict(config_22b())
    rows = []
    for (size, count), (one, two) in MEASURED.items():
        found = said(config, size, count, 2, groups=1, phases=1)
        rows.append([size, count, one, f"{found.alone / one - 1:+.1%}", two, f"{found.seconds / two - 1:+.1%}",
                     f"{one / two:.2f}x"])
    print("Measured on two H200, tokens shared out, and how far the model is off:\n")
    print(table(("size", "passes", "one device", "model", "two devices", "model", "speed"), rows))
    rows = []
    for size in ("half-b", "b", "c"):
        for count in (4, 1):
            cells = [cell(said(config, size, count, ranks)) for ranks in RANKS]
            rows.append([size, count, said(config, size, count, 1).seconds, *cells])
    print("\nComputed (seconds, times one device, devices of each group of passes, phase after phase):\n")
    print(table(("size", "passes", "1", *map(str, RANKS)), rows))


if __name__ == "__main__":
    main()
