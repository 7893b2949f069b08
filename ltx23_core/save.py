"""`export` with torch behind it where weights are quantised: the files of a model, as they are or smaller."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing

from .errors import ExportError
from .overlay import Overlay
from .overlay.bytes.source import QuantRef
from .overlay.export.export import SHARD_BYTES, ExportReport, write_files
from .overlay.weight_dtype import AS_STORED, check_weight_dtype, quantised_forms, with_weight_dtype


def export(overlay: Overlay | str | os.PathLike[str], layout: str, folder: str | os.PathLike[str], *,
           weight_dtype: str = AS_STORED, device: str = "auto", verify: bool = True, shard_bytes: int = SHARD_BYTES,
           check: Callable[[], None] | None = None,
           progress: Callable[[int, int], None] | None = None) -> ExportReport:
    """Write the weights of an overlay as real files. After an interruption the same call goes on where it stopped.

    Memory does not depend on the size: the system copies file to file, sharing blocks where the file system can, and
    what is quantised is so weight by weight.

    Args:
        overlay: made by `materialize`, or the path of its manifest.
        layout: "diffusers" (a folder for LTX2Pipeline), "monolith" (the official single file), "split" (ComfyUI's
            files in their folders) or "transformer" (the first of these alone).
        folder: to write to: new, empty, or with the same export begun.
        weight_dtype: "as stored", or what the transformer's matrices become (`overlay.weight_dtype`): what is written
            loads bit for bit as `Pipeline(..., weight_dtype=...)` would make it. "Q8_0" and "Q4_K" give a GGUF file.
        device: where quantising is computed: "auto", "cpu", "cuda", "cuda:N" or "mps".
        verify: read every file back, compare it with its sources byte by byte and give its SHA-256.
        shard_bytes: most bytes in one file of weights of a diffusers folder.
        check: called often; may raise to interrupt.
        progress: called with bytes done (comparing counts as well) and bytes in all.

    Raises:
        ExportError: the folder cannot be used, the disk is full, or the layout cannot hold the model.
        OverlayError: a source changed after the overlay was made, or a component is missing.
        RequestError: no such weight_dtype.
    """
    given = {"verify": verify, "shard_bytes": shard_bytes, "check": check, "progress": progress}
    if check_weight_dtype(weight_dtype) == AS_STORED:
        return write_files(overlay, layout, folder, **given)
    if not isinstance(overlay, Overlay):
        overlay = Overlay.load(overlay)
    stored = quantised_forms(overlay.require("transformer").tensors)
    if stored:
        raise ExportError(f"weight_dtype {weight_dtype} for a transformer that is {', '.join(stored)} in its file",
                          "one that is bf16", f"Export as it is (weight_dtype {AS_STORED}), or take the bf16 file.")
    with closing(_Maker(device)) as maker:
        return write_files(with_weight_dtype(overlay, weight_dtype), layout, folder, weight_dtype=weight_dtype,
                           make=maker.parts, **given)


class _Maker:
    """Reads weights and gives the bytes of what they become."""

    def __init__(self, device: str) -> None:
        """Open nothing yet."""
        from .runtime.device import choose_device
        from .weights.reader import RangeReader

        self._reader = RangeReader(choose_device(device))

    def parts(self, ref: QuantRef) -> Iterator[bytes]:
        """The parts of a weight, in order; of a plain one itself, in the dtype that it shall have."""
        import torch

        from .weights.reader import TORCH_DTYPES

        if ref.format in TORCH_DTYPES:
            made = {"weight": self._reader.read(ref.origin, TORCH_DTYPES[ref.format])}
        else:
            made = self._reader.parts(ref)
        for name in ref.parts:
            yield made[name].cpu().view(-1).view(torch.uint8).numpy().tobytes()

    def close(self) -> None:
        """Close the files."""
        self._reader.close()
