"""The optional files beside a checkpoint: latent upscalers (spec/01 §6, 06) and the distilled LoRA (spec/01 §5)."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import OverlayError, examples
from ..bytes.sets import read_files, weight_sets
from ..bytes.source import AnyRef, SourceFile, TensorRef
from ..bytes.weights import read_weights
from ..lora.dialects import read_lora
from ..lora.update import Update
from ..names.architecture import Shapes, differences, expected_tensors
from ..names.layout import Tensors, upsampler_kind
from ..names.recognise import recognise
from .found import Found, describe, kind_of

# (spatial, temporal, scale) of an upscaler's config -> component. The scale of a temporal one is not used.
_UPSAMPLERS = {(True, False, 2.0): "upsampler_x2", (True, False, 1.5): "upsampler_x1.5",
               (False, True, None): "upsampler_temporal_x2"}
_GET_UPSAMPLER = ("Use ltx-2.3-spatial-upscaler-x2-1.1.safetensors of huggingface.co/Lightricks/LTX-2.3 "
                  "(1.0 GB, folder models/latent_upscale_models).")
_GET_LORA = ("Use ltx-2.3-22b-distilled-lora-384-1.1.safetensors of huggingface.co/Lightricks/LTX-2.3 "
             "(7.6 GB, folder models/loras).")
_NOT_OF_TRANSFORMER = ("connector", "aggregate_embed", "text_proj_in")
_LORA_PREFIX, _LORA_A, _LORA_B = "diffusion_model.", ".lora_A.weight", ".lora_B.weight"


def find_upsampler(path: Path) -> Found:
    """Read a latent upscaler file, or the folder of a diffusers component.

    Raises:
        OverlayError: not an upscaler.
    """
    inside = weight_sets(path) if path.is_dir() else []
    files = inside[0] if inside else read_files(path)
    found = describe(files)
    if found is None or not any(name.startswith("upsampler") for name in found.components):
        raise OverlayError(f"{path} is {kind_of(files)}", "a latent upscaler file of LTX-2.3", _GET_UPSAMPLER)
    return found


def check_upsampler(found: Found, latent_channels: int) -> tuple[str, dict[str, Any]]:
    """Check an upscaler against its configuration, stated or read off the shapes.

    Args:
        found: of `find_upsampler`.
        latent_channels: of the checkpoint's latents.

    Returns:
        component and configuration.

    Raises:
        OverlayError: not for this checkpoint.
    """
    tensors, path = next(iter(found.components.values())), found.path
    config = found.config or _config_of(tensors)
    spatial, temporal = bool(config.get("spatial_upsample")), bool(config.get("temporal_upsample"))
    scale = config.get("spatial_scale", 2.0) if spatial else None
    component = _UPSAMPLERS.get((spatial, temporal, scale)) if isinstance(scale, int | float | None) else None
    if component is None:
        raise OverlayError(f"{path} has spatial_upsample {spatial}, temporal_upsample {temporal}, scale {scale!r}",
                           "an upscaler for x2 or x1.5 in space, or for x2 in time", _GET_UPSAMPLER)
    problems = differences(component, expected_tensors(component, config, path), tensors)
    if config["in_channels"] != latent_channels:
        problems.append(f"it is for latents of {config['in_channels']} channels, the checkpoint has {latent_channels}")
    if problems:
        raise OverlayError(f"{path}: " + "; ".join(problems),
                           "an upscaler that fits the checkpoint", _GET_UPSAMPLER)
    return component, config


def _config_of(tensors: Tensors) -> dict[str, Any]:
    """The configuration of an upscaler without metadata: its shapes say all of it (spec/06)."""
    kind, first = upsampler_kind(tensors), tensors["initial_conv.weight"].shape
    blocks = {name.split(".")[1] for name in tensors if name.startswith("res_blocks.")}
    return {"in_channels": first[1] if len(first) == 5 else 0, "mid_channels": first[0] if first else 0,
            "num_blocks_per_stage": len(blocks), "dims": 3, "spatial_upsample": kind != "upsampler_temporal_x2",
            "temporal_upsample": kind == "upsampler_temporal_x2",
            "spatial_scale": 1.5 if kind == "upsampler_x1.5" else 2.0,
            "rational_resampler": "upsampler.conv.weight" in tensors}


class DistilledLora(NamedTuple):
    """A LoRA for the transformer under official names.

    ``<module>.lora_A.weight``, ``.lora_B.weight``, where they are scaled ``.alpha``, for biases ``.diff_b``.
    """

    tensors: dict[str, AnyRef]
    source: SourceFile
    notes: tuple[str, ...] = ()


def read_distilled_lora(path: Path, transformer: Shapes) -> DistilledLora:
    """Read a LoRA that changes Linear layers of the transformer, in any form that the LoRA node reads.

    What it has for connectors and text projection is left out, as in the official code: both stages of a run share
    their context.

    Args:
        path: the file.
        transformer: names and shapes of the transformer's tensors.

    Raises:
        OverlayError: unknown keys, half pairs, shapes that do not fit.
    """
    header = read_weights(path)
    tensors = {key.removeprefix("model.").removeprefix(_LORA_PREFIX): ref for key, ref in header.tensors.items()}
    problems = _lora_problems(tensors, transformer)
    if tensors and not problems:
        return DistilledLora(tensors, header.source)
    refusal = OverlayError(
        f"{path} ({recognise(header.tensors).name}): " + ("; ".join(problems) or "no tensors"),
        "pairs <module>.lora_A.weight, .lora_B.weight that fit the checkpoint's transformer", _GET_LORA)
    try:
        found = read_lora(path, {"transformer": transformer})
    except OverlayError as error:
        raise refusal from error
    wrong = [key for key, reason in found.unused.items() if not any(part in key for part in _NOT_OF_TRANSFORMER)]
    if wrong or not all(map(_is_plain, found.updates["transformer"].values())):
        raise refusal
    official = {key: ref for name, update in found.updates["transformer"].items()
                for key, ref in _under_official_names(name, update).items()}
    notes = (f"{len(found.unused)} tensors of {path.name} change connectors or text projection: left out, as in the "
             "official code",) if found.unused else ()
    return DistilledLora(official, header.source, notes)


def _is_plain(update: Update) -> bool:
    """Whether an update can be named as the overlay does: a pair with a scale in the file, or a change of a bias."""
    if update.kind == "diff":
        return update.alpha is None
    scaled = update.alpha is None or isinstance(update.alpha, TensorRef) or update.alpha == update.rank
    return update.plain and scaled and not update.rank_stabilised


def _under_official_names(parameter: str, update: Update) -> dict[str, TensorRef]:
    """The tensors of one update."""
    module = parameter.removesuffix(".weight").removesuffix(".bias")
    if update.kind == "diff":
        return {f"{module}.diff_b" if parameter.endswith(".bias") else f"{module}.diff": update.tensors["diff"]}
    pair = {module + _LORA_A: update.tensors["a"], module + _LORA_B: update.tensors["b"]}
    return pair | ({f"{module}.alpha": update.alpha} if isinstance(update.alpha, TensorRef) else {})


def lora_fits(weight: Sequence[int], a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether B (out, r) times A (r, in) has the shape of the weight (out, in)."""
    return len(a) == len(b) == len(weight) == 2 and [b[0], a[1]] == list(weight) and b[1] == a[0]


def _lora_problems(tensors: dict[str, AnyRef], transformer: Shapes) -> list[str]:
    unknown, half, shapes = [], [], []
    for name, ref in tensors.items():
        suffix = next((s for s in (_LORA_A, _LORA_B) if name.endswith(s)), None)
        module = name.removesuffix(suffix or "")
        weight = transformer.get(module + ".weight", ())
        if suffix is None or len(weight) != 2:
            unknown.append(name)
        elif (other := tensors.get(module + (_LORA_B if suffix == _LORA_A else _LORA_A))) is None:
            half.append(name)
        elif suffix == _LORA_A and not lora_fits(weight, ref.shape, other.shape):
            shapes.append(f"{module} is {list(other.shape)} times {list(ref.shape)}, the weight {list(weight)}")
    return [f"{len(names)} {what} ({examples(names)})" for what, names in
            (("keys of no Linear of the transformer", unknown), ("without the other half", half),
             ("that do not fit their weight", shapes)) if names]
