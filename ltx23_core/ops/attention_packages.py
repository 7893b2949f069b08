"""Attention kernels of packages that a user may have installed; none of them is needed."""
from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec

from torch import Tensor

from ..errors import RequestError

# Backend -> modules that have it, each with its function and that function's own arguments. All take (B, N, heads, d).
# flash3: FlashAttention 3 (Shah et al. 2024), bfloat16 on Hopper, exact up to rounding; *auto* may take it.
# sage: SageAttention (Zhang et al. 2024), queries and keys in int8: lossy, never taken by *auto*.
PACKAGES: dict[str, tuple[tuple[str, str, dict[str, object]], ...]] = {
    "flash3": (("flash_attn_interface", "flash_attn_func", {}), ("fa3_fwd_interface", "flash_attn_func", {})),
    "sage": (("sageattention", "sageattn", {"tensor_layout": "NHD"}),),
}


@lru_cache(maxsize=4)
def function_of(name: str) -> Callable[..., Tensor]:
    """The function of a backend of `PACKAGES`, over (B, heads, N, d) as `ops.attention` has it.

    Raises:
        RequestError: no package of it is installed, or it does not load.
    """
    tried: list[str] = []
    for module, attribute, options in PACKAGES[name]:
        if find_spec(module) is None:
            tried.append(f"{module} is not installed")
            continue
        try:
            kernel = getattr(import_module(module), attribute)
        except (ImportError, OSError, AttributeError) as error:  # built for another torch
            tried.append(f"{module} does not load: {str(error).splitlines()[0]}")
            continue
        return _over(kernel, options)
    raise RequestError(f"attention backend {name} is not there ({'; '.join(tried)})",
                       f"an installed package with it: {', '.join(part[0] for part in PACKAGES[name])}",
                       "Install one for this torch, or choose auto.")


def _over(kernel: Callable[..., Tensor], options: dict[str, object]) -> Callable[..., Tensor]:
    """A kernel over tokens, as one over heads; views both ways."""
    def function(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        made = kernel(*(each.transpose(1, 2) for each in (query, key, value)), **options)
        if isinstance(made, tuple):  # some releases also give the logsumexp
            made = made[0]
        return made.transpose(1, 2)

    return function
