"""Where an overlay's tokenizer is: its folder, or one made of the SentencePiece model that the weights carry."""
from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

from ..atomic import temporary_beside, write_whole
from ..errors import OverlayError
from ..overlay import Overlay
from ..overlay.bytes.endings import TOKENIZER_JSON, TOKENIZER_MODEL
from ..overlay.bytes.header import read_small
from ..overlay.bytes.source import TensorRef
from ..overlay.find.gguf_gemma import sentencepiece_model
from .spiece import tokenizer_files

log = logging.getLogger("ltx23")

MAX_MODEL = 64 << 20
_EMBEDDED = ("tokenizer", "spiece_model")  # component and tensor


def tokenizer_folder(overlay: Overlay) -> Path | None:
    """The folder that `Tokenizer` reads; None where the overlay has no tokenizer.

    A SentencePiece model (inside ComfyUI's and GGUF text encoder files, or as ``tokenizer.model``) is converted once,
    into a folder beside the overlay, or into the temporary folder if that cannot be written.

    Raises:
        OverlayError: the SentencePiece model is damaged.
    """
    component, tensor = _EMBEDDED
    if component in overlay.components:
        ref = overlay.components[component].tensors[tensor]
        assert isinstance(ref, TensorRef)
        return _converted(overlay.path, read_small({tensor: ref}, MAX_MODEL)[tensor], ref.path)
    folder = overlay.tokenizer
    if folder is None or (folder / TOKENIZER_JSON).is_file() or not (folder / TOKENIZER_MODEL).is_file():
        return folder
    path = folder / TOKENIZER_MODEL
    return _converted(overlay.path, path.read_bytes()[:MAX_MODEL], path)


def _converted(overlay: Path, model: bytes, origin: Path) -> Path:
    name = f"{overlay.name.removesuffix('.json')}.tokenizer-{hashlib.sha256(model).hexdigest()[:16]}"
    places = [overlay.parent / name, Path(tempfile.gettempdir()) / "ltx23-tokenizers" / name]
    for place in places:
        if (place / TOKENIZER_JSON).is_file():
            return place
    try:
        files = tokenizer_files(sentencepiece_model(model, origin))
    except (ValueError, StopIteration) as error:
        raise OverlayError(f"the SentencePiece model in {origin} cannot be used ({error})",
                           "Gemma's tokenizer.model",
                           "Download the text encoder again, or use a Gemma folder with "
                           "tokenizer.json.") from error
    log.info("converted the tokenizer in %s (%d kB)", origin.name, len(model) // 1000)
    for place in places[:-1]:
        try:
            return _write(place, files)
        except OSError as error:
            log.warning("%s cannot be written (%s); the temporary folder is "
                        "used", place, error.strerror or error)
    return _write(places[-1], files)


def _write(folder: Path, files: dict[str, str]) -> Path:
    """All files or none: another process may do the same at the same time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(folder)
    try:
        temporary.mkdir()
        for name, text in files.items():
            write_whole(temporary / name, text)
        os.rename(temporary, folder)
    except OSError:
        if not (folder / TOKENIZER_JSON).is_file():  # else the other process was first
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
