"""LTX-2.3 as a library: overlay, text, sampling, decoding, without ComfyUI.

Importing this package imports neither torch nor anything else that is heavy; names are resolved on first use.
"""
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .conditioning.extend import Extend
    from .conditioning.image import ImageCondition
    from .conditioning.inpaint import Inpaint
    from .conditioning.reference import ReferenceVideo
    from .conditioning.retake import Retake
    from .conditioning.scales import reference_scales
    from .conditioning.source import SourceClip
    from .conditioning.source_streams import SourceAudio, SourceVideo
    from .errors import LTX23Error
    from .lora.settings import Lora
    from .media import Audio, load_image
    from .overlay import Overlay, materialize
    from .overlay.shelf import identify
    from .overlay.shelf.identity import Identity
    from .pipeline import Pipeline
    from .plan.guidance import Apg, Guidance, GuiderBins, GuiderParams, Nag
    from .plan.latents import Latents
    from .plan.settings import Settings
    from .plan.solver import Solver
    from .run.plan import Plan
    from .run.progress import StepInfo
    from .save import export

_NAMES = {
    ".conditioning.extend": ("Extend",),
    ".conditioning.image": ("ImageCondition",),
    ".conditioning.inpaint": ("Inpaint",),
    ".conditioning.reference": ("ReferenceVideo",),
    ".conditioning.retake": ("Retake",),
    ".conditioning.source": ("SourceClip",),
    ".conditioning.source_streams": ("SourceAudio", "SourceVideo"),
    ".errors": ("LTX23Error",),
    ".conditioning.scales": ("reference_scales",),
    ".lora.settings": ("Lora",),
    ".media": ("Audio", "load_image"),
    ".overlay": ("Overlay", "materialize"),
    ".overlay.shelf.identify": ("Identity", "identify"),
    ".pipeline": ("Pipeline",),
    ".plan.guidance": ("Apg", "Guidance", "GuiderBins", "GuiderParams", "Nag"),
    ".plan.latents": ("Latents",),
    ".plan.settings": ("Settings",),
    ".plan.solver": ("Solver",),
    ".plan.windows": ("Windows",),
    ".run.plan": ("Plan",),
    ".run.progress": ("StepInfo",),
    ".save": ("export",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}
__all__ = [
    "Apg", "Audio", "Extend", "Guidance", "GuiderBins", "GuiderParams", "Identity", "ImageCondition",
    "Inpaint", "LTX23Error", "Latents", "Lora", "Nag", "Overlay", "Pipeline", "Plan", "ReferenceVideo",
    "Retake", "Settings", "Solver", "SourceAudio", "SourceClip", "SourceVideo", "StepInfo", "Windows",
    "export", "identify", "load_image", "materialize", "reference_scales",
]


def __getattr__(name: str) -> object:
    """Resolve a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
