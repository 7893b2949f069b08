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
    where = "" if path is None else f"{path}: "
    try:
        return _gemma_tensors(config) if component == "text_encoder" else _module_tensors(component, config)
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
    one, first = _shapes(component, {**config, key: 1}), f"{stack}.0."
    block = {name[len(first):]: shape for name, shape in one.items() if name.startswith(first)}
    return {name: shape for name, shape in one.items() if not name.startswith(first)} | {
        f"{stack}.{i}.{name}": shape for i in range(config[key]) for name, shape in block.items()}


def _shapes(component: str, config: Mapping[str, Any]) -> Shapes:
    from ...models.registry import build  # torch, which recognition does without
    return {name: tuple(value.shape) for name, value in build(component, config).state_dict().items()}


def _gemma_tensors(config: Mapping[str, Any]) -> Shapes:
    """By arithmetic, since importing transformers takes seconds (spec/09 §4; tests compare it with transformers)."""
    c = gemma_config(config)
    width, inner, head = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    queries, keys = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    layer = {
        "input_layernorm": (width,), "post_attention_layernorm": (width,),
        "pre_feedforward_layernorm": (width,), "post_feedforward_layernorm": (width,),
        "self_attn.q_proj": (queries, width), "self_attn.k_proj": (keys, width), "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries), "self_attn.q_norm": (head,), "self_attn.k_norm": (head,),
        "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner),
    }
    return {"embed_tokens.weight": (c["vocab_size"], width), "norm.weight": (width,),
            **{f"layers.{i}.{name}.weight": shape for i in range(c["num_hidden_layers"])
               for name, shape in layer.items()}}


def differences(component: str, want: Shapes, got: Mapping[str, AnyRef]) -> list[str]:
    """What is wrong with a component's tensors, as sentences; empty if nothing is.

    Args:
        component: for the text.
        want: of `expected_tensors`.
        got: the file's tensors by parameter name.
    """
    wrong_shape = [f"{name} is {_dims(got[name].shape)}, should be {_dims(want[name])}" for name in want
                   if name in got and got[name].shape != want[name]]
    wrong_dtype = [f"{name} is {ref.dtype}" for name, ref in got.items()
                   if name in want and ref.dtype not in PLAIN_DTYPES and not isinstance(ref, QuantRef)]
    kinds = (("missing", [name for name in want if name not in got], f" of {len(want)}"),
             ("unexpected", [name for name in got if name not in want], ""),
             ("mis-shaped", wrong_shape, ""), (f"not {', '.join(PLAIN_DTYPES)}", wrong_dtype, ""))
    return [f"{component}: {len(names)}{of} {kind} ({examples(names)})" for kind, names, of in kinds if names]


def _dims(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
