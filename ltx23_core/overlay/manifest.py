"""The overlay: a small JSON manifest that describes a model as byte ranges of the files that the user has.

A manifest is one JSON object. Tensors are compact lists, ``name: [file, dtype, shape, start, end]``, so that the
11 000 tensors of a complete model take about a megabyte; ``id`` is the SHA-256 of everything else in canonical form.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import OverlayError
from .header import read_json
from .source import REMAKE, SourceFile, TensorRef, tensor_bytes

FORMAT = "ltx23-overlay/1"
VARIANTS = ("dev", "distilled")
_LOCK_SECONDS = 60

# Component -> (what it is, official file, folder under models/): for reports and errors.
_CHECKPOINT = ("ltx-2.3-22b-dev.safetensors of Lightricks/LTX-2.3, 46 GB", "checkpoints")
_BRINGS: dict[str, tuple[str, str]] = {
    "text_encoder": ("the folder of google/gemma-3-12b-it-qat-q4_0-unquantized, 24 GB", "text_encoders"),
    "upsampler_x2": ("ltx-2.3-spatial-upscaler-x2-1.1.safetensors of Lightricks/LTX-2.3, 1.0 GB",
                     "latent_upscale_models"),
    "upsampler_x1.5": ("ltx-2.3-spatial-upscaler-x1.5-1.0.safetensors of Lightricks/LTX-2.3, 1.1 GB",
                       "latent_upscale_models"),
    "upsampler_temporal_x2": ("ltx-2.3-temporal-upscaler-x2-1.0.safetensors of Lightricks/LTX-2.3, 0.3 GB",
                              "latent_upscale_models"),
    "distilled_lora": ("ltx-2.3-22b-distilled-lora-384-1.1.safetensors of Lightricks/LTX-2.3, 7.6 GB", "loras"),
}


@dataclass(frozen=True)
class ComponentEntry:
    """One component: its configuration and where its tensors are.

    Args:
        config: what `models.registry.build` takes.
        tensors: parameter name -> byte range.
    """

    config: dict[str, Any]
    tensors: dict[str, TensorRef]

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors, as stored."""
        return sum(ref.size_bytes for ref in self.tensors.values())


@dataclass(frozen=True)
class Overlay:
    """A described model. Made by `materialize` or `Overlay.load`; holds no tensor data.

    Args:
        path: of the manifest.
        id: hash of the content: same id, same bytes of the same files.
        variant: "dev" (guided, 30 steps) or "distilled" (8 steps, unguided).
        model_version: from the checkpoint's metadata ("2.3.0").
        layout: how the checkpoint stores the model.
        sources: the files that it describes.
        components: by name.
        tokenizer: folder of the tokenizer files, or None without a text encoder.
    """

    path: Path
    id: str
    variant: str
    model_version: str
    layout: str
    sources: tuple[SourceFile, ...]
    components: dict[str, ComponentEntry]
    tokenizer: Path | None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Overlay:
        """Read a manifest and make sure that its files are unchanged.

        Raises:
            OverlayError: not a manifest, damaged, of another format, or a source changed.
        """
        path = Path(os.path.abspath(path))
        content = read_json(path)
        if content.get("format") != FORMAT:
            raise OverlayError(f"{path} has the format {content.get('format')!r}", f"{FORMAT!r}", REMAKE)
        stored = content.pop("id", None)
        if encode(content)[1] != stored:
            raise OverlayError(f"{path} was edited or damaged: its content does not have the id that it states",
                               "a manifest as materialize wrote it", REMAKE)
        try:
            overlay = _from_content(path, stored, content)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise OverlayError(f"{path} is damaged ({type(error).__name__}: {error})",
                               "a manifest as materialize wrote it", REMAKE) from error
        overlay.verify()
        return overlay

    def verify(self) -> None:
        """Compare size, modification time and header hash of every source with those recorded.

        Raises:
            OverlayError: a source is gone or changed.
        """
        for source in self.sources:
            source.verify()

    def require(self, name: str) -> ComponentEntry:
        """A component that must be there.

        Raises:
            OverlayError: it is not; the error says which file brings it and where that belongs.
        """
        if name in self.components:
            return self.components[name]
        file, folder = _BRINGS.get(name, _CHECKPOINT)
        raise OverlayError(f"the overlay has no {name} (it has {', '.join(self.components)})", file,
                           f"Download it into models/{folder} and choose it in the Overlay node, "
                           "or give it to materialize(...).")

    def report(self) -> str:
        """A few lines for people: what was found, and what is missing and where to get it."""
        lines = [f"LTX {self.model_version} {self.variant}, {self.layout}: {self.sources[0].path.name}",
                 f"overlay {self.id[:12]}: {self.path}"]
        lines += [f"  {name}: {len(entry.tensors)} tensors, {entry.size_bytes / 1e9:.2f} GB, "
                  f"from {', '.join(sorted({ref.path.name for ref in entry.tensors.values()}))}"
                  for name, entry in self.components.items() if entry.tensors]
        lines += [f"  no {name}: {file} (models/{folder})" for name, (file, folder) in _BRINGS.items()
                  if name not in self.components]
        return "\n".join(lines)


def to_content(variant: str, model_version: str, layout: str, sources: tuple[SourceFile, ...],
               components: Mapping[str, ComponentEntry], tokenizer: Path | None) -> dict[str, Any]:
    """The manifest less its id, as JSON values."""
    numbers = {source.path: number for number, source in enumerate(sources)}
    return {
        "format": FORMAT, "variant": variant, "model_version": model_version, "layout": layout,
        "tokenizer": None if tokenizer is None else str(tokenizer),
        "files": [{"path": str(s.path), "size": s.size, "mtime_ns": s.mtime_ns, "head_bytes": s.head_bytes,
                   "head_sha256": s.head_sha256} for s in sources],
        "components": {name: {"config": entry.config, "tensors": {
            key: [numbers[ref.path], ref.dtype, list(ref.shape), ref.start, ref.end]
            for key, ref in entry.tensors.items()}} for name, entry in components.items()},
    }


def _from_content(path: Path, id: str, content: Mapping[str, Any]) -> Overlay:
    """An overlay from the manifest's JSON values; anything out of bounds raises ValueError, KeyError or TypeError."""
    sources = tuple(SourceFile(Path(f["path"]), int(f["size"]), int(f["mtime_ns"]), int(f["head_bytes"]),
                               str(f["head_sha256"])) for f in content["files"])
    if content["variant"] not in VARIANTS or not sources or not all(s.path.is_absolute() for s in sources):
        raise ValueError("variant or paths")

    def tensor(entry: list[Any]) -> TensorRef:
        file, dtype, shape, start, end = entry
        source = sources[file]
        if not 0 <= start <= end <= source.size or end - start != tensor_bytes(dtype, tuple(shape)):
            raise ValueError(f"a range is out of bounds: {entry}")
        return TensorRef(source.path, dtype, tuple(shape), start, end, source)

    components = {name: ComponentEntry(dict(entry["config"]), {key: tensor(t) for key, t in entry["tensors"].items()})
                  for name, entry in content["components"].items()}
    tokenizer = content["tokenizer"]
    return Overlay(path, id, content["variant"], str(content["model_version"]), str(content["layout"]), sources,
                   components, None if tokenizer is None else Path(tokenizer))


def encode(content: Mapping[str, Any]) -> tuple[str, str]:
    """The manifest's text, and its id: the SHA-256 of the canonical form of everything else."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    id = hashlib.sha256(text.encode()).hexdigest()
    return f'{{"id":"{id}",{text[1:]}', id


def save(path: Path, text: str) -> None:
    """Write a manifest, all of it or nothing: temporary file, fsync, rename, one writer at a time.

    Raises:
        OverlayError: the folder cannot be written, or another process holds the lock for a minute.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=_LOCK_SECONDS):
            try:
                with open(temporary, "x", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:  # what is left of a failure, and the lock file, which is of no use to anyone
                for leftover in (temporary, lock):
                    with contextlib.suppress(OSError):
                        leftover.unlink()
    except Timeout as error:
        raise OverlayError(f"another process has been writing {path} for {_LOCK_SECONDS} s", "a free manifest",
                           f"Wait for it, or delete {lock} if none is running.") from error
    except OSError as error:
        raise OverlayError(f"{path} cannot be written ({error.strerror or error})",
                           "a folder with write permission and free space",
                           "Give another output path: materialize(..., output=...).") from error
