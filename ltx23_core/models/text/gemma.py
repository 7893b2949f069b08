"""Gemma 3's language model, by transformers (4.50.3 and later, 5.x), and its hidden states (spec/03 §2).

Three things differ between transformers releases and are settled here, on our own instance only:

* The format of the configuration (`rope_parameters` and `layer_types` are new): `config_fields`.
* Rotary frequencies are in no checkpoint, so a module built on the meta device lacks them: `restore_buffers`.
* 4.50.3 multiplies embeddings by the exact √width, later releases by √width rounded to the weights' dtype, as
  Gemma was trained: `restore_buffers`.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...config import TEXT_TOKENS
from ...errors import OverlayError, WeightsError
from ...ops.attention import changing_shapes
from ..checked import before_each
from ._transformers import transformers_class

_FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
           "num_key_value_heads", "head_dim", "hidden_activation", "max_position_embeddings", "rms_norm_eps",
           "pad_token_id", "eos_token_id", "bos_token_id", "attention_bias", "query_pre_attn_scalar",
           "sliding_window", "sliding_window_pattern", "rope_theta", "rope_local_base_freq", "rope_scaling")


def _refuse(found: str, expected: str) -> OverlayError:
    return OverlayError(f"the text encoder's config.json has {found}", expected,
                        "Use Gemma 3 12B (google/gemma-3-12b-it-qat-q4_0-unquantized) as text encoder.")


def _sliding_window_pattern(layer_types: Sequence[str]) -> int:
    """Every how many layers one attends to everything, from the list that newer releases write."""
    pattern = len(layer_types) + 1  # none does
    if "full_attention" in layer_types:
        pattern = list(layer_types).index("full_attention") + 1
    for index, kind in enumerate(layer_types):
        if (kind == "full_attention") != ((index + 1) % pattern == 0):
            raise _refuse(f"layer_types that do not repeat (layer {index} is {kind})",
                          f"full attention at every {pattern}th layer")
    return pattern


def config_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """What defines the language model, in the old form, which every release of transformers reads.

    Args:
        config: a config.json of Gemma 3, with or without vision, as any release writes it.

    Raises:
        OverlayError: another model, or a Gemma 3 that transformers 4.50.3 cannot express.
    """
    kind = config.get("model_type", "gemma3_text")
    if kind not in ("gemma3", "gemma3_text"):
        raise _refuse(f"model_type {kind!r}", "'gemma3' or 'gemma3_text'")
    text = config.get("text_config", config)
    if text.get("use_bidirectional_attention"):
        raise _refuse("use_bidirectional_attention", "causal attention")
    fields = {name: text[name] for name in _FIELDS if name in text}
    if text.get("layer_types"):
        fields["sliding_window_pattern"] = _sliding_window_pattern(text["layer_types"])
    if text.get("rope_parameters"):
        wide = dict(text["rope_parameters"]["full_attention"])
        local = text["rope_parameters"]["sliding_attention"]
        fields["rope_theta"] = wide.pop("rope_theta")
        fields["rope_local_base_freq"] = local["rope_theta"]
        fields["rope_scaling"] = None
        if wide.get("rope_type", "default") != "default":
            fields["rope_scaling"] = wide
        if local.get("rope_type", "default") != "default":
            raise _refuse(f"scaled local rotary positions ({local['rope_type']})", "unscaled local positions")
    return fields


def build_gemma(config: Mapping[str, Any]) -> nn.Module:
    """Gemma 3's language model without head and vision; parameters on the meta device, small buffers real.

    Args:
        config: Gemma's config.json (one with ``text_config``, or a text-only one).

    Returns:
        transformers' ``Gemma3TextModel`` in eval mode; parameters ``embed_tokens.weight``, ``layers.N.…``,
        ``norm.weight``. Its few buffers are in no checkpoint: a loader leaves them as they are.

    Raises:
        OverlayError: the configuration is not a Gemma 3 one.
    """
    make_config, make_model = transformers_class("Gemma3TextConfig"), transformers_class("Gemma3TextModel")
    with torch.device("meta"):
        gemma = make_model(make_config(**config_fields(config), attn_implementation="sdpa"))
    restore_buffers(gemma, torch.device("cpu"))
    return gemma.eval().requires_grad_(False)


def restore_buffers(gemma: nn.Module, device: torch.device) -> None:
    """Put the constants that no checkpoint has (rotary frequencies, embedding scale) on the device, real.

    Cheap, and does nothing where all is in place, so `hidden_states` calls it before every pass: it does not
    matter whether a loader moved the buffers, left them on the CPU, or sent the module back to meta.

    Raises:
        WeightsError: a release of transformers has a buffer that this function does not know.
    """
    for name, child in list(gemma.named_children()):
        if hasattr(child, "config"):  # the rotary embeddings: one in 5.x, two in 4.x
            if any(buffer.is_meta for buffer in child.buffers()):
                with torch.device("cpu"):
                    child = type(child)(config=child.config)
                setattr(gemma, name, child)
            child.to(device)
    embed = gemma.embed_tokens
    scale = torch.tensor(gemma.config.hidden_size ** 0.5, dtype=torch.float32, device="cpu")
    if isinstance(embed.embed_scale, Tensor):
        embed.embed_scale = scale.to(device)
    else:
        embed.embed_scale = scale.to(embed.weight.dtype).item()
    refuse_unknown_buffers(gemma)


def refuse_unknown_buffers(module: nn.Module) -> None:
    """Raise `WeightsError` where buffers that are in no checkpoint were not restored: they would hold nothing."""
    loaded = module.state_dict().keys()  # quantised weights are buffers too, away while they are streamed
    left = []
    for name, buffer in module.named_buffers():
        if buffer.is_meta and name not in loaded:
            left.append(name)
    if left:
        import transformers
        raise WeightsError(f"transformers {transformers.__version__} has buffers {left} in Gemma 3",
                           "the rotary frequencies and the embedding scale only",
                           "Install transformers 5.23.0 and report this.")


def check_ids(gemma: nn.Module, ids: Sequence[int]) -> None:
    """Refuse ids that the model has no embedding for (`OverlayError`): on a GPU they would end the process."""
    rows = gemma.embed_tokens.weight.shape[0]
    if max(ids) >= rows:
        raise OverlayError(f"the tokenizer gives token {max(ids)}, the text encoder knows {rows} tokens",
                           "a tokenizer and a text encoder of the same model",
                           "Make the overlay again with the tokenizer files of this text encoder.")


@contextmanager
def checked(gemma: nn.Module, check: Callable[[], None] | None) -> Iterator[None]:
    """While this holds, ``check`` is called before every layer; what it raises ends the pass.

    Prompts have any length, and a text grows by a token a pass: attention kernels that prepare for each shape are out.
    """
    with before_each(gemma.layers, check), changing_shapes():
        yield


@torch.no_grad()
def hidden_states(gemma: nn.Module, ids: Sequence[int],
                  check: Callable[[], None] | None = None) -> tuple[Tensor, ...]:
    """All hidden states of one prompt, of its own tokens only (spec/03 §2).

    The official pass pads to 1024 on the left and masks. Here the padding is not computed at all: attention is
    causal and the mask hides padding, so real tokens never see it, and they keep the positions that they have in
    the padded sequence. Equal up to rounding, at n/1024 of the work, and without a mask.

    Args:
        gemma: from `build_gemma`, with weights.
        ids: n token ids, 1 to 1024 (`Tokenizer.encode`).
        check: called before every layer; what it raises ends the pass.

    Returns:
        layers + 1 tensors (1, n, width) in the weights' dtype: the scaled embeddings, the outputs of all layers
        but the last, and the last one's after the final norm.

    Raises:
        OverlayError: an id that the model has no embedding for.
    """
    device = gemma.norm.weight.device
    check_ids(gemma, ids)
    restore_buffers(gemma, device)
    with checked(gemma, check):
        tokens = torch.tensor([list(ids)], device=device)
        positions = torch.arange(TEXT_TOKENS - len(ids), TEXT_TOKENS, device=device)[None]
        found = gemma(input_ids=tokens, position_ids=positions, use_cache=False, output_hidden_states=True,
                      return_dict=True)
        return found.hidden_states
