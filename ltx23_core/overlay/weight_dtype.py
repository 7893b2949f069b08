"""Which weights of the transformer are quantised while they are read, and into what: lossy, off by default.

Shapes only; the arithmetic is in `weights.quantise`. What is quantised are the matrices of the blocks, 98 % of the
transformer. The rest stays as it is stored, as in the files that ComfyUI's users have:

- biases, norms, tables: vectors, of no size, and added to or multiplied with everything;
- `to_gate_logits`: 32 rows, of which each scales a whole head;
- what goes in and out of the model (`patchify_proj`, `proj_out`): 128 numbers a row, and every error is seen;
- `adaln_single` and the like: make the shifts and scales of all blocks, so that one error is everywhere. They are
  0.8 GB in bf16, which the GGUF forms cannot have and stay below 20.5 and 11 GB: there the last layers are quantised
  too. In Q4_K those for self attention and feed-forward are Q8_0, those for the text and the other stream Q4_K, and
  the layers before the latter Q8_0. The layers that take the time itself always stay.
"""
from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace

from ..errors import RequestError
from .bytes.ggml import BLOCKS, row_bytes
from .bytes.source import AnyRef, QuantRef, TensorRef, tensor_bytes
from .manifest import Overlay
from .packed.formats import FLOATS
from .packed.sizes import as_quantised

AS_STORED = "as stored"
FP8, FP8_SCALED, INT8, Q8_0, Q4_K = "fp8_e4m3fn", "fp8_scaled", "int8", "Q8_0", "Q4_K"
WEIGHT_DTYPES = (AS_STORED, FP8, FP8_SCALED, INT8, Q8_0, Q4_K)
GGUF = (Q8_0, Q4_K)
ADVISED = (Q8_0, INT8, Q4_K)  # one of each size, the most exact first
_BLOCKS = "transformer_blocks."
# Outside the blocks: the last layers of modulation, those before them, and whose are for the text and the other stream.
_LAST, _BEFORE = "adaln_single.linear.weight", "timestep_embedder.linear_2.weight"
_OF_OTHERS = ("av_ca_", "prompt_", "audio_prompt_")
_KEPT = ("to_gate_logits.weight",)
_MULTIPLE = 16  # of a row's numbers: what products in 8 bits take

_log = logging.getLogger("ltx23")


def check_weight_dtype(name: str) -> str:
    """The same name.

    Raises:
        RequestError: it is none of `WEIGHT_DTYPES`.
    """
    if name not in WEIGHT_DTYPES:
        raise RequestError(f"weight_dtype is {name!r}", f"one of {', '.join(WEIGHT_DTYPES)}", f"Choose {AS_STORED}.")
    return name


def with_weight_dtype(overlay: Overlay, weight_dtype: str) -> Overlay:
    """The same model with the transformer's matrices quantised when they are read; nothing is read here.

    Args:
        overlay: the model.
        weight_dtype: one of `WEIGHT_DTYPES`.

    Returns:
        An overlay with an id of its own, since its results are others. The same one where there is nothing to do: as
        stored, no transformer, or one that is quantised in its file already (the log says so).

    Raises:
        RequestError: no such name.
    """
    if check_weight_dtype(weight_dtype) == AS_STORED or "transformer" not in overlay.components:
        return overlay
    entry = overlay.components["transformer"]
    stored = quantised_forms(entry.tensors)
    if stored:
        _log.warning("weight_dtype %s changes nothing: the transformer is quantised in its file (%s)", weight_dtype,
                     ", ".join(stored))
        return overlay
    tensors = {name: quantised(name, ref, weight_dtype) for name, ref in entry.tensors.items()}
    components = {**overlay.components, "transformer": replace(entry, tensors=tensors)}
    identity = hashlib.sha256(f"{overlay.id} {weight_dtype}".encode()).hexdigest()
    return replace(overlay, id=identity, components=components)


def quantised_forms(tensors: Mapping[str, AnyRef]) -> list[str]:
    """Formats of the quantised matrices among tensors as they are stored."""
    forms = set()
    for ref in tensors.values():
        found = as_quantised(ref)
        if found is not None and len(found.shape) == 2:
            forms.add(found.format)
    return sorted(forms)


def smaller(tensors: Mapping[str, AnyRef]) -> dict[str, dict[str, AnyRef]]:
    """What could be advised: weight_dtype -> a transformer's tensors with it; {} where they are quantised already.

    Args:
        tensors: of a transformer, as they are stored.
    """
    if quantised_forms(tensors):
        return {}
    found = {}
    for form in ADVISED:
        found[form] = {name: quantised(name, ref, form) for name, ref in tensors.items()}
    return found


def quantised(name: str, ref: AnyRef, weight_dtype: str) -> AnyRef:
    """A tensor of the transformer as it is with a weight_dtype; what stays as it is stored is given back.

    Args:
        name: in the component.
        ref: a plain one.
        weight_dtype: one of `WEIGHT_DTYPES`, but as stored.
    """
    if not isinstance(ref, TensorRef) or ref.dtype not in FLOATS or len(ref.shape) != 2:
        return ref
    form = _form(name, ref.shape[1], weight_dtype)
    if form is None:
        return ref
    if form in GGUF:
        made = {"weight": _made(ref, "U8", (ref.shape[0], row_bytes(form, ref.shape[1])))}
        return QuantRef(form, ref.shape, made, origin=ref)
    scales, codes, format = (ref.shape[0], 1), "F8_E4M3", "fp8"
    if form == INT8:
        codes, format = "I8", "int8"
    elif form == FP8_SCALED:
        scales = ()
    made = {"weight": _made(ref, codes, ref.shape), "weight_scale": _made(ref, "F32", scales)}
    return QuantRef(format, ref.shape, made, origin=ref)


def _form(name: str, columns: int, weight_dtype: str) -> str | None:
    """What a matrix is quantised into; None: it stays."""
    if not name.endswith(".weight") or name.endswith(_KEPT):
        return None
    if not name.startswith(_BLOCKS):
        if weight_dtype not in GGUF or not _is_modulation(name, weight_dtype):
            return None
        if name.endswith(_BEFORE) or not name.startswith(_OF_OTHERS):
            weight_dtype = Q8_0
    if weight_dtype not in GGUF:
        return weight_dtype if columns % _MULTIPLE == 0 else None
    for form in (weight_dtype, Q8_0):
        if columns % BLOCKS[form][0] == 0:
            return form
    return None


def _is_modulation(name: str, weight_dtype: str) -> bool:
    """Whether a matrix outside the blocks is quantised in a GGUF form."""
    if name.endswith(_LAST):
        return True
    return weight_dtype == Q4_K and name.endswith(_BEFORE) and name.startswith(_OF_OTHERS)


def _made(origin: TensorRef, dtype: str, shape: tuple[int, ...]) -> TensorRef:
    """A part that is made when the origin is read."""
    return replace(origin, dtype=dtype, shape=shape, start=0, end=tensor_bytes(dtype, shape))
