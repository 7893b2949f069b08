"""ComfyUI's own models of LTX-2.3, made by its own loaders out of an overlay. Imported when a node needs it."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import comfy.sd
import folder_paths
import torch

from ....ltx23_core.bridge.state import State, made_sizes, native_part, opened
from ....ltx23_core.errors import LTX23Error, OutOfMemoryError, WeightsError, examples
from ....ltx23_core.memory.ram import available_ram
from .. import progress
from .version import SINCE, refuse_old

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ....ltx23_core.overlay import Overlay

_GB = 1e9


def load(overlay: Overlay, part: str, disable_dynamic: bool = False) -> Any:  # noqa: ANN401 (ComfyUI's own)
    """One part of the model: "model" a ModelPatcher, "clip" a CLIP, "vae" and "audio_vae" a VAE.

    Args:
        overlay: the model.
        part: a key of `bridge.state.PARTS`.
        disable_dynamic: have ComfyUI hold the weights in RAM, as some of its nodes ask for.

    Raises:
        RequestError: this ComfyUI is too old.
        OverlayError: a component is missing, or a file changed.
        OutOfMemoryError: weights that must be unpacked take more RAM than there is.
        WeightsError: ComfyUI's model is another one.
    """
    refuse_old()
    files, known = native_part(overlay, part), _known_formats()
    overlay.verify({ref.path for file in files for ref in file.tensors.values()})
    sizes = made_sizes(files, known)
    made = sum(sizes)
    _refuse_ram(part, made)
    now = _keeps_tensors(disable_dynamic)
    with progress.phase(len(sizes)), opened(known, now=now, check=progress.tick) as state:
        given = list(map(state, files))
        names: set[str] = set()
        for tensors, _ in given:
            names.update(tensors)
        found = _made(part, given, disable_dynamic)
    _refuse_unfilled(part, found, names)
    patcher = getattr(found, "patcher", found)
    patcher.cached_patcher_init = (_patcher, (overlay, part))  # for nodes of ComfyUI's that want a second one
    if made:
        progress.say(f"{part}: {made / _GB:.1f} GB of weights are unpacked to bf16 for ComfyUI, which does not know "
                     "their format; the nodes of this pack use them packed", "memory")
    return found


def _made(part: str, given: list[State], disable_dynamic: bool) -> Any:  # noqa: ANN401 (ComfyUI's own)
    """What a loader of ComfyUI's makes; what it raises where sizes are not those that it knows, in our words."""
    try:
        return _LOADERS[part](given, disable_dynamic)
    except LTX23Error:
        raise
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, LookupError, TypeError, ValueError, AssertionError, AttributeError) as error:
        why = " ".join(str(error).split())[:300]
        raise WeightsError(f"ComfyUI's own loader cannot make the {part} of these weights ({why})",
                           f"LTX-2.3 as ComfyUI {SINCE} knows it",
                           "Update ComfyUI, or use the nodes of this pack for this part.") from error


def _patcher(overlay: Overlay, part: str, disable_dynamic: bool = False) -> ModelPatcher:
    found = load(overlay, part, disable_dynamic)
    return getattr(found, "patcher", found)


def _known_formats() -> frozenset[str]:
    """Quantised formats that this ComfyUI can use."""
    try:
        from comfy.quant_ops import QUANT_ALGOS
    except ImportError:
        return frozenset()
    return frozenset(QUANT_ALGOS)


def _keeps_tensors(disable_dynamic: bool) -> bool:
    """Whether ComfyUI's model will have the tensors of the state dict themselves, instead of copies."""
    import comfy.model_patcher as patchers

    dynamic = getattr(patchers, "CoreModelPatcher", patchers.ModelPatcher) is not patchers.ModelPatcher
    return dynamic and not disable_dynamic


def _refuse_ram(part: str, made: int) -> None:
    free = available_ram()
    if free is not None and made > free:
        raise OutOfMemoryError(f"{part} would take {made / _GB:.1f} GB of RAM, since ComfyUI does not know the packed "
                               f"format of its weights, and {free / _GB:.1f} GB are free",
                               "weights that ComfyUI can use as they are (bf16, fp8, MXFP8, NVFP4, int8)",
                               "Use Load of this pack, which leaves them packed, or choose such a file in Overlay.")


def _options(disable_dynamic: bool, loader: Callable[..., Any]) -> dict[str, Any]:
    """Arguments that not every ComfyUI has."""
    if "disable_dynamic" in inspect.signature(loader).parameters:
        return {"disable_dynamic": disable_dynamic}
    return {}


def _model(files: list[State], disable_dynamic: bool) -> ModelPatcher | None:
    [(tensors, metadata)] = files
    loader = comfy.sd.load_diffusion_model_state_dict
    return loader(tensors, metadata=metadata, **_options(disable_dynamic, loader))


def _clip(files: list[State], disable_dynamic: bool) -> comfy.sd.CLIP:
    from comfy.utils import convert_old_quants

    states = []
    for tensors, metadata in files:
        states.append(convert_old_quants(tensors, model_prefix="", metadata=metadata)[0])
    loader = comfy.sd.load_text_encoder_state_dicts
    return loader(states, embedding_directory=folder_paths.get_folder_paths("embeddings"),
                  clip_type=comfy.sd.CLIPType.LTXV, **_options(disable_dynamic, loader))


def _vae(files: list[State], disable_dynamic: bool) -> comfy.sd.VAE:
    [(tensors, metadata)] = files
    return comfy.sd.VAE(sd=tensors, metadata=metadata)


_LOADERS: Mapping[str, Callable[[list[State], bool], Any]] = {
    "model": _model, "clip": _clip, "vae": _vae, "audio_vae": _vae}
# Beginnings of names in a state dict -> what ComfyUI's loaders make of them.
_RENAMED = {"clip": ("model.", "gemma3_12b.transformer.model."), "audio_vae": ("audio_vae.", "autoencoder.")}
_UNUSED = ("gemma3_12b.transformer.vision_model.", "gemma3_12b.transformer.multi_modal_projector.",
           "gemma3_12b.logit_scale")  # not needed for a text


def _module(part: str, found: Any) -> torch.nn.Module:  # noqa: ANN401 (ComfyUI's own)
    """ComfyUI's module in what its loader made."""
    if part == "model":
        return found.model.diffusion_model
    if part == "clip":
        return found.cond_stage_model
    return found.first_stage_model


def _refuse_unfilled(part: str, found: Any, names: Iterable[str]) -> None:  # noqa: ANN401 (ComfyUI's own)
    """Refuse a model that has weights which the overlay does not: ComfyUI would say so in its log alone."""
    lacks = "does not know the model"
    if found is not None:
        missing = unfilled(part, _module(part, found), names)
        if not missing:
            return
        lacks = f"has {len(missing)} more weights ({examples(missing)})"
    raise WeightsError(f"ComfyUI's own {part} of LTX-2.3 {lacks}", "the architecture of LTX-2.3",
                       f"Update ComfyUI and this pack; ComfyUI {SINCE} was tried.")


def unfilled(part: str, module: torch.nn.Module, names: Iterable[str]) -> list[str]:
    """Weights of ComfyUI's module that no tensor was given for.

    Args:
        part: a key of `bridge.state.PARTS`.
        module: of ComfyUI.
        names: of the tensors that its loader was given.
    """
    old, new = _RENAMED.get(part, ("", ""))
    given = set(names)
    for name in names:
        if name.startswith(old):
            given.add(new + name.removeprefix(old))
    missing = []
    for name in module.state_dict():
        if name not in given and not name.startswith(_UNUSED):
            missing.append(name)
    return missing
