"""The tiny model with a quantised transformer, as Lightricks, ComfyUI and others write it (spec/09 §2).

    python -m tests.support.layouts_quantised FOLDER    writes every layout, one folder each
"""
from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ltx23_core.overlay.names.layout import OFFICIAL

from . import quantisers
from .layouts import (
    UNQUANTISED,
    State,
    T,
    Written,
    comfy_gemma,
    config,
    is_block_linear,
    metadata,
    part,
    quantised,
    save,
    tiny,
)


def _numbers(numbers: State) -> dict[tuple[str, str], Tensor]:
    return {("transformer", name): value for name, value in numbers.items()}


def official_fp8(folder: Path) -> Written:
    """The fp8 monolith: scalar scales; block 0 stays bf16, and block 1 has input scales too."""
    def linear(key: str, tensor: Tensor) -> bool:
        return is_block_linear(key, tensor) and "_connector" not in key and "transformer_blocks.0." not in key

    state, numbers = quantised(tiny(), quantisers.fp8(), lambda key: key.removeprefix(T), linear)
    for key in list(state):
        if key.endswith(".weight_scale") and "blocks.1." in key:
            state[key.removesuffix("weight_scale") + "input_scale"] = torch.tensor(0.0157)
    return Written(save(state, folder / "ltx-2.3-22b-dev-fp8.safetensors", metadata()), OFFICIAL.name,
                   numbers=_numbers(numbers))


def official_nvfp4(folder: Path) -> Written:
    """The NVFP4 monolith, with the layers listed in the metadata."""
    state, numbers = quantised(tiny(), quantisers.nvfp4, lambda key: key.removeprefix(T),
                               lambda key, t: is_block_linear(key, t) and "_connector" not in key)
    layers = {key.removesuffix(".weight_scale"): {"format": "nvfp4"} for key in state if key.endswith(".weight_scale")}
    meta = metadata() | {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    return Written(save(state, folder / "ltx-2.3-22b-dev-nvfp4.safetensors", meta), OFFICIAL.name,
                   numbers=_numbers(numbers))


def old_comfy_fp8(folder: Path) -> Written:
    """Old ComfyUI names: scale_weight, scale_input, scaled_fp8; a dummy scale beside a bf16 weight. Bare names."""
    state, numbers = quantised(part(T, strip=T), quantisers.fp8(torch.float8_e5m2), str,
                               lambda key, t: is_block_linear(key, t) and "_connector" not in key)
    names = {"weight_scale": "scale_weight", "input_scale": "scale_input"}
    state = {key.rpartition(".")[0] + "." + names[key.rpartition(".")[2]]
             if key.rpartition(".")[2] in names else key: value for key, value in state.items()}
    state |= {"scaled_fp8": torch.empty(0, dtype=torch.float8_e5m2), "patchify_proj.scale_weight": torch.ones(())}
    return Written(save(state, folder / "t.safetensors", config("transformer")),
                   "transformer without prefix + split file", _rest(folder), _numbers(numbers))


def _rest(folder: Path) -> dict[str, object]:
    """Everything but the transformer, as a component."""
    state = {key: tensor for key, tensor in tiny().items() if not key.startswith(T) or "_connector." in key}
    return {"components": [save(state, folder / "rest.safetensors", metadata())]}


def _comfy(folder: Path, quantise: quantisers.Quantiser, told: dict[str, object] | None, in_metadata: bool = False,
           only: Callable[[str, Tensor], bool] | None = None) -> Written:
    """A transformer as new ComfyUI writes it, told by `comfy_quant` tensors or by the metadata."""
    state, numbers = quantised(part(T, without="_connector."), quantise, lambda key: key.removeprefix(T),
                               only or is_block_linear)
    meta = config("transformer")
    layers = [key.removesuffix(".weight_scale") for key in state if key.endswith(".weight_scale")]
    if told is not None and in_metadata:
        bare = {name.removeprefix(T): told for name in layers}  # some tools write the names without prefix
        meta["_quantization_metadata"] = json.dumps({"format_version": "1.0", "layers": bare})
    elif told is not None:
        data = torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)
        state |= {name + ".comfy_quant": data.clone() for name in layers}
    return Written(save(state, folder / "t.safetensors", meta), "split file", _rest(folder), _numbers(numbers))


def comfy_fp8(folder: Path) -> Written:
    return _comfy(folder, quantisers.fp8(), {"format": "float8_e4m3fn", "full_precision_matrix_mult": True})


def comfy_fp8_squares(folder: Path) -> Written:
    return _comfy(folder, quantisers.fp8_squares, {"format": "float8_e4m3fn"})


def comfy_fp8_rows(folder: Path) -> Written:
    return _comfy(folder, quantisers.fp8(rows=True), {"format": "float8_e4m3fn"}, in_metadata=True)


def sniffed_fp8_rows(folder: Path) -> Written:
    return _comfy(folder, quantisers.fp8(rows=True), None)


def comfy_mxfp8(folder: Path) -> Written:
    return _comfy(folder, quantisers.mxfp8, {"format": "mxfp8"})


def sniffed_mxfp8(folder: Path) -> Written:
    return _comfy(folder, quantisers.mxfp8, None)


def comfy_nvfp4(folder: Path) -> Written:
    return _comfy(folder, quantisers.nvfp4, {"format": "nvfp4"})


def comfy_int8(folder: Path) -> Written:
    return _comfy(folder, quantisers.int8(), {"format": "int8_tensorwise"})


def comfy_int8_convrot(folder: Path) -> Written:
    return _comfy(folder, quantisers.int8(rotated=16), {"format": "int8_tensorwise",
                                                        "params": {"convrot": True, "convrot_groupsize": 16}})


def int8_fast_convrot(folder: Path) -> Written:
    """ComfyUI-INT8-Fast before August 2026: a description without "format"."""
    return _comfy(folder, quantisers.int8(rotated=16), {"convrot": True, "convrot_groupsize": 16, "per_row": True})


def int8_fast(folder: Path) -> Written:
    """The same without rotation, told by the metadata."""
    return _comfy(folder, quantisers.int8(), {"convrot": False, "per_row": True}, in_metadata=True)


def comfy_int4_convrot(folder: Path) -> Written:
    return _comfy(folder, quantisers.int4(rotated=16), {"format": "convrot_w4a4", "convrot_groupsize": 16})


def cast_fp8(folder: Path) -> Written:
    """A plain cast to fp8 without any scale ("fp8_e4m3fn")."""
    return _comfy(folder, quantisers.cast, None)


QUANTISED = (
    official_fp8, official_nvfp4, old_comfy_fp8, comfy_fp8, comfy_fp8_squares, comfy_fp8_rows, sniffed_fp8_rows,
    comfy_mxfp8, sniffed_mxfp8, comfy_nvfp4, comfy_int8, comfy_int8_convrot, int8_fast_convrot, int8_fast,
    comfy_int4_convrot, cast_fp8)


def main() -> None:
    """Write every layout below a folder."""
    root = Path(sys.argv[1])
    for writer in (*UNQUANTISED, *QUANTISED):
        (root / writer.__name__).mkdir(parents=True)
        print(writer.__name__, writer(root / writer.__name__).checkpoint)
    print("gemma", comfy_gemma(root / "gemma" / "comfy_gemma_3_12B_it.safetensors")[0])


if __name__ == "__main__":
    main()
