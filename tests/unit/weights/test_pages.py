"""Registered pages beside a driver that says no, files that change, forks and ends of the process.

The driver's two calls are the seam: everything else is real (mapping, page cache, RAM, files). With a device the same
is in tests/gpu/test_pages.py.
"""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ltx23_core.errors import LTX23Error, OverlayError
from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.weights import pages as module
from ltx23_core.weights.pages import Pages, registered_bytes
from ltx23_core.weights.populate import populate
from ltx23_core.weights.reader import RangeReader
from tests.conftest import ROOT

if sys.platform != "linux":
    pytest.skip("pages are registered on Linux alone", allow_module_level=True)
CPU, PIECE = torch.device("cpu"), 1 << 20
COUNT = 5  # tensors of a piece each


class Driver:
    """What the CUDA runtime does with page ranges: it takes each once, and refuses from a certain number on."""

    def __init__(self, most: int = 10 ** 6) -> None:
        self.most, self.held, self.asked, self.given_back = most, {}, 0, 0

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        self.asked += 1
        assert flags == module.READ_ONLY and address % 4096 == 0
        if len(self.held) >= self.most or address in self.held or not populate(address, size):
            return 712
        self.held[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        self.given_back += self.held.pop(address)
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    made = Driver()
    monkeypatch.setattr(module, "supported", lambda device: True)
    monkeypatch.setattr(module, "PIECE", PIECE)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: made)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    before = registered_bytes()
    yield made
    assert not made.held and registered_bytes() == before, "everything is given back"


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    tensors = {f"w{number}": torch.randint(0, 255, (PIECE,), generator=generator, dtype=torch.uint8)
               for number in range(COUNT)}
    save_file(tensors, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors", tensors


def bytes_of(pages: Pages, path: Path) -> dict[str, Tensor | None]:
    """What the device would copy; None: not by these pages."""
    found = {}
    for name, ref in read_header(path).tensors.items():
        spans = pages.spans(ref)
        found[name] = None if spans is None else torch.cat([host for host, _ in spans]).clone()
    return found


def assert_file_s(found: dict[str, Tensor | None], tensors: dict[str, Tensor]) -> None:
    for name, want in tensors.items():
        assert found[name] is not None and torch.equal(found[name], want), name


@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_registration_refused_half_way(driver: Driver, weights: tuple[Path, dict[str, Tensor]], most: int) -> None:
    """What was registered before stays in use, the rest is read in another way; nobody asks again and again."""
    path, tensors = weights
    driver.most = most
    pages = Pages(CPU)
    found = bytes_of(pages, path)
    there = [name for name, value in found.items() if value is not None]
    assert len(there) < COUNT and len(driver.held) == most
    assert all(torch.equal(found[name], tensors[name]) for name in there)
    asked = driver.asked
    reader = RangeReader(CPU)
    for name, ref in read_header(path).tensors.items():
        if found[name] is None:
            assert torch.equal(reader.read(ref, None), tensors[name]), name
    reader.close()
    bytes_of(pages, path)
    assert driver.asked == asked == most + 1 and pages.held_bytes == sum(driver.held.values())
    pages.close()


def test_a_replaced_file_gives_the_old_bytes_to_who_streams_and_is_refused_to_others(
        driver: Driver, weights: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = weights
    refs, pages = read_header(path).tensors, Pages(CPU)
    assert pages.spans(refs["w0"]) is not None
    other = path.with_name("new")
    save_file({name: value + 1 for name, value in tensors.items()}, other)
    os.utime(other, ns=(1, 1))
    os.replace(other, path)
    for name, ref in refs.items():
        assert torch.equal(torch.cat([host for host, _ in pages.spans(ref)]), tensors[name]), "the file that was opened"
    pages.close()
    with pytest.raises(OverlayError, match="changed after the overlay was made"):
        pages.spans(refs["w0"])
    pages.close()


@pytest.mark.parametrize("left", [0, PIECE // 2, 2 * PIECE])
def test_a_file_that_shrinks_before_it_is_registered_is_read_in_another_way(
        driver: Driver, weights: tuple[Path, dict[str, Tensor]], left: int) -> None:
    """Touching such a page would end the process; the driver gets an error instead, and so do threads that map it."""
    path, tensors = weights
    refs, pages = read_header(path).tensors, Pages(CPU)
    first = pages.spans(refs["w0"])
    assert first is not None
    os.truncate(path, left)
    assert pages.spans(refs[f"w{COUNT - 1}"]) is None
    reader = RangeReader(CPU)
    with pytest.raises(LTX23Error, match="its size went from"):
        reader.read(refs[f"w{COUNT - 1}"], None)
    reader.close()
    pages.close()


def test_a_small_tensor_of_a_file_that_shrinks_after_it_was_registered(driver: Driver, tmp_path: Path) -> None:
    """What was read before is there; of the others nothing is taken, and who reads them is told in words."""
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.arange(9.0), "b": torch.arange(9.0), "large": torch.arange(PIECE // 4)}, path)
    refs, pages = read_header(path).tensors, Pages(CPU)
    [(host, _)] = pages.spans(refs["a"])
    os.truncate(path, 0)
    assert torch.equal(host.view(torch.float32), torch.arange(9.0)) and pages.spans(refs["a"])[0][0] is host
    assert pages.spans(refs["b"]) is None and len(driver.held) == 1
    pages.close()


def test_a_deleted_file_goes_on_for_who_has_it(driver: Driver, weights: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = weights
    refs, pages = read_header(path).tensors, Pages(CPU)
    pages.spans(refs["w0"])
    path.unlink()
    for name, ref in refs.items():  # pieces that nobody had asked for come from the same open file
        assert torch.equal(torch.cat([host for host, _ in pages.spans(ref)]), tensors[name]), name
    pages.close()
    assert pages.spans(refs["w0"]) is None, "it cannot be mapped any more; reading says so in words"


def test_a_fork_that_ends_gives_nothing_back(driver: Driver, weights: tuple[Path, dict[str, Tensor]]) -> None:
    """The registration is the parent's: a child (a worker of a data loader) has the mapping alone."""
    path, tensors = weights
    pages = Pages(CPU)
    assert_file_s(bytes_of(pages, path), tensors)
    child = os.fork()
    if not child:
        pages.close()
        os._exit(int(driver.given_back != 0))
    assert os.waitpid(child, 0)[1] == 0
    assert_file_s(bytes_of(pages, path), tensors)
    pages.close()
    assert driver.given_back == path.stat().st_size


@pytest.mark.parametrize(("limit", "total", "available", "pieces"), [
    (2 * PIECE, 100, 90, 2),  # what the caller allows
    (None, 4, 90, 3),  # 75 % of all RAM
    (None, 20, 4.5, 2),  # 10 % of it stays available
    (None, None, 90, 0),  # nobody knows
    (0, 100, 90, 0),
])
def test_what_cannot_be_evicted_is_bounded_by_ram(driver: Driver, weights: tuple[Path, dict[str, Tensor]],
                                                  monkeypatch: pytest.MonkeyPatch, limit: int | None,
                                                  total: float | None, available: float, pieces: int) -> None:
    """RAM in pieces; what is given back may be taken by others."""
    path, tensors = weights
    monkeypatch.setattr(module, "total_ram", lambda: None if total is None else int(total * PIECE))
    monkeypatch.setattr(module, "available_ram", lambda: int(available * PIECE))
    first, second = Pages(CPU, limit), Pages(CPU)
    bytes_of(first, path)
    assert first.held_bytes == pieces * PIECE == registered_bytes()
    if limit is None:
        bytes_of(second, path)
        assert not second.held_bytes, "of all files of the process together"
        first.close()
        bytes_of(second, path)
        assert second.held_bytes == pieces * PIECE
    first.close()
    second.close()


@pytest.mark.parametrize(("kind", "remote", "pieces"), [("nfs4", False, False), ("cifs", False, False),
                                                        ("fuse.sshfs", False, False), ("nfs4", True, True),
                                                        ("ext4", False, True)])
def test_a_server_s_file_is_read_in_another_way(driver: Driver, weights: tuple[Path, dict[str, Tensor]], kind: str,
                                                remote: bool, pieces: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may pull registered pages away; who knows better says so."""
    monkeypatch.setattr(module, "file_system", lambda path: kind)
    pages = Pages(CPU, remote=remote)
    found = bytes_of(pages, weights[0])
    assert all((value is not None) == pieces for value in found.values())
    pages.close()


def test_what_is_not_in_the_cache_is_read_by_threads(driver: Driver, weights: tuple[Path, dict[str, Tensor]],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """And is registered when it has come into the cache."""
    cached = [False]
    monkeypatch.setattr(module, "is_cached", lambda *_: cached[0])
    pages = Pages(CPU)
    assert set(bytes_of(pages, weights[0]).values()) == {None} and not driver.asked
    cached[0] = True
    assert_file_s(bytes_of(pages, weights[0]), weights[1])
    pages.close()


ENDING = """
import sys, time
import torch
from pathlib import Path
from tests.unit.weights import test_pages as seam
from ltx23_core.overlay.bytes.header import read_header
driver = seam.Driver()
seam.module.supported, seam.module.PIECE = lambda device: True, seam.PIECE
torch.cuda.cudart, torch.cuda.synchronize = lambda: driver, lambda device: None
free = driver.cudaHostUnregister
driver.cudaHostUnregister = lambda address: (free(address), print("back", driver.given_back, flush=True))
pages = seam.Pages(seam.CPU)
for ref in read_header(Path(sys.argv[1])).tensors.values():
    assert pages.spans(ref) is not None
print("held", pages.held_bytes, flush=True)
if sys.argv[2] == "waits":
    time.sleep(60)
"""


def started(path: Path, how: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", ENDING, str(path), how], cwd=ROOT, stdout=subprocess.PIPE,
                            text=True)


def test_at_exit_all_is_given_back(weights: tuple[Path, dict[str, Tensor]]) -> None:
    out, _ = started(weights[0], "ends").communicate(timeout=300)
    size = weights[0].stat().st_size
    assert f"held {size}\n" in out and out.splitlines()[-1] == f"back {size}"


def test_a_killed_process_leaves_nothing_and_two_share_one_file(
        driver: Driver, weights: tuple[Path, dict[str, Tensor]]) -> None:
    """The pages are the file's: no copy, no lock and no temporary file is left, whoever is killed."""
    path, tensors = weights
    other = started(path, "waits")
    assert other.stdout.readline().startswith("held")
    pages = Pages(CPU)
    assert_file_s(bytes_of(pages, path), tensors)
    other.send_signal(signal.SIGKILL)
    assert other.wait(100) == -signal.SIGKILL
    other.stdout.close()
    assert_file_s(bytes_of(pages, path), tensors)
    assert os.listdir(path.parent) == [path.name]
    pages.close()
