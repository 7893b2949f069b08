"""Real files for other tools out of an overlay: ranges are copied file to file, nothing passes through tensors."""
from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ...errors import ExportError
from ..manifest import Overlay
from ..weight_dtype import AS_STORED
from .job import ExportedFile, Job, locked
from .layouts import LAYOUTS
from .sources import Make, Sources

SHARD_BYTES = 10_000_000_000


@dataclass(frozen=True)
class ExportReport:
    """What an export has written.

    Args:
        folder: of the export.
        layout: of it.
        files: in the order in which they were written.
        seconds: that it took.
    """

    folder: Path
    layout: str
    files: tuple[ExportedFile, ...]
    seconds: float

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)

    def __str__(self) -> str:
        """A few lines for people."""
        reused = sum(file.reused for file in self.files)
        head = (f"{self.folder} ({self.layout}): {len(self.files)} files, {self.bytes / 1e9:.2f} GB, "
                f"{self.seconds:.1f} s")
        if reused:
            head += f", {reused} of them were there"
        lines = [head]
        for file in self.files:
            compared = "not compared"
            if file.sha256:
                compared = f"sha256 {file.sha256}"
            lines.append(f"  {file.path.relative_to(self.folder).as_posix()}: {file.size} bytes, {compared}")
        return "\n".join(lines)


def write_files(overlay: Overlay | str | os.PathLike[str], layout: str, folder: str | os.PathLike[str], *,
                verify: bool = True, shard_bytes: int = SHARD_BYTES, check: Callable[[], None] | None = None,
                progress: Callable[[int, int], None] | None = None, weight_dtype: str = AS_STORED,
                make: Make | None = None) -> ExportReport:
    """Write the weights of an overlay as real files. After an interruption the same call goes on where it stopped.

    Memory does not depend on the size: the system copies file to file, sharing blocks where the file system can.

    Args:
        overlay: made by `materialize`, or the path of its manifest.
        layout: "diffusers" (a folder for LTX2Pipeline), "monolith" (the official single file) or "split" (ComfyUI's
            files in their folders), or "transformer" (the first of these alone).
        folder: to write to: new, empty, or with the same export begun.
        verify: read every file back, compare it with its sources byte by byte and give its SHA-256.
        shard_bytes: most bytes in one file of weights of a diffusers folder.
        check: called often; may raise to interrupt.
        progress: called with bytes done (comparing counts as well) and bytes in all.
        weight_dtype: what the overlay was given to (`overlay.weight_dtype`).
        make: gives the bytes of weights that are made of theirs.

    Raises:
        ExportError: the folder cannot be used, the disk is full, or the layout cannot hold the model.
        OverlayError: a source changed after the overlay was made, or a component is missing.
    """
    begin = time.perf_counter()
    if layout not in LAYOUTS:
        raise ExportError(f"export layout {layout!r}", f"one of {', '.join(LAYOUTS)}", "Use one of these "
                                                                                       "names.")
    if isinstance(overlay, Overlay):
        overlay.verify()
    else:
        overlay = Overlay.load(overlay)
    root = Path(os.path.abspath(folder))
    files = LAYOUTS[layout](overlay, shard_bytes, weight_dtype)
    job = Job(root, files, {"overlay": overlay.id, "layout": layout}, verify)
    job.refuse_sources()
    job.read_marker()
    job.check_space()
    with locked(root), closing(Sources(make)) as sources:
        job.read_marker()  # another process may have written it meanwhile
        files = job.run(sources, check or (lambda: None), progress or (lambda done, total: None))
    return ExportReport(root, layout, files, time.perf_counter() - begin)
