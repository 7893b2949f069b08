"""Random modules of the library, and the comparison of what they give with what diffusers or transformers give."""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ltx23_core.models.registry import build

BOUND = 1e-5  # of max|got - want| / max|want|, in float32
DIFFUSERS = "diffusers is not installed: `python3 run.py test` installs it (group oracle of pyproject.toml)"

# End of a tensor's name -> values that a trained model could have; without them activations vanish or explode.
_RANGES: dict[str, tuple[float, float]] = {  # middle, deviation of a normal distribution
    "scale_shift_table": (0.0, 0.4), "a2v_ca_video": (0.0, 0.4), "a2v_ca_audio": (0.0, 0.4),
    "learnable_registers": (0.0, 0.7), ".alpha": (0.0, 0.4), ".beta": (0.0, 0.4), "mean-of-means": (0.0, 0.4),
    "std-of-means": (1.0, 0.1), ".bias": (0.0, 0.1), "filter": (1 / 12, 0.02), "kernel": (0.04, 0.01),
}


def _random(name: str, shape: torch.Size, generator: torch.Generator, gemma: bool) -> Tensor:
    values = torch.randn(shape, generator=generator)
    if name == "mel_stft.mel_basis":
        return values.abs() / shape[-1]
    for end, (middle, deviation) in _RANGES.items():
        if name.endswith(end):
            return middle + deviation * values
    if len(shape) == 1:  # the weight of a norm; Gemma adds the 1 itself
        return 0.1 * values + (not gemma)
    # Weak branches, as after training: the sum of many strong ones in few channels cancels, and rounding is left.
    return values * (0.3 if ".convs2." in name else 1.0) / math.sqrt(math.prod(shape[1:]))


def random_module(component: str, config: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """A component of the library with random weights in float32 on the CPU."""
    module, generator = build(component, config), torch.Generator().manual_seed(seed)
    gemma = component == "text_encoder"
    state = {name: _random(name, value.shape, generator, gemma) for name, value in module.state_dict().items()}
    module.load_state_dict(state, strict=True, assign=True)
    return module


def randn(seed: int, *shape: int) -> Tensor:
    """Normal values that depend on the seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(name: str, got: Tensor, want: Tensor, bound: float = BOUND) -> None:
    """Assert max|got - want| <= bound * max|want|, and print the measured ratio."""
    assert got.shape == want.shape, f"{name}: shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    scale = want.double().abs().max().item()
    assert scale > 1e-3, f"{name}: the oracle gives (almost) nothing but zeros, which proves nothing"
    relative = (got.double() - want.double()).abs().max().item() / scale
    print(f"{name}: {relative:.1e} (bound {bound:.0e})")
    assert relative <= bound, f"{name}: differs by {relative:.2e} of its largest value, bound {bound:.0e}"
