"""What a file is that is no weight file: by its leading bytes, with what to do about it. The one table of them."""
from __future__ import annotations

import re
from typing import NamedTuple

AGAIN = "Download the file again, and compare its size with the one that the download page shows."
_WEIGHTS = "Give the weight file instead."
_INSIDE = "Give the folder that it is in, or the weight file beside it."
_SAFETENSORS = "Use the .safetensors form of these weights."


class Foreign(NamedTuple):
    """Leading bytes of a file that is no safetensors file.

    Attributes:
        kind: one word.
        start: pattern of the first 512 bytes.
        name: what it is, for an error.
        sentence: the same for a list, with {size}, {real}, {suffix}.
        fix: what to do.
    """

    kind: str
    start: re.Pattern[bytes]
    name: str
    sentence: str
    fix: str


FOREIGN: tuple[Foreign, ...] = (
    Foreign("lfs_pointer", re.compile(rb"version https://git-lfs"),
            "a Git LFS pointer, not the weights",
            "Git LFS pointer, {size}: the download never happened{real}",
            "Run `git lfs pull` in that folder, or download the file itself."),
    Foreign("web_page", re.compile(rb"(?i)\s*<(!doctype|html|\?xml)"),
            "a saved web page, not the weights",
            "HTML page saved as {suffix}, {size}",
            "Download the file again with the page's download button (a /resolve/ link, not /blob/)."),
    Foreign("error_message", re.compile(
        rb"\s*(\{\s*\"error|Access to model|Invalid (username|credentials)|Entry not found|Repository not found)"),
            "an error message of the download site, not the weights",
            "error message of the download site saved as {suffix}, {size}",
            "Log in to the site, accept the model's licence, and download the file again."),
    Foreign("overlay", re.compile(rb'\{"id":"[0-9a-f]{64}",'),
            "an overlay manifest of this pack",
            "overlay manifest of this pack, {size}",
            "Give it to Overlay.load(...), or to --overlay; where weights are asked for, give the weight "
            "file."),
    Foreign("json", re.compile(rb"\s*[\[{]"),
            "JSON text, part of a model folder",
            "JSON text, {size}: part of a model folder",
            "Give the folder, or the weight file beside it."),
    Foreign("tokenizer", re.compile(rb"\x0a.{1,4}\x0a.<(pad|unk|s|eos)>", re.S),
            "a SentencePiece tokenizer",
            "SentencePiece tokenizer, {size}",
            _INSIDE),
    Foreign("archive", re.compile(rb"7z\xbc\xaf|Rar!|\x1f\x8b"),
            "a compressed archive",
            "compressed archive, {size}",
            "Unpack it and give the file inside."),
    Foreign("media", re.compile(rb"\x89PNG|\xff\xd8\xff|RIFF|....ftyp", re.S),
            "a picture or video",
            "picture or video, {size}",
            _WEIGHTS),
    Foreign("pickle", re.compile(rb"PK\x03\x04|\x80[\x02-\x05]"),
            "a Python pickle (.pt, .pth, .ckpt), which can run code when opened",
            "Python pickle (.pt, .pth, .ckpt), {size}: can run code when opened and is not read",
            _SAFETENSORS),
    Foreign("hdf5_or_other", re.compile(rb"\x89HDF|\x08\x08\x12|\x08\x0a"),
            "an ONNX or HDF5 file",
            "ONNX or HDF5 file, {size}",
            _SAFETENSORS),
    Foreign("unfinished", re.compile(rb"\0{512}"),
            "an unfinished download, only zeros at its beginning",
            "only zeros at its beginning, {size}: an unfinished download that has reserved its space",
            "Finish the download, or delete the file and download it again."),
)
# GGUF has a reader of its own; this is for the places that take safetensors files alone.
GGUF = Foreign("gguf", re.compile(rb"GGUF"), "a GGUF file", "GGUF file, {size}",
               "Give it where weights of any format are asked for, or use a .safetensors file here.")


def foreign_of(start: bytes) -> Foreign | None:
    """What a file with these first bytes is, or None."""
    for each in (GGUF, *FOREIGN):
        if each.start.match(start):
            return each
    return None


def pointed_size(start: bytes) -> int | None:
    """Bytes of the file that a Git LFS pointer stands for."""
    found = re.search(rb"\nsize (\d{1,20})", start)
    if found is None:
        return None
    return int(found[1])
