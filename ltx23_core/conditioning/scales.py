"""The factors that an IC-LoRA's reference was made smaller by, out of its metadata (spec/07 §8)."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..config import MAX_REFERENCE_SCALE, REFERENCE_SPATIAL, REFERENCE_TEMPORAL, reference_factor
from ..errors import MediaError
from ..overlay.bytes.header import read_header


def reference_scales(lora: str | Path | Mapping[str, str]) -> tuple[int, int]:
    """(downscale, temporal) factors that an IC-LoRA was trained with; 1 where it states none.

    Args:
        lora: a safetensors file, of which the header alone is read, or its metadata.

    Raises:
        OverlayError: a file that cannot be read.
        MediaError: a factor that is no whole number.
    """
    metadata = lora
    if not isinstance(lora, Mapping):
        metadata = read_header(Path(lora)).metadata
    return _scale(metadata, REFERENCE_SPATIAL), _scale(metadata, REFERENCE_TEMPORAL)


def _scale(metadata: Mapping[str, str], keys: tuple[str, ...]) -> int:
    stated = reference_factor(metadata, keys)
    if stated is None:
        return 1
    key, value = stated
    if value is None:
        raise MediaError(f"the LoRA states {key} {str(metadata[key])!r}",
                         f"a whole number from 1 to {MAX_REFERENCE_SCALE}",
                         "Set the factors by hand.")
    return value
