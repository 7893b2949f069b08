"""Compares the tensors of a component with those its configuration implies: names, shapes, dtypes. No data is read."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...config import MAX_LAYERS, gemma_config
from ...errors import OverlayError, examples, reason
from ..bytes.source import AnyRef, QuantRef

Shapes = dict[str, tuple[int, ...]]

PLAIN_DTYPES = ("BF16", "F16", "F32", "F8_E4M3", "F8_E5M2")  # fp8 without a scale is a plain cast (spec/09 §2.1, 7)
# Components of many equal blocks are built with one of them and the names repeated: 48 blocks would take a second.
_REPEATED = {"transformer": ("num_layers", "transformer_blocks")}


def expected_tensors(component: str, config: Mapping[str, Any], path: Path | None = None) -> Shapes:
    """Parameter names and shapes of a component.

    Args:
        component: a name of `models.registry`.
        config: its configuration, as an overlay stores it.
        path: the file that the configuration comes from, for the error.

    Raises:
        OverlayError: the configuration lacks a value or asks for another architecture.
    """
    where = ""
    if path is not None:
        where = f"{path}: "
    try:
        if component == "text_encoder":
            return _gemma_tensors(config)
        return _module_tensors(component, config)
    except OverlayError as error:
        raise OverlayError(where + error.found, error.expected, error.fix) from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise OverlayError(f"{where}the config of {component} cannot be used ({reason(error)})",
                           "the config of an LTX-2.3 file",
                           "Download the file again; if that does not help, use the official "
                           "file.") from error


def _module_tensors(component: str, config: Mapping[str, Any]) -> Shapes:
    if component not in _REPEATED:
        return _shapes(component, config)
    key, stack = _REPEATED[component]
    if not 1 <= config[key] <= MAX_LAYERS:
        raise OverlayError(f"{key} of {component} is out of range", f"1 to {MAX_LAYERS}",
                           "Use the official file.")
    first = f"{stack}.0."
    block, shapes = {}, {}
    for name, shape in _shapes(component, {**config, key: 1}).items():
        if name.startswith(first):
            block[name.removeprefix(first)] = shape
        else:
            shapes[name] = shape
    return shapes | _stacked(stack, block, config[key])


def _stacked(stack: str, block: Shapes, count: int) -> Shapes:
    """The shapes of equal blocks, out of those of one."""
    shapes: Shapes = {}
    for number in range(count):
        for name, shape in block.items():
            shapes[f"{stack}.{number}.{name}"] = shape
    return shapes


def _shapes(component: str, config: Mapping[str, Any]) -> Shapes:
    from ...models.registry import build  # torch, which recognition does without
    return {name: tuple(value.shape) for name, value in build(component, config).state_dict().items()}


def _gemma_tensors(config: Mapping[str, Any]) -> Shapes:
    """By arithmetic, since importing transformers takes seconds (spec/09 §4; tests compare it with transformers)."""
    c = gemma_config(config)
    width, inner, head = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    queries, keys = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    layer = {
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
        "pre_feedforward_layernorm.weight": (width,),
        "post_feedforward_layernorm.weight": (width,),
        "self_attn.q_proj.weight": (queries, width),
        "self_attn.k_proj.weight": (keys, width),
        "self_attn.v_proj.weight": (keys, width),
        "self_attn.o_proj.weight": (width, queries),
        "self_attn.q_norm.weight": (head,),
        "self_attn.k_norm.weight": (head,),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
    }
    outside = {"embed_tokens.weight": (c["vocab_size"], width), "norm.weight": (width,)}
    return outside | _stacked("layers", layer, c["num_hidden_layers"])


def differences(component: str, want: Shapes, got: Mapping[str, AnyRef]) -> list[str]:
    """What is wrong with a component's tensors, as sentences; empty if nothing is.

    Args:
        component: for the text.
        want: of `expected_tensors`.
        got: the file's tensors by parameter name.
    """
    missing, wrong_shape = [], []
    for name, shape in want.items():
        if name not in got:
            missing.append(name)
        elif got[name].shape != shape:
            wrong_shape.append(f"{name} is {_dims(got[name].shape)}, should be {_dims(shape)}")
    unexpected, wrong_dtype = [], []
    for name, ref in got.items():
        if name not in want:
            unexpected.append(name)
        elif ref.dtype not in PLAIN_DTYPES and not isinstance(ref, QuantRef):
            wrong_dtype.append(f"{name} is {ref.dtype}")
    kinds = (
        (f" of {len(want)} missing", missing),
        (" unexpected", unexpected),
        (" mis-shaped", wrong_shape),
        (f" not {', '.join(PLAIN_DTYPES)}", wrong_dtype),
    )
    return [f"{component}: {len(names)}{kind} ({examples(names)})" for kind, names in kinds if names]


def _dims(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
