"""Pictures, sound and video files: everything that touches a media format, through PyAV and Pillow.

Names are resolved on first use: PyAV is only imported by what reads or writes a format.
"""
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .audio import Audio
    from .image import compress_image, load_image, resize_and_crop, to_uint8
    from .rate import frame_rate
    from .video import VideoWriter, check_output_path, write_video

_HOMES = {"Audio": ".audio", "compress_image": ".image", "load_image": ".image", "resize_and_crop": ".image",
          "to_uint8": ".image", "VideoWriter": ".video", "check_output_path": ".video", "frame_rate": ".rate",
          "write_video": ".video"}
__all__ = ["Audio", "VideoWriter", "check_output_path", "compress_image", "frame_rate", "load_image",
           "resize_and_crop", "to_uint8", "write_video"]


def __getattr__(name: str) -> object:
    """Resolve a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
