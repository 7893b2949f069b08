"""Pages of a mapped file are mapped before anyone touches them, and a file that shrinks is no more than an answer."""
from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from ltx23_core.weights import populate as module
from ltx23_core.weights.populate import populate

if sys.platform != "linux" or tuple(map(int, os.uname().release.split(".")[:2])) < (5, 14):
    pytest.skip("MADV_POPULATE_READ needs Linux 5.14", allow_module_level=True)
SIZE = 24 << 20


@pytest.fixture(params=["disk", "memory"])
def mapped(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "w" if request.param == "disk" else Path("/dev/shm") / f"{tmp_path.name}-w"
    path.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        yield path, numpy.frombuffer(mapping, numpy.uint8).ctypes.data
    path.unlink()


def resident(address: int) -> int:
    """Bytes of the mapping that begins there which are mapped into this process."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.startswith(f"{address:08x}-"):
            return next(int(each.split()[1]) * 1024 for each in lines if each.startswith("Rss:"))
    raise AssertionError("no such mapping")


def test_all_pages_are_mapped_by_several_threads(mapped: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 5 << 20)  # the last piece is smaller
    _, address = mapped
    assert resident(address) < SIZE
    assert populate(address, SIZE)
    assert resident(address) == SIZE


def test_part_of_a_file(mapped: tuple[Path, int]) -> None:
    _, address = mapped
    assert populate(address + (8 << 20), 4 << 20)
    assert resident(address) >= 4 << 20
    assert not populate(address, 0)


def test_a_file_that_shrank_does_not_end_the_process(mapped: tuple[Path, int]) -> None:
    path, address = mapped
    os.truncate(path, 8 << 20)
    assert not populate(address, SIZE)
    assert populate(address, 8 << 20)


def test_without_madvise_nothing_happens(mapped: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "platform", "win32")
    module._advise.cache_clear()
    try:
        assert not populate(mapped[1], SIZE)
    finally:
        monkeypatch.undo()
        module._advise.cache_clear()


def test_an_older_kernel_refuses_and_nothing_happens(mapped: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POPULATE_READ", 250)  # an advice that no kernel knows
    assert not populate(mapped[1], SIZE)
