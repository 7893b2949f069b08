"""Byte ranges of files to tensors: each range is read once, into its final memory or through a small staging buffer."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing

import torch
from torch import Tensor

from ..errors import WeightsError
from ..overlay.bytes.source import AnyRef, QuantRef, TensorRef
from .dequant import dequantise, needed
from .files import SourceReader
from .pages import Pages
from .quantise import quantise
from .ring import Upload

TORCH_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}
_STAGING = 64 << 20  # bytes of the buffer for casts on the CPU


class RangeReader:
    """Reads tensors of any number of files onto one device; files and buffers stay open between tensors.

    On a CUDA device copies run on the current stream, where results may be used at once.
    """

    def __init__(self, device: torch.device, pages: Pages | None = None) -> None:
        """Open nothing yet.

        Args:
            device: where the tensors shall be.
            pages: registered pages of files, used on a CUDA device where they can be had; the caller's to close.
        """
        self.device = device
        self._source = SourceReader()
        self._staging: Tensor | None = None
        self._upload = Upload(device, self._source, pages) if device.type == "cuda" else None

    def close(self) -> None:
        """Wait for everything under way and close all files."""
        self._source.close()
        if self._upload is not None:
            self._upload.close()

    def expect(self, refs: Iterable[AnyRef]) -> None:
        """Announce tensors in the order in which they will be read, so that a device's are read ahead.

        Others may be read in between.
        """
        if self._upload is not None:
            self._upload.expect(part for ref in refs for part in read_parts(ref).values())

    def read(self, ref: AnyRef, dtype: torch.dtype | None, out: Tensor | None = None) -> Tensor:
        """One tensor; a quantised weight becomes numbers on the device.

        Args:
            ref: its byte range, or the parts of a quantised weight.
            dtype: wanted dtype of floating-point tensors; None, and all other tensors: as stored (quantised weights:
                bfloat16, which they stand for).
            out: where it shall be: contiguous, of its shape and dtype, on the device; None: in memory of its own.

        Raises:
            WeightsError: the file is too short, unreadable, or of a dtype that torch does not have.
            OverlayError: the file changed after the overlay was made.
        """
        if isinstance(ref, QuantRef):
            parts = self.parts(ref)
            return dequantise(ref.format, parts, ref.parameters, ref.shape, dtype or torch.bfloat16, out)
        stored = TORCH_DTYPES.get(ref.dtype)
        if stored is None:
            raise WeightsError(f"a tensor of {ref.path} has dtype {ref.dtype}", f"one of {', '.join(TORCH_DTYPES)}",
                               "Use another file of this model.")
        wanted = dtype if dtype is not None and stored.is_floating_point else stored
        place = self.device if self._upload is not None else torch.device("cpu")
        direct = out is not None and out.device.type == place.type
        target = out if direct else torch.empty(ref.shape, dtype=wanted, device=place)
        if self._upload is not None:
            self._upload.upload(ref, target.view(-1), stored)
        elif wanted == stored:
            self._source.fill(ref, memoryview(target.view(-1).view(torch.uint8).numpy()), 0)
        else:
            self._read_and_cast(ref, target.view(-1), stored)
        return target.to(self.device) if out is None or direct else out.copy_(target)

    def parts(self, ref: QuantRef, out: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The parts of a quantised weight that its arithmetic uses, read, or made of what they are quantised from.

        Args:
            ref: the weight.
            out: part -> where it shall be, as of `read`; None: in memory of their own.

        Raises:
            WeightsError, OverlayError: as of `read`.
        """
        parts = {}
        if ref.origin is None:
            for name, part in read_parts(ref).items():
                parts[name] = self.read(part, None, None if out is None else out[name])
            return parts
        origin = self.read(ref.origin, None)
        for name, part in ref.parts.items():
            if out is None:
                parts[name] = torch.empty(part.shape, dtype=TORCH_DTYPES[part.dtype], device=origin.device)
            else:
                parts[name] = out[name]
        quantise(ref.format, origin, parts)
        return parts

    def _read_and_cast(self, ref: TensorRef, target: Tensor, stored: torch.dtype) -> None:
        if self._staging is None:
            self._staging = torch.empty(_STAGING, dtype=torch.uint8)
        done = 0
        for part in target.split(_STAGING // stored.itemsize):
            raw = self._staging[:part.numel() * stored.itemsize]
            self._source.fill(ref, memoryview(raw.numpy()), done)
            part.copy_(raw.view(stored))
            done += raw.numel()


def read_parts(ref: AnyRef) -> dict[str, TensorRef]:
    """What is read of a tensor, in order."""
    if isinstance(ref, TensorRef):
        return {"weight": ref}
    if ref.origin is not None:
        return dict(ref.read)
    return {name: ref.parts[name] for name in needed(ref.format) if name in ref.parts}


def in_file_order(refs: Mapping[str, AnyRef]) -> list[tuple[str, AnyRef]]:
    """Names and ranges so that every file is read from front to back."""
    return sorted(refs.items(), key=lambda item: (str(item[1].path), item[1].start))


def read_tensors(refs: Mapping[str, AnyRef], device: torch.device | str, dtype: torch.dtype | None, *,
                 check: Callable[[], None] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Read tensors one after the other, in file order, each once.

    Args:
        refs: name -> byte range.
        device: where they shall be.
        dtype: wanted dtype of floating-point tensors; None: as stored.
        check: called before each tensor; may raise to interrupt.

    Yields:
        (name, tensor), usable on the current stream.
    """
    with closing(RangeReader(torch.device(device))) as reader:
        ordered = in_file_order(refs)
        reader.expect(ref for _, ref in ordered)
        for name, ref in ordered:
            if check is not None:
                check()
            yield name, reader.read(ref, dtype)
