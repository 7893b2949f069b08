"""Held-out prompts: captions of scenes whose triple of colour, shape and motion training never sees."""
from __future__ import annotations

import numpy as np

from tools.tiny_world.captions import caption
from tools.tiny_world.scene import Scenes, sample_scenes

SEED = 20261127


def held_out_scenes(count: int, aspect: float = 1.5, seconds: float = 25 / 24, seed: int = SEED) -> Scenes:
    """Scenes of held-out triples."""
    return sample_scenes(np.random.default_rng(seed), count, aspect, seconds, held_out=True)


def held_out_prompts(count: int = 200, seed: int = SEED) -> list[str]:
    """Prompts of held-out scenes; the first ones are the same whatever the number."""
    scenes = held_out_scenes(max(count, 1000), seed=seed)
    rng = np.random.default_rng(seed + 1)
    return [caption(rng, scenes, index) for index in range(max(count, 1000))][:count]
