"""Registered pages of weight files on a real device: the bytes, the bounds, and what happens to the file meanwhile.

A test that hangs shows where with ``-o faulthandler_timeout=40``; what may end the process is asked last.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ltx23_core import Overlay, Pipeline, materialize
from ltx23_core.errors import LTX23Error, OverlayError
from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.run import stage
from ltx23_core.runtime.residency import LocalResidency
from ltx23_core.weights import pages as module
from ltx23_core.weights.pages import Pages, supported
from ltx23_core.weights.reader import RangeReader
from tests.goldens.harness import CHECKPOINT, GEMMA
from tests.support import layouts_quantised as forms
from tests.support.vanishing import WAYS, goes

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)
DEVICE = torch.device("cuda", 0)
if not supported(DEVICE):
    pytest.skip("the device cannot read registered pages (attribute 113)", allow_module_level=True)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 1 << 20)


@pytest.fixture(params=["disk", "memory"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path if request.param == "disk" else Path("/dev/shm") / tmp_path.name
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    tensors = {"odd": torch.randint(0, 255, (999_999,), generator=generator, dtype=torch.uint8),
               **{f"w{i}": torch.randn(700, 999, generator=generator).bfloat16() for i in range(4)},
               "f": torch.randn(300_001, generator=generator)}
    save_file(tensors, folder / "w.safetensors")
    yield folder / "w.safetensors", tensors
    shutil.rmtree(folder, ignore_errors=True)


def read(path: Path, pages: Pages | None, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    refs = read_header(path).tensors
    reader = RangeReader(DEVICE, pages)
    try:
        reader.expect(refs.values())
        return {name: reader.read(ref, dtype).cpu() for name, ref in refs.items()}
    finally:
        reader.close()


def test_bytes_and_casts_are_the_file_s(file: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = file
    pages = Pages(DEVICE)
    for dtype in (None, torch.float32):
        got = read(path, pages, dtype)
        for name, want in tensors.items():
            assert torch.equal(got[name], want if dtype is None or name == "odd" else want.to(dtype)), name
    assert pages.held_bytes == path.stat().st_size
    pages.close()
    assert pages.held_bytes == 0 == module.registered_bytes()


def test_what_may_not_be_registered_takes_the_ring(file: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = file
    pages = Pages(DEVICE, limit=3 << 20)
    got = read(path, pages)
    assert 0 < pages.held_bytes <= 3 << 20
    assert all(torch.equal(got[name], want) for name, want in tensors.items())
    pages.close()


def test_a_refused_registration_is_no_error(file: tuple[Path, dict[str, Tensor]]) -> None:
    """Real refusals: the driver takes no page range twice."""
    path, tensors = file
    pages = Pages(DEVICE)
    ref = read_header(path).tensors["w0"]
    mapping = pages._file(ref)
    code = int(torch.cuda.cudart().cudaHostRegister(mapping.address + (2 << 20), 1 << 20, module.READ_ONLY))
    assert code == 0
    got = read(path, pages)
    assert mapping.refused and all(torch.equal(got[name], want) for name, want in tensors.items())
    assert torch.ones(3, device=DEVICE).sum().item() == 3, "nothing of the refusal is left"
    torch.cuda.cudart().cudaHostUnregister(mapping.address + (2 << 20))
    pages.close()


def test_a_deleted_or_cut_file_still_gives_its_bytes_while_registered(file: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = file
    pages = Pages(DEVICE)
    refs = read_header(path).tensors
    read(path, pages)
    os.truncate(path, 0)
    for name, want in tensors.items():
        target = torch.empty(refs[name].size_bytes, dtype=torch.uint8, device=DEVICE)
        for host, offset in pages.spans(refs[name]):
            target[offset:offset + len(host)].copy_(host, non_blocking=True)
        assert torch.equal(target.cpu(), want.view(torch.uint8).flatten()), name
    path.unlink()
    torch.cuda.synchronize()
    pages.close()


def test_a_file_cut_before_it_is_registered_is_refused_in_words(file: tuple[Path, dict[str, Tensor]]) -> None:
    path, _ = file
    pages, refs = Pages(DEVICE), read_header(path).tensors
    assert pages._file(refs["w0"]) is not None  # mapped
    os.truncate(path, 4096)
    reader = RangeReader(DEVICE, pages)
    with pytest.raises(OverlayError, match="its size went from .* to 4096 bytes"):
        for ref in refs.values():
            reader.read(ref, None)
    reader.close()
    pages.close()


def test_a_fork_leaves_the_registration_alone(file: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = file
    pages = Pages(DEVICE)
    read(path, pages)
    child = os.fork()
    if not child:
        pages.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    got = read(path, pages)
    assert all(torch.equal(got[name], want) for name, want in tensors.items())
    pages.close()


OTHER = """
import sys, time, torch
from pathlib import Path
from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.weights import pages as module
module.PIECE = 1 << 20
pages = module.Pages(torch.device("cuda", 0))
for ref in read_header(Path(sys.argv[1])).tensors.values():
    assert pages.spans(ref) is not None
print("held", pages.held_bytes, flush=True)
time.sleep(100)
"""


def test_two_processes_register_one_file_and_one_is_killed(file: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = file
    pages = Pages(DEVICE)
    for _ in range(2):  # the second one comes after a killed one
        other = subprocess.Popen([sys.executable, "-c", OTHER, str(path)], stdout=subprocess.PIPE, text=True)
        assert other.stdout.readline() == f"held {path.stat().st_size}\n"
        got = read(path, pages)
        assert all(torch.equal(got[name], want) for name, want in tensors.items())
        other.kill()
        other.communicate()
    got = read(path, pages)
    assert all(torch.equal(got[name], want) for name, want in tensors.items())
    pages.close()


# ---- streaming

RUN = {"recipe": "one_stage", "steps": 2, "width": 64, "height": 64, "frames": 9, "seed": 3}


def overlays(folder: Path) -> dict[str, Overlay]:
    made = {"bf16": materialize(CHECKPOINT, GEMMA, output=folder / "bf16.json")}
    for write in (forms.official_fp8, forms.official_nvfp4, forms.comfy_int8_convrot, forms.comfy_mxfp8):
        (folder / write.__name__).mkdir()
        written = write(folder / write.__name__)
        made[write.__name__] = materialize(written.checkpoint, **({"text_encoder": GEMMA} | written.arguments),
                                           output=folder / f"{write.__name__}.json")
    return made


@pytest.mark.parametrize("way", ["pages", "ring", "some of each"])
def test_streamed_equals_resident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way == "ring":
        monkeypatch.setattr(module, "supported", lambda device: False)
    if way == "some of each":
        room = Pages._room

        def little(self: Pages, size: int, in_memory: bool) -> bool:
            return self.held_bytes < 2 << 20 and room(self, size, in_memory)

        monkeypatch.setattr(Pages, "_room", little)
    for name, overlay in overlays(tmp_path).items():
        results = []
        for memory in ("resident", "stream"):
            pipe = Pipeline(overlay, device=DEVICE, residency=LocalResidency(DEVICE, memory=memory))
            context = pipe.encode("a boat on a lake", "noise")
            latents = pipe.sample(context, **RUN)
            results.append({"context": context.positive.video, "video": latents.video, "audio": latents.audio})
            if memory == "stream":
                transformer = pipe.component("transformer")
                held, blocks = transformer.pages.held_bytes, len(transformer.block_modules)
                assert transformer.streamed == blocks, f"{name}: {transformer.streamed} of {blocks} blocks are streamed"
                assert (held > 0) == (way != "ring"), f"{name}: {held} bytes are registered"
            pipe.residency.release()
            assert module.registered_bytes() == 0, f"{name}, {memory}: {module.registered_bytes()} bytes were kept"
        for what, one in results[0].items():
            other = results[1][what]
            apart = (one.float() - other.float()).abs()
            differ = f"{(apart > 0).sum()} of {apart.numel()} numbers differ, by {apart.max()} at most"
            assert torch.equal(one, other), f"{name}, {what}: {differ}"


def test_no_step_waits_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solve, loops = stage.solve, []

    def watched(*arguments: object, **options: object) -> object:
        loops.append(torch.cuda.set_sync_debug_mode("error"))
        try:
            return solve(*arguments, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    for overlay in overlays(tmp_path).values():
        pipe = Pipeline(overlay, device=DEVICE, residency=LocalResidency(DEVICE, memory="stream"))
        context = pipe.encode("a boat on a lake", "noise")
        pipe.sample(context, **RUN)
        with monkeypatch.context() as patch:
            patch.setattr(stage, "solve", watched)
            pipe.sample(context, **RUN)
        pipe.residency.release()
    assert len(loops) == 5


@pytest.mark.parametrize("way", ["pages", "ring"])
@pytest.mark.parametrize("how", WAYS)
def test_a_file_that_goes_while_it_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, how: str) -> None:
    """Never other numbers: the bytes of the file that was opened, or an error in words; the next run is right."""
    if way == "ring":
        monkeypatch.setattr(module, "supported", lambda device: False)
    checkpoint = Path(shutil.copy(CHECKPOINT, tmp_path))
    overlay = materialize(checkpoint, GEMMA, output=tmp_path / "o.json")
    pipe = Pipeline(overlay, device=DEVICE, residency=LocalResidency(DEVICE, memory="stream"))
    context, run = pipe.encode("a boat on a lake", "noise"), RUN | {"steps": 4}
    want = pipe.sample(context, **run)
    pipe.residency.release()
    info, data = checkpoint.stat(), checkpoint.read_bytes()

    try:
        got = pipe.sample(context, **run, on_step=goes(checkpoint, how))
    except LTX23Error as error:
        assert way == "ring" and "Next: " in str(error), error
    else:
        assert torch.equal(got.video, want.video), "what was registered, or open"
    checkpoint.write_bytes(data)
    os.utime(checkpoint, ns=(info.st_atime_ns, info.st_mtime_ns))
    pipe.residency.release()
    assert torch.equal(pipe.sample(context, **run).video, want.video)
