"""What one file or folder is, as a record."""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

AGAIN = "Download the file again, and compare its size with the one that the download page shows."


@dataclass(frozen=True)
class Identity:
    """What a file or folder is.

    Args:
        path: absolute path.
        kind: "checkpoint", "transformer", "connectors", "text_projection", "video_vae", "audio_vae", "vocoder",
            "text_encoder", "upsampler", "lora", "diffusers"; "other" for what LTX-2.3 cannot use; or what a file
            that is no weights is ("lfs_pointer", "truncated", ...).
        sentence: for people: "LTX-2.3 dev, monolith, bf16, 46.1 GB".
        brings: the components that it has, by the names of `Overlay.components`, and "lora".
        variant: "dev" or "distilled" as far as names tell, else None; the content does not.
        dtypes: number format of the weights ("bf16", "fp8 scaled", "GGUF Q4_K").
        size_bytes: of the file, or of all weight files of the folder.
        usable: whether LTX-2.3 can use it as it is.
        fix: the next step where it is not usable.
        fits: sizes that must agree between files used together.
        weights: component -> its bytes on a device: all of them, then those of each block.
        work: component -> bytes that a block of packed weights takes as numbers while it runs.
        formats: component -> number format of most of its bytes.
        generation: "2.3", "2.0", ... as header or name tell, "" where neither does.
        would: components that it would bring if it were whole.
        modules, rank: of a LoRA, how many modules it changes, and its mean rank.
    """

    path: Path
    kind: str
    sentence: str
    brings: tuple[str, ...] = ()
    variant: str | None = None
    dtypes: str = ""
    size_bytes: int = 0
    usable: bool = False
    fix: str = ""
    fits: dict[str, int] | None = None
    weights: dict[str, list[int]] = field(default_factory=dict)
    work: dict[str, int] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)
    generation: str = ""
    modules: int = 0
    rank: int = 0
    would: tuple[str, ...] = ()

    def refused(self, kind: str, sentence: str, fix: str) -> Identity:
        """The same file as one that cannot be used."""
        return replace(self, kind=kind, sentence=sentence, fix=fix, brings=(), usable=False, weights={}, work={},
                       formats={}, would=self.brings or self.would)
