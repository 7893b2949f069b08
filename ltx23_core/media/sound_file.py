"""Sound alone as a file: AAC in an m4a, whole or not at all."""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ..atomic import publish_free, sweep, temporary_beside
from ..errors import MediaError
from .audio import Audio
from .video import mp4_options, readable_errors, writable_sound

SUFFIXES = (".m4a", ".mp4")
PARTS = ".*.m4a*.part"
_BLOCK = 1 << 16  # samples given to the encoder at once


def write_sound(path: Path, audio: Audio, *, metadata: Mapping[str, str] | None = None,
                next_path: Callable[[], Path] | None = None) -> Path:
    """Write a sound; returns its path, see `VideoWriter` for ``next_path``, rates and layouts.

    Raises:
        MediaError: another suffix, a sound that is none, or a folder that cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise MediaError(f"the sound file is {path}", "a name that ends in "
                                                      ".m4a", f"Use {path.with_suffix('.m4a')}.")
    samples, rate = writable_sound(audio)
    part = temporary_beside(path, ".part")
    sweep(path.parent, PARTS)
    try:
        with readable_errors(path):
            _encode(part, samples, rate, dict(metadata or {}))
            return publish_free(part, path, next_path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _encode(part: Path, samples: np.ndarray, rate: int, metadata: Mapping[str, str]) -> None:
    with av.open(str(part), "w", format="mp4", options=mp4_options(metadata)) as container:
        container.metadata.update(metadata)
        stream = container.add_stream("aac", rate=rate, layout="stereo")
        for start in range(0, samples.shape[1], _BLOCK):
            block = np.ascontiguousarray(samples[:, start:start + _BLOCK])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
