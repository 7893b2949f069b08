"""Pinned memory is a small part of RAM, also where there is little of it."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.weights import ring
from ltx23_core.weights.files import SourceReader
from ltx23_core.weights.pages import SMALL, Pages
from ltx23_core.weights.ring import Upload
from tests.unit.weights.test_pages import PIECE, Driver, driver  # noqa: F401 (a fixture)


@pytest.mark.parametrize(("ram", "pins"), [(8 << 30, True), (1 << 30, True), (512 << 20, False), (None, True)])
def test_buffers_are_pinned_where_ram_allows(monkeypatch: pytest.MonkeyPatch, ram: int | None, pins: bool) -> None:
    asked = []

    def pinned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        asked.append(shape)
        return torch.empty(shape, dtype=dtype)

    monkeypatch.setattr(ring, "pinned", pinned)
    monkeypatch.setattr(ring, "total_ram", lambda: ram)
    assert ring._slot().shape == (ring.SLOT_BYTES,)
    assert asked == [(ring.SLOT_BYTES,)] * pins


def test_all_buffers_of_a_reader_are_within_the_bound_of_a_small_computer() -> None:
    """Windows lets a process pin about half of RAM; issue 9 asks for at most 40 %."""
    together = (ring.SLOTS + ring.SINGLE_SLOTS) * ring.SLOT_BYTES
    assert together <= ring.MOST_PINNED * (1 << 30)


class Passed:
    """An event of a device that has done all it was asked for."""

    def __init__(self, blocking: bool = False) -> None:
        """Nothing to keep."""

    def record(self, stream: object = None) -> None:
        """See `torch.cuda.Event`."""

    def synchronize(self) -> None:
        """See `torch.cuda.Event`."""


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("registered", [False, True])
def test_pages_and_ring_give_the_bytes_of_the_file(driver: Driver, tmp_path: Path, registered: bool,  # noqa: F811
                                                   dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Passed)
    monkeypatch.setattr(torch.cuda, "current_stream", Passed)
    generator = torch.Generator().manual_seed(0)
    size = PIECE // 4 - 1024
    tensors = {f"w{number:03}": torch.randint(0, 99, (size,), generator=generator, dtype=torch.uint8)
               for number in range(160)}
    save_file(tensors, tmp_path / "w.safetensors")
    refs = dict(sorted(read_header(tmp_path / "w.safetensors").tensors.items(), key=lambda item: item[1].start))
    pages, source = Pages(torch.device("cpu")), SourceReader()
    upload, asked = Upload(torch.device("cpu"), source, pages if registered else None), []
    spans = pages.spans
    monkeypatch.setattr(pages, "spans", lambda ref: asked.append(ref.start) or spans(ref))
    upload.expect(refs.values())
    for name, ref in refs.items():
        target = torch.empty(size, dtype=dtype)
        upload.upload(ref, target, torch.uint8)
        assert torch.equal(target, tensors[name].to(dtype)), name
    assert len(asked) == len(set(asked)), "the pages of a tensor are looked up once"
    held = pages.held_bytes / (tmp_path / "w.safetensors").stat().st_size
    assert held == pytest.approx(float(registered), abs=0.2), held
    source.close()
    pages.close()


@pytest.mark.parametrize("size", [1, 100, 16 << 20, (16 << 20) + 1, (32 << 20) + 10, 3 * (16 << 20) - 5])
def test_what_is_cast_part_by_part_leaves_no_small_rest(size: int) -> None:
    parts = ring.even_parts(torch.zeros(size, dtype=torch.uint8), ring.SLOT_BYTES)
    assert sum(map(len, parts)) == size and max(map(len, parts)) <= ring.SLOT_BYTES
    assert all(len(part) % 16 == 0 for part in parts[:-1]), "no number is cut"
    assert len(parts) == 1 or min(map(len, parts)) > SMALL


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_small_pieces_are_read_and_not_taken_from_the_mapping(driver: Driver, tmp_path: Path,  # noqa: F811
                                                              dtype: torch.dtype,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """What is copied as it is, and what is cast in parts; edges of registrations leave small rests."""
    monkeypatch.setattr(torch.cuda, "Event", Passed)
    monkeypatch.setattr(torch.cuda, "current_stream", Passed)
    monkeypatch.setattr(ring, "SLOT_BYTES", 4 * SMALL)
    sizes = [PIECE // 2 - 1000, 100, SMALL // 2, SMALL // 2 + 1, PIECE // 2 - 40_000, 7, 4 * PIECE]
    tensors = {f"w{number}": torch.arange(size).bfloat16() for number, size in enumerate(sizes)}
    save_file(tensors, tmp_path / "w.safetensors")
    refs, pages, source = read_header(tmp_path / "w.safetensors").tensors, Pages(torch.device("cpu")), SourceReader()
    upload, copied, copy = Upload(torch.device("cpu"), source, pages), [], Tensor.copy_
    monkeypatch.setattr(Tensor, "copy_", lambda self, other, **_: (copied.append(other), copy(self, other))[1])
    upload.expect(refs.values())
    for name, ref in refs.items():
        target = torch.empty(ref.shape, dtype=dtype)
        upload.upload(ref, target, torch.bfloat16)
        assert torch.equal(target, tensors[name].to(dtype)), name
    [mapping] = pages._files.values()
    assert mapping.size == pages.held_bytes
    from_pages = [host.nbytes for host in copied if 0 <= host.data_ptr() - mapping.address < mapping.size]
    assert from_pages and min(from_pages) > SMALL
    source.close()
    pages.close()
