"""LTX-2.3 as a library: overlay, text, sampling, decoding, without ComfyUI.

Importing this package imports neither torch nor anything else that is heavy; names are resolved on first use.
"""
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conditioning.image import ImageCondition
    from .errors import LTX23Error
    from .lora import Lora
    from .media import Audio, load_image
    from .overlay import Identity, Overlay, identify, materialize
    from .overlay.export import export
    from .pipeline import Pipeline
    from .sampling.guidance import Guidance, GuiderParams
    from .sampling.run import Latents, StepInfo

__version__ = "0.1.0"

_HOMES = {
    "Audio": ".media", "load_image": ".media", "Guidance": ".sampling.guidance", "GuiderParams": ".sampling.guidance",
    "ImageCondition": ".conditioning.image", "Latents": ".sampling.run", "StepInfo": ".sampling.run",
    "Identity": ".overlay", "LTX23Error": ".errors", "Lora": ".lora", "Overlay": ".overlay",
    "identify": ".overlay", "materialize": ".overlay", "Pipeline": ".pipeline", "export": ".overlay.export",
}
__all__ = ["Audio", "Guidance", "GuiderParams", "Identity", "ImageCondition", "LTX23Error", "Latents", "Lora",
           "Overlay", "Pipeline", "StepInfo", "export", "identify", "load_image", "materialize"]


def __getattr__(name: str) -> object:
    """Resolve a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
