"""Ranges of files to tensors and modules: right values, every byte once, no second copy, refusals."""
from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from io import FileIO
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from ltx23_core.errors import OverlayError, WeightsError
from ltx23_core.models.registry import build
from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.overlay.bytes.source import TensorRef
from ltx23_core.runtime.load import load_module
from ltx23_core.weights import ahead, files, reader
from ltx23_core.weights.reader import read_tensors
from tests.goldens.harness import CHECKPOINT, overlay
from tests.support.overlay import refuses, write_sparse

REPO = Path(__file__).parents[3]
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
DEVICES = pytest.mark.parametrize("device", ["cpu", CUDA])


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Tensors of every kind that occurs: scalars, empty ones, integers, several float types, an odd size."""
    generator = torch.Generator().manual_seed(0)
    tensors = {"scalar": torch.tensor(1.5), "empty": torch.zeros(0, 3), "ids": torch.arange(7),
               "bytes": torch.arange(11, dtype=torch.uint8), "flag": torch.tensor([True, False, True]),
               "half": torch.randn(5, 7, generator=generator).half(),
               "double": torch.randn(3, generator=generator).double(),
               "fp8": torch.randn(4, 4, generator=generator).to(torch.float8_e4m3fn),
               "odd": torch.randn(1237, 331, generator=generator).bfloat16(),
               "large": torch.randn(700, 1000, generator=generator)}
    save_file(tensors, tmp_path / "mixed.safetensors")
    return tmp_path / "mixed.safetensors"


def same(got: torch.Tensor, want: torch.Tensor) -> bool:
    return got.dtype == want.dtype and got.shape == want.shape and torch.equal(got.cpu().float(), want.float())


@given(layout=st.lists(st.tuples(st.sampled_from(["F64", "F32", "BF16", "U8"]), st.integers(0, 9), st.integers(0, 3)),
                       max_size=30), size=st.sampled_from([16, 48, 256]), buffers=st.integers(1, 4), data=st.data())
@settings(max_examples=60, deadline=None)
def test_reading_ahead(layout: list[tuple[str, int, int]], size: int, buffers: int, data: st.DataObject,
                       tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever lies where, and in whichever order it is announced: the right bytes, in views of the tensor's dtype."""
    path = tmp_path_factory.mktemp("ahead") / "f"
    refs, end = [], 0
    for dtype, count, gap in layout:
        start, end = end + gap, end + gap + count * reader.TORCH_DTYPES[dtype].itemsize
        refs.append(TensorRef(path, dtype, (count,), start, end))
    content = os.urandom(end)
    path.write_bytes(content)
    refs = data.draw(st.permutations(refs)) if data.draw(st.booleans()) else refs
    with closing(files.SourceReader()) as source:
        ring = ahead.ReadAhead(source, buffers, size, lambda: torch.full((size,), 77, dtype=torch.uint8))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(refs)), max_size=2)))
        for first, last in zip([0, *cuts], [*cuts, len(refs)], strict=True):
            ring.expect(refs[first:last])
        for ref in refs:
            assert ring.is_next(ref) and not ring.is_next(replace(ref))
            got = bytearray()
            for view, offset in ring.take():
                assert offset == len(got)
                got += view.view(reader.TORCH_DTYPES[ref.dtype]).view(torch.uint8).numpy().tobytes()
                view.zero_()
            assert got == content[ref.start:ref.end]
        assert not ring.is_next(refs[-1] if refs else None)


def test_reading_ahead_stays_within_its_buffers_and_waits_for_their_release(tmp_path: Path) -> None:
    """Never more is read than fits, and no buffer is filled before what its release gave was waited for."""
    (tmp_path / "f").write_bytes(bytes(range(160)))
    refs = [TensorRef(tmp_path / "f", "U8", (16,), at, at + 16) for at in range(0, 160, 16)]
    released, reads = threading.Event(), []

    class Source(files.SourceReader):
        def read(self, ref: TensorRef, view: memoryview, position: int) -> None:
            super().read(ref, view, position)
            reads.append(position)

    with closing(Source()) as source:
        ring = ahead.ReadAhead(source, 3, 16, lambda: torch.zeros(16, dtype=torch.uint8), lambda: released.wait)
        ring.expect(refs)
        first, second = ring.take(), ring.take()
        assert next(first)[0].tolist() == list(range(16)) and next(second)[0].tolist() == list(range(16, 32))
        end = time.monotonic() + 60
        while len(reads) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.1)  # for what must not come
        assert sorted(reads) == [0, 16, 32]
        assert next(first, None) is None  # its buffer may be filled again, but its copy is still under way
        time.sleep(0.1)
        assert sorted(reads) == [0, 16, 32]
        released.set()
        assert next(second, None) is None
        assert [next(ring.take())[0].tolist() for _ in refs[2:5]] == [list(range(at, at + 16)) for at in (32, 48, 64)]


@pytest.mark.parametrize("harm", ["short", "gone"])
def test_reading_ahead_of_a_damaged_file(harm: str, mixed: Path) -> None:
    refs = [TensorRef(r.path, r.dtype, r.shape, r.start, r.end) for r in read_header(mixed).tensors.values()]
    os.truncate(mixed, 5000) if harm == "short" else mixed.unlink()
    with closing(files.SourceReader()) as source, refuses(WeightsError, str(mixed)):
        ring = ahead.ReadAhead(source, 8, 1024, lambda: torch.zeros(1024, dtype=torch.uint8))
        ring.expect(sorted(refs, key=lambda ref: ref.start))
        for _ in refs:
            list(ring.take())


@DEVICES
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float16])
def test_values_equal_the_safetensors_library(device: str, dtype: torch.dtype | None, mixed: Path) -> None:
    for path in (mixed, CHECKPOINT):
        want = load_file(path)
        got = dict(read_tensors(read_header(path).tensors, device, dtype))
        assert set(got) == set(want)
        for name, tensor in got.items():
            cast = dtype if dtype is not None and want[name].is_floating_point() else want[name].dtype
            assert tensor.device.type == device and same(tensor, want[name].to(cast)), name


@DEVICES
def test_small_buffers_and_many_threads_give_the_same(device: str, mixed: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors larger than the staging buffer arrive in slices, and slices in pieces."""
    monkeypatch.setattr(files, "THREADS", 3)
    monkeypatch.setattr(files, "LEAST_BYTES", 100)
    monkeypatch.setattr(reader, "_STAGING", 4096)
    if device == "cuda":
        from ltx23_core.weights import ring as staging
        monkeypatch.setattr(staging, "SLOT_BYTES", 4096)
    for dtype in (None, torch.float32, torch.bfloat16):
        for name, tensor in read_tensors(read_header(mixed).tensors, device, dtype):
            want = load_file(mixed)[name]
            assert same(tensor, want.to(tensor.dtype)), (name, dtype)


class CountingFile(FileIO):
    """Records every range that is read."""

    ranges: list[tuple[int, int]] = []

    def readinto(self, view: memoryview) -> int:
        start = self.tell()
        count = super().readinto(view[:100_000])  # less than asked for, as the system may
        CountingFile.ranges.append((start, start + count))
        return count


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    CountingFile.ranges = []
    monkeypatch.setattr(files, "FileIO", CountingFile)
    return CountingFile.ranges


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_every_byte_is_read_once_and_in_file_order(dtype: torch.dtype | None, threads: int,
                                                   ranges: list[tuple[int, int]],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "THREADS", threads)
    monkeypatch.setattr(files, "LEAST_BYTES", 1000)
    refs = read_header(CHECKPOINT).tensors
    names = [name for name, _ in read_tensors(dict(reversed(refs.items())), "cpu", dtype)]
    assert names == sorted(refs, key=lambda name: refs[name].start)
    if threads > 1:
        ranges.sort()
    assert ranges[0][0] == min(ref.start for ref in refs.values()) and ranges[-1][1] == CHECKPOINT.stat().st_size
    assert all(a[1] == b[0] for a, b in zip(ranges, ranges[1:], strict=False))


def test_only_the_wanted_tensors_are_read(ranges: list[tuple[int, int]]) -> None:
    refs = overlay().require("video_decoder").tensors
    list(read_tensors(refs, "cpu", None))
    assert sum(end - start for start, end in ranges) == sum(ref.size_bytes for ref in refs.values())


_PEAK = """
import sys, torch
from pathlib import Path
from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.weights.reader import read_tensors
def kilobytes(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))
refs, before = read_header(Path(sys.argv[1])).tensors, kilobytes("VmRSS")
kept = dict(read_tensors(refs, "cpu", getattr(torch, sys.argv[2])))
print((kilobytes("VmHWM") - before) * 1024, sum(t.numel() * t.itemsize for t in kept.values()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux: memory is read from /proc")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_no_second_copy_in_memory(dtype: str, tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "m.safetensors", {f"w{i}": ("BF16", (8192, 4096)) for i in range(4)})
    out = subprocess.run([sys.executable, "-c", _PEAK, str(path), dtype], cwd=REPO, check=True, capture_output=True,
                         text=True).stdout
    growth, kept = map(int, out.split())
    print(f"{dtype}: kept {kept / 1e6:.0f} MB, peak {growth / 1e6:.0f} MB")
    assert growth < kept + 100e6


@pytest.mark.parametrize("threads", [1, 4])
def test_shrunken_file(threads: int, mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a recorded source the end of the file is noticed while reading."""
    refs = {n: TensorRef(r.path, r.dtype, r.shape, r.start, r.end) for n, r in read_header(mixed).tensors.items()}
    os.truncate(mixed, mixed.stat().st_size - 100)
    monkeypatch.setattr(files, "THREADS", threads)
    monkeypatch.setattr(files, "LEAST_BYTES", 1000)
    for dtype in (None, torch.float32):
        with refuses(WeightsError, str(mixed), "ended while reading"):
            list(read_tensors(refs, "cpu", dtype))


def test_changed_file_is_refused_before_reading(mixed: Path, ranges: list[tuple[int, int]]) -> None:
    refs = read_header(mixed).tensors
    stat = mixed.stat()
    os.utime(mixed, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))
    with refuses(OverlayError, str(mixed), "again"):
        list(read_tensors(refs, "cpu", None))
    assert not ranges
    mixed.unlink()
    with refuses(WeightsError, str(mixed), "cannot be read"):
        list(read_tensors(refs, "cpu", None))


def test_dtype_that_torch_lacks(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "m.safetensors", {"a": ("F4", (4, 4))})
    with refuses(WeightsError, "dtype F4"):
        list(read_tensors(read_header(path).tensors, "cpu", None))


# --- modules

COMPONENTS = ["transformer", "connectors", "text_projection", "video_encoder", "video_decoder", "audio_encoder",
              "audio_decoder", "vocoder", "text_encoder", "upsampler_x2", "upsampler_x1.5", "upsampler_temporal_x2"]


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_loads(component: str, caplog: pytest.LogCaptureFixture) -> None:
    entry = overlay().require(component)
    module = build(component, entry.config)
    with caplog.at_level(logging.INFO, logger="ltx23"):
        counter = load_module(module, entry.tensors, "cpu", torch.float32, name=component)
    assert not any(t.is_meta for t in (*module.parameters(), *module.buffers()))
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in module.parameters())
    assert (counter.tensors, counter.bytes) == (len(entry.tensors), entry.size_bytes) and counter.seconds > 0
    [line] = caplog.messages
    files = {ref.path.name for ref in entry.tensors.values()}
    assert line == (f"loaded {component}: {counter.tensors} tensors, {counter.bytes / 1e6:.1f} MB from "
                    f"{files.pop()} in {counter.seconds:.2f} s to cpu")


@DEVICES
def test_dtype_and_device(device: str) -> None:
    entry = overlay().require("transformer")
    for dtype in (torch.bfloat16, None):
        module = build("transformer", entry.config)
        load_module(module, entry.tensors, device, dtype)
        assert {p.device.type for p in module.parameters()} == {device}
        assert module.patchify_proj.weight.dtype == torch.bfloat16
        assert module.scale_shift_table.dtype == (dtype or torch.float32)


class Interrupt(Exception):
    pass


def test_interrupt_leaves_the_module_as_it_was_and_the_files_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    entry, calls, opened = overlay().require("video_decoder"), iter(range(99)), []

    class File(FileIO):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            opened.append(self)

    monkeypatch.setattr(files, "FileIO", File)

    def check() -> None:
        if next(calls) == 5:
            raise Interrupt

    module = build("video_decoder", entry.config)
    with pytest.raises(Interrupt):
        load_module(module, entry.tensors, "cpu", None, check=check)
    assert all(p.is_meta for p in module.parameters())
    assert len(opened) == 1 and opened[0].closed
    calls = iter(range(6, 99))
    load_module(module, entry.tensors, "cpu", None, check=check)


def linear() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(3, 2)


@pytest.mark.parametrize(("layout", "text"), [
    ({"weight": ("F32", (2, 3))}, "Linear: 1 of 2 missing (bias)"),
    ({"weight": ("F32", (2, 3)), "bias": ("F32", (2,)), "x": ("F32", (1,))}, "Linear: 1 unexpected (x)"),
    ({"weight": ("F32", (3, 2)), "bias": ("F32", (2,))}, "weight is 3x2, should be 2x3"),
])
def test_names_and_shapes_must_match(layout: dict, text: str, tmp_path: Path, ranges: list[tuple[int, int]]) -> None:
    module, path = linear(), write_sparse(tmp_path / "m.safetensors", layout)
    with refuses(WeightsError, text):
        load_module(module, read_header(path).tensors, "cpu", None)
    assert module.weight.is_meta and not ranges


def test_loading_again_after_a_release() -> None:
    entry = overlay().require("text_projection")
    module = build("text_projection", entry.config)
    load_module(module, entry.tensors, "cpu", None)
    first = {name: value.clone() for name, value in module.state_dict().items()}
    module.to("meta")
    load_module(module, entry.tensors, "cpu", None)
    assert all(torch.equal(first[name], value) for name, value in module.state_dict().items())


@pytest.fixture
def big(tmp_path: Path) -> Iterator[dict[str, TensorRef]]:
    """200 MB of small and large tensors with known values."""
    generator = torch.Generator().manual_seed(1)
    tensors = {f"{i:03}.bias": torch.randn(i + 1, generator=generator).bfloat16() for i in range(200)}
    tensors |= {f"{i}.weight": torch.randn(5000, 4000, generator=generator).bfloat16() for i in range(5)}
    save_file(tensors, tmp_path / "big.safetensors")
    yield read_header(tmp_path / "big.safetensors").tensors


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_cuda_while_the_device_is_busy(big: dict[str, TensorRef], dtype: torch.dtype | None) -> None:
    """Memory that is freed while still in use on the current stream must not be overwritten, nor read too early."""
    want = load_file(next(iter(big.values())).path)
    busy = torch.randn(4096, 4096, device="cuda")
    for name, tensor in read_tensors(big, "cuda", dtype):
        scratch = torch.randn(tensor.shape, device="cuda", dtype=tensor.dtype)
        for _ in range(3):
            busy = torch.tanh(busy @ busy)
        result = tensor.double().sum() + scratch.double().sum() * 0 + busy.sum() * 0
        del scratch
        assert result.item() == pytest.approx(want[name].double().sum().item(), rel=1e-9, abs=1e-9), name


def test_imports_are_light() -> None:
    """Importing the library imports neither torch nor transformers; the overlay does not import transformers."""
    code = ("import sys, json, ltx23_core; a = 'torch' in sys.modules; import ltx23_core.overlay, ltx23_core.weights;"
            "print(json.dumps([a, 'transformers' in sys.modules]))")
    out = subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True, capture_output=True, text=True).stdout
    assert json.loads(out) == [False, False]
