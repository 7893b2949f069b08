"""Softmax attention behind one function, with named backends (spec/02 §6)."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from inspect import signature

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..errors import RequestError

AttentionFunction = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]

# Name -> kernels that torch may take, best first. The order is the official one for unmasked attention.
BACKENDS: dict[str, tuple[str, ...]] = {
    "auto": (), "cudnn": ("CUDNN_ATTENTION",), "flash": ("FLASH_ATTENTION",),
    "efficient": ("EFFICIENT_ATTENTION",), "math": ("MATH",),
}


# Major compute capability -> kernels that *auto* takes, best first. FlashAttention in torch is version 2, which takes
# twice as long as cuDNN's kernel on these devices (docs/performance.md). Others: torch's own choice.
AUTO: dict[int, tuple[str, ...]] = {
    9: ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"),
    10: ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"),
}
# cuDNN makes a plan for every new shape, some 60 ms each: not where every call has another length.
CHANGING_SHAPES = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax(q k^T / sqrt(d) + bias) v with the kernel that is fastest for the device.

    Args:
        query: (B, heads, Nq, d); any strides, the last axis contiguous.
        key, value: (B, heads, Nk, d).
        bias: additive, broadcastable to (B, heads, Nq, Nk), or None.

    Returns:
        (B, heads, Nq, d) in query's dtype, laid out as query is.
    """
    order = _auto(query.device) if query.is_cuda else ()
    return _ordered(order, query, key, value, bias) if order else scaled_dot_product_attention(query, key, value, bias)


@lru_cache(maxsize=16)
def _auto(device: torch.device) -> tuple[str, ...]:
    """The order of `AUTO` for a device; empty: leave it to torch."""
    return AUTO.get(torch.cuda.get_device_capability(device)[0], ()) if torch.version.cuda and _can_order() else ()


@lru_cache(maxsize=1)
def _can_order() -> bool:
    """Whether this torch takes kernels in an order (since 2.6)."""
    from torch.nn.attention import sdpa_kernel
    return "set_priority" in signature(sdpa_kernel).parameters


def _ordered(kernels: tuple[str, ...], query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """The first of some kernels that can do it."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    with sdpa_kernel([getattr(SDPBackend, name) for name in kernels], set_priority=True):
        return scaled_dot_product_attention(query, key, value, bias)


def _forced(kernels: tuple[str, ...], query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    wanted = [getattr(SDPBackend, name) for name in kernels]
    # The math form stays allowed: fused kernels refuse some masks and small head sizes.
    with sdpa_kernel([*wanted, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH] if bias is not None else wanted):
        return scaled_dot_product_attention(query, key, value, bias)


@contextmanager
def changing_shapes() -> Iterator[None]:
    """Keep torch's attention away from kernels that prepare for each shape, where every call has another length."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    with sdpa_kernel([getattr(SDPBackend, name) for name in CHANGING_SHAPES]):
        yield


def attention_backend(name: str) -> AttentionFunction:
    """The attention function of a backend; `RequestError` names the backends there are."""
    if name not in BACKENDS:
        raise RequestError(f"attention backend is {name!r}", f"one of {', '.join(BACKENDS)}", "Choose auto.")
    return partial(_forced, BACKENDS[name]) if BACKENDS[name] else attention


def check_backend(name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a forced backend that the device or this torch lacks, by one small product of the model's shape.

    Raises:
        RequestError: it cannot run here.
    """
    function = attention_backend(name)
    if not BACKENDS[name]:
        return
    probe = torch.zeros(1, 1, 64, 128, device=device, dtype=dtype)
    try:
        function(probe, probe, probe)
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        raise RequestError(f"attention backend {name} does not run on {device} in {dtype} ({said})",
                           "a backend that this device has", "Choose auto.") from error


def mask_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn weights in [0, 1] into an additive bias log(mask), fully masked at 0 (spec/07 §8).

    Args:
        mask: any shape, float or integer.
        dtype: dtype of the bias; 0 becomes its lowest finite value.
    """
    info = torch.finfo(dtype)
    weights = mask.to(dtype)
    return torch.where(weights > 0, weights.clamp(min=info.tiny).log(), info.min)
