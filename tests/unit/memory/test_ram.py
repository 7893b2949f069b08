"""RAM that a process may have: the computer's, or its container's where that is less."""
from __future__ import annotations

from pathlib import Path

import pytest

from ltx23_core.memory import ram

GB = 1 << 30
VERSIONS = {  # of control groups: files of limit, use and parts, and the parts' prefix
    1: ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
    2: ("memory.max", "memory.current", "memory.stat", ""),
}


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A computer of 64 GB, 40 of them free, without a container; its folder of control groups."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: {64 * GB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {40 * GB // 1024} kB\n")
    monkeypatch.setattr(ram, "_MEMINFO", meminfo)
    root = tmp_path / "cgroup"
    monkeypatch.setattr(ram, "_GROUPS", ram._groups(root))
    return root


def contain(root: Path, version: int, limit: int | str, used: int, cache: int) -> None:
    """Write a container's files as the kernel does, with parts that are no page cache among them."""
    *files, prefix = VERSIONS[version]
    texts = (f"{limit}\n", f"{used}\n", f"anon 5\nfile 99\n{prefix}inactive_file {cache - GB}\n"
                                          f"{prefix}inactive_anon 7\n{prefix}active_file {GB}\n")
    for name, text in zip(files, texts, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_no_container(computer: Path) -> None:
    assert (ram.total_ram(), ram.available_ram()) == (64 * GB, 40 * GB)


@pytest.mark.parametrize("version", VERSIONS)
def test_container(computer: Path, version: int) -> None:
    contain(computer, version, limit=16 * GB, used=12 * GB, cache=8 * GB)
    assert (ram.total_ram(), ram.available_ram()) == (16 * GB, 12 * GB), "the page cache can be had"


@pytest.mark.parametrize(("version", "limit"), [(1, 9223372036854771712), (2, "max")])
def test_container_without_a_limit(computer: Path, version: int, limit: int | str) -> None:
    contain(computer, version, limit, used=12 * GB, cache=8 * GB)
    assert (ram.total_ram(), ram.available_ram()) == (64 * GB, 40 * GB)


def test_container_larger_than_what_is_free(computer: Path) -> None:
    contain(computer, 2, limit=60 * GB, used=2 * GB, cache=GB)
    assert ram.available_ram() == 40 * GB


def test_container_over_its_limit(computer: Path) -> None:
    contain(computer, 2, limit=4 * GB, used=6 * GB, cache=GB)
    assert ram.available_ram() == 0


def test_this_computer() -> None:
    total, available = ram.total_ram(), ram.available_ram()
    assert total is not None and available is not None and 0 < available <= total
