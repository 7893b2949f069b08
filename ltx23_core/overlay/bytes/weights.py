"""The header of a weight file of either format, by its content."""
from __future__ import annotations

from pathlib import Path

from .gguf import is_gguf, read_gguf_weights
from .header import Header, read_header


def read_weights(path: Path, architecture: str = "") -> Header:
    """The header of a safetensors or GGUF file.

    Args:
        path: the file, of any ending.
        architecture: of the model, for a later shard of a GGUF file, which does not say it.

    Raises:
        OverlayError: as `read_header` and `read_gguf_weights`.
    """
    if is_gguf(path):
        return read_gguf_weights(path, architecture)
    return read_header(path)
