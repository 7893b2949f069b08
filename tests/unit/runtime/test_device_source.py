"""Copies of streamed blocks from registered pages, asked for by whoever computes or by a thread beside.

The driver, streams and events are the seam, and the place lies on the CPU: the thread, the copies, the pages and the
computing are real, so an order that is wrong gives other numbers. With a device: tests/gpu/test_pages.py.
"""
from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ltx23_core import Overlay, Pipeline, materialize
from ltx23_core.errors import OverlayError
from ltx23_core.memory import room
from ltx23_core.memory.pieces import aligned
from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.runtime import policy, stream
from ltx23_core.runtime.block_source import DeviceSource
from ltx23_core.runtime.residency import LocalResidency
from ltx23_core.weights.pages import SMALL, Pages, registered_bytes
from tests.goldens.harness import CHECKPOINT, GEMMA
from tests.support.vanishing import WAYS, goes
from tests.unit.weights.test_pages import PIECE, Driver, driver  # noqa: F401 (a fixture)

CPU = torch.device("cpu")
RUN = {"recipe": "one_stage", "steps": 2, "width": 64, "height": 64, "frames": 9, "seed": 3}


class Event:
    """Passed when it is recorded: what was asked before has been done by then."""

    def __init__(self) -> None:
        self.recorded = threading.Event()

    def record(self, stream: object = None) -> None:
        self.recorded.set()


class Stream:
    """Does at once what it is asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait_event(self, event: Event) -> None:
        assert event.recorded.is_set(), "nobody would wait for an event that is recorded later"

    def synchronize(self) -> None:
        pass


@pytest.fixture
def seam(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:  # noqa: F811
    """Names of the threads that asked for copies."""
    asked: list[str] = []
    copy = torch._foreach_copy_

    def noted(targets: list[Tensor], hosts: list[Tensor], non_blocking: bool) -> None:
        asked.append(threading.current_thread().name)
        time.sleep(0.002)  # the copy takes longer than the thread that asked for it
        copy(targets, hosts)

    monkeypatch.setattr(torch, "_foreach_copy_", noted)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: None)
    yield asked


def latents(overlay: Overlay, memory: str) -> Tensor:
    pipe = Pipeline(overlay, dtype="bf16", residency=LocalResidency(CPU, memory=memory))
    made = pipe.sample(pipe.encode("a boat", "noise"), **RUN)
    pipe.residency.release()
    assert registered_bytes() == 0, "also of components that had left the device before"
    return made.video


@pytest.mark.parametrize("places", [2, 3])
def test_streamed_equals_resident(tiny_overlay: Overlay, seam: list[str], places: int,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """With the places of today, and with one more."""
    monkeypatch.setattr(room, "SLOTS", places)
    monkeypatch.setattr(stream, "SLOTS", places)
    want = latents(tiny_overlay, "resident")
    monkeypatch.setattr(policy, "block_source", DeviceSource)
    assert torch.equal(latents(tiny_overlay, "stream"), want)
    assert len(seam) > 10


@pytest.mark.parametrize("how", WAYS)
def test_a_file_that_goes_while_it_streams(tmp_path: Path, seam: list[str], how: str,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the tiny model's blocks are tensors that are copied by a processor: none may come from a lost page."""
    monkeypatch.setattr(policy, "block_source", DeviceSource)
    checkpoint = Path(shutil.copy(CHECKPOINT, tmp_path))
    pipe = Pipeline(materialize(checkpoint, GEMMA, output=tmp_path / "o.json"), dtype="bf16",
                    residency=LocalResidency(CPU, memory="stream"))
    context = pipe.encode("a boat", "noise")
    want = pipe.sample(context, **RUN)
    pipe.residency.release()
    got = pipe.sample(context, **RUN, on_step=goes(checkpoint, how))
    assert torch.equal(got.video, want.video) and torch.equal(got.audio, want.audio)
    pipe.residency.release()


@pytest.mark.parametrize("begin", [8, SMALL // 2, SMALL - 8])
def test_small_pieces_never_come_from_the_mapping(tmp_path: Path, seam: list[str], begin: int,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors at and beside the limit, and those of which an edge of two registrations leaves a small rest."""
    sizes = [PIECE - begin, SMALL, 7, SMALL + 1, SMALL - 1, 3, PIECE + begin, 2 * PIECE - 100, 1, 1, 5 * SMALL]
    tensors = {f"w{number:02}": torch.arange(size).to(torch.uint8) for number, size in enumerate(sizes)}
    save_file(tensors, tmp_path / "w.safetensors")
    refs = read_header(tmp_path / "w.safetensors").tensors
    place, at, parts = torch.zeros(sum(map(aligned, sizes)), dtype=torch.uint8), 0, []
    for ref in refs.values():
        parts.append((ref, place[at:at + ref.size_bytes]))
        at += aligned(ref.size_bytes)
    copied: list[list[Tensor]] = []
    monkeypatch.setattr(torch, "_foreach_copy_", lambda targets, hosts, **_: (
        copied.append(hosts), [target.copy_(host) for target, host in zip(targets, hosts, strict=True)]))
    pages = Pages(CPU)
    source = DeviceSource(CPU, pages)
    source.fetch(parts).wait()
    for name, (_, target) in zip(refs, parts, strict=True):
        assert torch.equal(target, tensors[name]), name
    [mapping] = pages._files.values()
    from_pages = [len(host) for host in copied[0]
                  if mapping.address <= host.data_ptr() < mapping.address + mapping.size]
    assert from_pages and min(from_pages) > SMALL
    assert len(copied[0]) < sum(len(pages.spans(ref)) for ref in refs.values()), "neighbours come in one copy"
    source.close()
    pages.close()


def test_what_goes_wrong_is_raised_where_the_block_is_needed(tmp_path: Path, seam: list[str],
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that fails, and a file that changed; the next block comes."""
    save_file({"w": torch.arange(4096, dtype=torch.float32)}, tmp_path / "w.safetensors")
    ref = read_header(tmp_path / "w.safetensors").tensors["w"]
    place, pages = torch.zeros(ref.size_bytes, dtype=torch.uint8), Pages(CPU)
    source, parts = DeviceSource(CPU, pages), [(ref, place)]
    copy = torch._foreach_copy_

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("the bus is gone")

    monkeypatch.setattr(torch, "_foreach_copy_", fails)
    with pytest.raises(RuntimeError, match="the bus is gone"):
        source.fetch(parts).wait()
    monkeypatch.setattr(torch, "_foreach_copy_", copy)
    source.fetch(parts).wait()
    assert torch.equal(place.view(torch.float32), torch.arange(4096, dtype=torch.float32))
    source.close()
    pages.close()
    save_file({"w": torch.zeros(4096)}, tmp_path / "w.safetensors")
    source = DeviceSource(CPU, pages)
    with pytest.raises(OverlayError, match="changed after the overlay was made"):
        source.fetch([(ref, place)]).wait()
    source.close()
    pages.close()
