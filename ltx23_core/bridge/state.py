"""Parts of an overlay as the state dicts and metadata that ComfyUI's own loaders take. Nothing is written."""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from ..config import gemma_config
from ..errors import OverlayError
from ..overlay import Overlay
from ..overlay.bytes.header import read_small
from ..overlay.bytes.source import AnyRef, QuantRef, TensorRef
from ..overlay.export.native import (
    AUDIO_VAE,
    MODEL,
    PROJECTION,
    VIDEO_VAE,
    NativeFile,
    native_file,
    native_gemma,
)
from ..overlay.export.packed import CARRIED, description, in_parts
from ..overlay.find.gguf_gemma import sentencepiece_model
from ..overlay.names.gemma import TOKENIZER
from ..weights.reader import RangeReader
from .tensors import Made, MappedFiles

State = tuple[dict[str, Tensor], dict[str, str]]  # tensors and metadata of one file
NUMBERS = torch.bfloat16  # of a weight that is quantised in a way that ComfyUI does not know
CLIP, VAE = "clip", "vae"
PARTS = {"model": (MODEL,), CLIP: (PROJECTION,), VAE: (VIDEO_VAE,), "audio_vae": (AUDIO_VAE,)}
_LAYERS, _WIDTH, _ROWS = 48, 3840, 262_208  # of Gemma 3 12B, the one size that ComfyUI's class for it has
_PREFIX = "model.diffusion_model."
_EMBEDDING = "model.embed_tokens.weight"
_TOKENIZER_BYTES = 64 << 20


def native_part(overlay: Overlay, part: str) -> list[NativeFile]:
    """What a loader of ComfyUI reads of a model, in the order in which it takes it.

    Args:
        overlay: the model.
        part: a key of `PARTS`.

    Raises:
        OverlayError: a component is missing, or none that ComfyUI knows.
        ExportError: two halves of a VAE do not belong together.
    """
    files = []
    if MODEL in PARTS[part]:
        overlay.require("connectors")  # ComfyUI's own class has them, and would run with what memory happens to hold
    for name in PARTS[part]:
        file = native_file(overlay, name, _as_stored)
        # Bare: ComfyUI looks for quantised layers before and after it takes the prefix away, and keeps both finds.
        bare = {key.removeprefix(_PREFIX): ref for key, ref in file.tensors.items()}
        files.append(NativeFile(bare, file.metadata))
    if part == CLIP:
        files.insert(0, _gemma(overlay))
    return files


def _as_stored(overlay: Overlay, component: str) -> Mapping[str, AnyRef]:
    return overlay.require(component).tensors


def _gemma(overlay: Overlay) -> NativeFile:
    config = gemma_config(overlay.require("text_encoder").config)
    size = config["num_hidden_layers"], config["hidden_size"]
    if size != (_LAYERS, _WIDTH):
        raise OverlayError(f"the text encoder has {size[0]} layers of width {size[1]}",
                           f"Gemma 3 12B ({_LAYERS} layers of width {_WIDTH}), the only one that ComfyUI's own CLIP "
                           "for LTX-2.3 can be", "Use Prompt of this pack, and Context To Native behind it.")
    found = native_gemma(overlay, _as_stored)
    if TOKENIZER not in found.tensors:
        raise OverlayError(f"the tokenizer folder {overlay.tokenizer} has no tokenizer.model",
                           "Gemma's SentencePiece model, which ComfyUI's own CLIP reads",
                           "Copy tokenizer.model of google/gemma-3-12b-it into that folder and run Overlay again, or "
                           "use Prompt of this pack.")
    return found


def is_kept(ref: AnyRef, known: Collection[str]) -> bool:
    """Whether ComfyUI uses a weight in the form of its file.

    Its layers know one scale a weight in fp8; other scales are multiplied in here.

    Args:
        ref: the weight.
        known: names of formats that it knows, as files state them.
    """
    if isinstance(ref, TensorRef):
        return True
    if ref.format not in CARRIED or ref.origin is not None or description(ref)["format"] not in known:
        return False
    if ref.format == "fp8":
        return prod(ref.parts["weight_scale"].shape) == 1
    return "weight_correction" not in ref.parts


def made_sizes(files: Collection[NativeFile], known: Collection[str]) -> list[int]:
    """Bytes of RAM that each weight takes whose numbers are made for ComfyUI."""
    sizes = []
    for file in files:
        for ref in file.tensors.values():
            if not is_kept(ref, known):
                sizes.append(prod(ref.shape) * NUMBERS.itemsize)
    return sizes


@contextmanager
def opened(known: Collection[str], *, now: bool, check: Callable[[], None]) -> Iterator[Callable[[NativeFile], State]]:
    """A function that gives the state dict of a file; its tensors may be used outside, but for those that are `Made`.

    Args:
        known: names of quantised formats that ComfyUI knows, as files state them.
        now: make numbers at once, for a loader that keeps tensors instead of copying them.
        check: called for each weight whose numbers are made; may raise to interrupt.
    """
    with closing(_Opened(known, now, check)) as files:
        try:
            yield files.state
        except Exception as error:
            if files.failed is not None:  # loaders make a list of texts of what is raised while they copy
                raise files.failed from error
            raise


class _Opened:
    """Files that are being handed on; see `opened`."""

    def __init__(self, known: Collection[str], now: bool, check: Callable[[], None]) -> None:
        """Open nothing yet."""
        self._known, self._now, self._check = known, now, check
        self._mapped, self._reader = MappedFiles(), RangeReader(torch.device("cpu"))
        self.failed: Exception | None = None

    def close(self) -> None:
        """Of the files that are read: mapped ones are their tensors' to keep."""
        self._reader.close()

    def state(self, file: NativeFile) -> State:
        """The tensors and metadata of one file."""
        kept, made = {}, {}
        for name, ref in file.tensors.items():
            if is_kept(ref, self._known):
                kept[name] = ref
            else:
                made[name] = ref
        plain, metadata = in_parts(kept, file.metadata)
        state = {}
        for name, ref in plain.items():
            state[name] = self._mapped.tensor(ref)
        for name, ref in made.items():
            state[name] = self._numbers(ref) if self._now else Made(ref.shape, NUMBERS, partial(self._numbers, ref))
        if TOKENIZER in state:
            state[TOKENIZER] = _sentencepiece(file.tensors[TOKENIZER])
        if _EMBEDDING in state and len(state[_EMBEDDING]) < _ROWS:
            state[_EMBEDDING] = _all_rows(state[_EMBEDDING])
        return state, metadata

    def _numbers(self, ref: QuantRef) -> Tensor:
        try:
            self._check()
            return self._reader.read(ref, NUMBERS)
        except Exception as error:
            self.failed = error
            raise


def _sentencepiece(ref: TensorRef) -> Tensor:
    """The bytes of tokenizer.model, made of the header of a GGUF file where that is what there is."""
    data = read_small({TOKENIZER: ref}, _TOKENIZER_BYTES)[TOKENIZER]
    return torch.frombuffer(bytearray(sentencepiece_model(data, ref.path)), dtype=torch.uint8)


def _all_rows(table: Tensor) -> Tensor:
    """A table of embeddings with the rows that GGUF files leave out: those of no token of a text."""
    return functional.pad(table, (0, 0, 0, _ROWS - len(table)))
