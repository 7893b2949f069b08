"""Softmax attention behind one function, with named backends (spec/02 §6)."""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from inspect import signature

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..errors import RequestError
from .attention_packages import PACKAGES, function_of

_log = logging.getLogger("ltx23")

AttentionFunction = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]

# Name -> kernels that torch may take, best first. The order is the official one for unmasked attention.
BACKENDS: dict[str, tuple[str, ...]] = {
    "auto": (), "cudnn": ("CUDNN_ATTENTION",), "flash": ("FLASH_ATTENTION",),
    "efficient": ("EFFICIENT_ATTENTION",), "math": ("MATH",), **dict.fromkeys(PACKAGES, ()),
}

# Kernels that *auto* takes on Hopper and Blackwell, best first; on other devices the choice is torch's own. Measured on
# an H100 with torch 2.11, milliseconds of cuDNN and of torch's FlashAttention, which is version 2 (`bench ops`):
#   6,144 queries and keys, 128 a head   0.97   1.79      32,640 queries and keys              27.2    48.5
#   6,144 queries, 1,024 of text         0.24   0.36      32,640 queries, 1,024 of text         1.00    1.86
#   32,640 queries, 126 of sound         0.19   0.25      126 queries, 32,640 keys of frames    0.36    0.20
# The last one is why there are two orders: cuDNN gives each 128 queries of a head to one processor, so that a few
# queries leave most of the device idle; FlashAttention also splits the keys.
ORDERED_FROM = 9  # major compute capability
MANY = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
FEW = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
ROWS_OF_A_BLOCK, BLOCKS_THAT_FILL, KEYS_TO_SPLIT = 128, 66, 2048  # half of an H100's 132 processors
# FlashAttention 3, where a package of it is installed, is faster still for long queries over many keys. An H200, torch
# 2.11, fa3-fwd 0.0.3, milliseconds of cuDNN and of it:
#   6,144 queries and keys               0.95   0.85      32,640 queries and keys              28.5    26.2
#   6,144 queries, 1,024 of text         0.17   0.16      32,640 queries, 1,024 of text         0.90    0.87
#   6,144 queries, 126 of sound         0.032  0.036      32,640 queries, 126 of sound          0.14    0.16
WRONG = 0.02  # relative L2; bfloat16 rounds to 3e-3
HOPPER = 9  # the devices that it is made for
LONG, WIDE, HEAD = 4096, 1024, 128  # queries, keys and numbers a head, from which on it is taken
ALIGNMENT = 16  # bytes
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
    if not query.is_cuda or not _orders(query.device):
        return scaled_dot_product_attention(query, key, value, bias)
    query, key, value = aligned(query), aligned(key), aligned(value)
    if bias is None and suits_flash3(query, key):
        flash3 = working("flash3", query.device)
        if flash3 is not None:
            return flash3(query, key, value)
    return _ordered(order(query.shape, key.shape[2]), query, key, value, bias)


def suits_flash3(query: Tensor, key: Tensor) -> bool:
    """Whether FlashAttention 3 is the fastest for queries (B, heads, Nq, d) and keys (B, heads, Nk, d)."""
    shape, keys = query.shape, key.shape[2]
    return query.dtype == torch.bfloat16 and shape[3] == HEAD and shape[2] >= LONG and keys >= WIDE


@lru_cache(maxsize=16)
def working(name: str, device: torch.device) -> Callable[..., Tensor] | None:
    """A package's kernel, where it is installed, made for the device and right on it; asked once."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] != HOPPER:
        return None
    try:
        kernel = function_of(name)
        probe = torch.randn(3, 1, 2, 256, HEAD, generator=torch.Generator().manual_seed(0)).bfloat16().to(device)
        want = scaled_dot_product_attention(*probe.float())
        right = bool((kernel(*probe).float() - want).norm() < WRONG * want.norm())
    except (RequestError, RuntimeError, AssertionError, ValueError, TypeError) as error:
        _log.debug("Attention: %s is not taken (%s).", name, error)
        return None
    if not right:
        _log.warning("Attention: the installed package of %s gives wrong numbers here and is not taken.", name)
        return None
    return kernel


def aligned(x: Tensor) -> Tensor:
    """The same numbers where fused kernels may read them: every row begins at a multiple of 16 bytes.

    cuDNN does not refuse other rows, it gives wrong numbers for them (torch 2.11, H100: 0.38 of relative L2 in a run of
    the tiny model, whose values stand behind four gate logits in a row of 196). Rows of the released model are aligned.

    Args:
        x: (B, heads, N, d), the last axis contiguous.
    """
    size, aligned_rows = x.element_size(), x.data_ptr() % ALIGNMENT == 0
    for stride in x.stride()[:-1]:
        if stride * size % ALIGNMENT:
            aligned_rows = False
    if aligned_rows:
        return x
    return x.clone(memory_format=torch.contiguous_format)


def order(query: Sequence[int], keys: int) -> tuple[str, ...]:
    """Kernels for queries of a shape (B, heads, Nq, d) and a number of keys, best first."""
    blocks = query[0] * query[1] * -(-query[2] // ROWS_OF_A_BLOCK)
    if blocks < BLOCKS_THAT_FILL and keys >= KEYS_TO_SPLIT:
        return FEW
    return MANY


@lru_cache(maxsize=16)
def _orders(device: torch.device) -> bool:
    """Whether *auto* orders the kernels of a device."""
    if not torch.version.cuda or not _can_order():
        return False
    return torch.cuda.get_device_capability(device)[0] in (ORDERED_FROM, ORDERED_FROM + 1)


@lru_cache(maxsize=1)
def _can_order() -> bool:
    """Whether this torch takes kernels in an order (since 2.6)."""
    from torch.nn.attention import sdpa_kernel
    return "set_priority" in signature(sdpa_kernel).parameters


def _ordered(kernels: tuple[str, ...], query: Tensor, key: Tensor, value: Tensor,
             bias: Tensor | None) -> Tensor:
    """The first of some kernels that can do it."""
    from torch.nn.attention import sdpa_kernel
    with sdpa_kernel(_backends(kernels), set_priority=True):
        return scaled_dot_product_attention(query, key, value, bias)


@lru_cache(maxsize=8)
def _backends(kernels: tuple[str, ...]) -> list[object]:
    """torch's names for kernels."""
    from torch.nn.attention import SDPBackend
    return [getattr(SDPBackend, name) for name in kernels]


def _forced(kernels: tuple[str, ...], query: Tensor, key: Tensor, value: Tensor,
            bias: Tensor | None = None) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    allowed = _backends(kernels)
    if bias is not None:  # fused kernels refuse some masks and small head sizes
        allowed = [*allowed, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    query, key, value = aligned(query), aligned(key), aligned(value)
    with sdpa_kernel(allowed):
        return scaled_dot_product_attention(query, key, value, bias)


def _of_package(name: str, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """A package's kernel; what it cannot do, a mask, is torch's."""
    if bias is not None:
        return attention(query, key, value, bias)
    return function_of(name)(aligned(query), aligned(key), aligned(value))


@contextmanager
def changing_shapes() -> Iterator[None]:
    """Keep torch's attention away from kernels that prepare for each shape, where every call has another length."""
    from torch.nn.attention import sdpa_kernel
    with sdpa_kernel(_backends(CHANGING_SHAPES)):
        yield


def attention_backend(name: str) -> AttentionFunction:
    """The attention function of a backend; `RequestError` names the backends there are."""
    if name not in BACKENDS:
        raise RequestError(f"attention backend is {name!r}", f"one of {', '.join(BACKENDS)}", "Choose auto.")
    if name in PACKAGES:
        return partial(_of_package, name)
    if not BACKENDS[name]:
        return attention
    return partial(_forced, BACKENDS[name])


def check_backend(name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a forced backend that the device or this torch lacks, by one small product of the model's shape.

    Raises:
        RequestError: it cannot run here.
    """
    function = attention_backend(name)
    if name == "auto":
        return
    probe = torch.zeros(1, 1, 64, 128, device=device, dtype=dtype)
    try:
        function(probe, probe, probe)
    except (RuntimeError, AssertionError, ValueError) as error:  # packages have errors of their own
        said = " ".join(str(error).split())[:200] or type(error).__name__
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
