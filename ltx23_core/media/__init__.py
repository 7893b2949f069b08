"""Pictures, sound and video files: everything that touches a media format, through PyAV and Pillow.

Submodules import torch, av and Pillow; nothing else in the library does file formats of media.
"""
from __future__ import annotations

from .audio import Audio
from .image import compress_image, load_image, resize_and_crop, to_uint8
from .video import VideoWriter, check_output_path, frame_rate, write_video

__all__ = ["Audio", "VideoWriter", "check_output_path", "compress_image", "frame_rate", "load_image",
           "resize_and_crop", "to_uint8", "write_video"]
