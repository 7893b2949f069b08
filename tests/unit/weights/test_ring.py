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
from ltx23_core.weights.pages import Pages
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
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_pages_and_ring_together_give_the_bytes_of_the_file(driver: Driver, tmp_path: Path, share: float,  # noqa: F811
                                                            dtype: torch.dtype,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run of the file by one of them, as many as the share says."""
    monkeypatch.setattr(ring, "RUN", 4 * PIECE)
    monkeypatch.setattr(torch.cuda, "Event", Passed)
    monkeypatch.setattr(torch.cuda, "current_stream", Passed)
    generator = torch.Generator().manual_seed(0)
    size = PIECE // 4 - 1024
    tensors = {f"w{number:03}": torch.randint(0, 99, (size,), generator=generator, dtype=torch.uint8)
               for number in range(160)}
    save_file(tensors, tmp_path / "w.safetensors")
    refs = dict(sorted(read_header(tmp_path / "w.safetensors").tensors.items(), key=lambda item: item[1].start))
    pages, source = Pages(torch.device("cpu")), SourceReader()
    upload, asked = Upload(torch.device("cpu"), source, pages, share), []
    spans = pages.spans
    monkeypatch.setattr(pages, "spans", lambda ref: asked.append(ref.start) or spans(ref))
    upload.expect(refs.values())
    for name, ref in refs.items():
        target = torch.empty(size, dtype=dtype)
        upload.upload(ref, target, torch.uint8)
        assert torch.equal(target, tensors[name].to(dtype)), name
    assert len(asked) == len(set(asked)), "the pages of a tensor are looked up once"
    held = pages.held_bytes / (tmp_path / "w.safetensors").stat().st_size
    assert held == pytest.approx(share, abs=0.2) and (held > 0) == (share > 0), held
    source.close()
    pages.close()
