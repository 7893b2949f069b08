"""Exporting: the right bytes in every layout, whatever interrupts it, without touching the sources."""
from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

import ltx23_core
from ltx23_core import Overlay, atomic, export, materialize
from ltx23_core.errors import ExportError, OverlayError
from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.overlay.bytes.source import DTYPE_BITS, QuantRef, TensorRef
from ltx23_core.overlay.export import copy as export_copy
from ltx23_core.overlay.export import job as export_job
from ltx23_core.overlay.export.files import ALIGN
from ltx23_core.overlay.export.layouts import LAYOUTS
from ltx23_core.overlay.names.architecture import expected_tensors
from ltx23_core.overlay.names.layout import OFFICIAL
from ltx23_core.overlay.names.renames import to_diffusers
from ltx23_core.overlay.weight_dtype import AS_STORED
from tests.goldens.harness import CHECKPOINT, GEMMA, companion
from tests.support.overlay import (
    checkpoint_22b,
    data,
    gemma_folder,
    lora_22b,
    refuses,
    upscalers_22b,
    write_sparse,
)
from tests.support.tiny_model import ROOT, copy_model, run

MONOLITH = CHECKPOINT.name
T = "model.diffusion_model."


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder: Path) -> dict[str, str]:
    """Name -> hash of every file but the marker, whose times differ."""
    return {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*")
            if path.is_file() and path.name != export_job.MARKER}


def same_tensors(path: Path, want: dict[str, TensorRef]) -> None:
    """A file holds exactly these tensors, bit for bit, and every one where its type may begin."""
    header = read_header(path)
    assert set(header.tensors) == set(want), path
    for name, ref in header.tensors.items():
        assert (ref.dtype, ref.shape, data(ref)) == (want[name].dtype, want[name].shape, data(want[name])), name
        assert ref.start * 8 % DTYPE_BITS[ref.dtype] == 0, name


# Layouts


def test_monolith_is_the_official_file_again(tiny_overlay: Overlay, tmp_path: Path) -> None:
    report = export(tiny_overlay, "monolith", tmp_path / "out")
    (file,) = report.files
    assert file.path == tmp_path / "out" / MONOLITH and report.bytes == CHECKPOINT.stat().st_size
    assert file.path.read_bytes() == CHECKPOINT.read_bytes(), "header, metadata and tensors in the official order"
    assert file.sha256 == sha256(CHECKPOINT) and not file.reused
    assert str(file.sha256) in str(report)
    again = materialize(file.path)
    for name, ref in again.require("transformer").tensors.items():
        assert data(ref) == data(tiny_overlay.require("transformer").tensors[name])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [export_job.MARKER, MONOLITH, MONOLITH + ".ltx23.json"])


def test_monolith_out_of_a_file_without_its_order_and_extras(tmp_path: Path) -> None:
    """Another order of tensors, other metadata: the export is complete and loads."""
    header = read_header(CHECKPOINT)
    names = sorted(header.tensors, key=lambda name: hashlib.md5(name.encode()).hexdigest())
    source = tmp_path / "renamed.safetensors"
    table, body = {"__metadata__": {"config": header.metadata["config"], "note": "kept"}}, b""
    for name in names:
        ref = header.tensors[name]
        table[name] = {"dtype": ref.dtype, "shape": list(ref.shape),
                       "data_offsets": [len(body), len(body) + ref.size_bytes]}
        body += data(ref)
    text = json.dumps(table).encode()
    source.write_bytes(len(text).to_bytes(8, "little") + text + body)
    report = export(materialize(source, variant="distilled"), "monolith", tmp_path / "out")
    (file,) = report.files
    assert file.path.name == "ltx-2.3-distilled.safetensors"
    same_tensors(file.path, header.tensors)
    metadata = read_header(file.path).metadata
    assert metadata == {"config": header.metadata["config"], "note": "kept", "model_version": "2.3"}
    assert materialize(file.path).variant == "distilled"


def test_split(tiny_overlay: Overlay, tmp_path: Path) -> None:
    export(tiny_overlay, "split", tmp_path)
    official, stem = read_header(CHECKPOINT), CHECKPOINT.stem
    config = json.loads(official.metadata["config"])
    for name, prefixes, strip, parts in (
            (f"diffusion_models/{stem}_transformer_only", (T,), "", ("transformer",)),
            (f"text_encoders/{stem}_text_projection", ("text_embedding_projection.",), "", ("transformer",)),
            (f"vae/{stem}_video_vae", ("vae.",), "vae.", ("vae",)),
            (f"vae/{stem}_audio_vae", ("audio_vae.", "vocoder."), "", ("audio_vae", "vocoder"))):
        path = tmp_path / f"{name}.safetensors"
        same_tensors(path, {key.removeprefix(strip): ref for key, ref in official.tensors.items()
                            if key.startswith(prefixes)})
        metadata = read_header(path).metadata
        assert metadata.keys() == {"config", "model_version"} and metadata["model_version"] == "2.3.0"
        assert json.loads(metadata["config"]) == {part: config[part] for part in parts}
    upscaler, lora = companion("spatial-upscaler-x2"), companion("distilled-lora")
    for source, path in ((upscaler, tmp_path / "latent_upscale_models" / upscaler.name),
                         (lora, tmp_path / "loras" / lora.name)):
        same_tensors(path, read_header(source).tensors)
        assert {k: v for k, v in read_header(path).metadata.items() if k != "config"} == {
            k: v for k, v in read_header(source).metadata.items() if k != "config"}
    assert json.loads(read_header(tmp_path / "latent_upscale_models" / upscaler.name).metadata["config"]) == json.loads(
        read_header(upscaler).metadata["config"])
    again = materialize(export(tiny_overlay, "monolith", tmp_path / "m").files[0].path, tiny_overlay.tokenizer,
                        upsamplers=sorted((tmp_path / "latent_upscale_models").glob("*.safetensors")),
                        distilled_lora=tmp_path / "loras" / lora.name)
    assert set(again.components) == set(tiny_overlay.components)


def test_gemma_as_one_file_for_comfyui(tiny_overlay: Overlay, tmp_path: Path) -> None:
    export(tiny_overlay, "split", tmp_path)
    tensors = read_header(tmp_path / "text_encoders" / "gemma.safetensors").tensors
    folder = tiny_overlay.tokenizer
    assert data(tensors.pop("spiece_model")) == (folder / "tokenizer.model").read_bytes()
    want = {f"model.{name}": ref for name, ref in tiny_overlay.require("text_encoder").tensors.items()}
    assert all(data(tensors.pop(name)) == data(ref) for name, ref in want.items())
    assert all(name.startswith(("vision_model.", "multi_modal_projector.")) for name in tensors)


@pytest.mark.parametrize("shard_bytes", [10**10, 300_000])
def test_diffusers_folder(tiny_overlay: Overlay, tmp_path: Path, shard_bytes: int) -> None:
    report = export(tiny_overlay, "diffusers", tmp_path, shard_bytes=shard_bytes)
    transformer = tmp_path / "transformer"
    index = transformer / "diffusion_pytorch_model.safetensors.index.json"
    shards = sorted(transformer.glob("*.safetensors"))
    assert index.exists() == (len(shards) > 1) == (shard_bytes < 10**10)
    want = {to_diffusers("transformer", name): ref for name, ref in tiny_overlay.require("transformer").tensors.items()}
    found: dict[str, str] = {}
    for number, shard in enumerate(shards):
        tensors = read_header(shard).tensors
        same_tensors(shard, {name: want[name] for name in tensors})
        found |= dict.fromkeys(tensors, shard.name)
        if len(shards) > 1:
            assert shard.name == f"diffusion_pytorch_model-{number + 1:05}-of-{len(shards):05}.safetensors"
            assert sum(ref.size_bytes for ref in tensors.values()) <= shard_bytes or len(tensors) == 1
    assert set(found) == set(want)
    if index.exists():
        content = json.loads(index.read_text())
        assert content["weight_map"] == found
        assert content["metadata"]["total_size"] == tiny_overlay.require("transformer").size_bytes
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        assert (tmp_path / "text_encoder" / name).read_bytes() == (tiny_overlay.tokenizer / name).read_bytes()
    assert {p.name for p in (tmp_path / "tokenizer").iterdir()} == {"tokenizer.json", "tokenizer.model",
                                                                   "tokenizer_config.json"}
    classes = json.loads((tmp_path / "model_index.json").read_text())
    assert classes["text_encoder"] == ["transformers", "Gemma3ForConditionalGeneration"]
    assert all((tmp_path / name).is_dir() for name, value in classes.items() if isinstance(value, list))
    assert {file.path for file in report.files} == {p for p in tmp_path.rglob("*") if p.is_file()
                                                   and p.name != export_job.MARKER}


def test_diffusers_without_a_text_encoder(tmp_path: Path) -> None:
    overlay = materialize(CHECKPOINT, output=tmp_path / "o.json", variant="distilled")
    export(overlay, "diffusers", tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["text_encoder"] == index["tokenizer"] == [None, None]
    scheduler = json.loads((tmp_path / "out" / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["use_dynamic_shifting"] is False and scheduler["shift_terminal"] is None


@pytest.mark.parametrize("layout", ["diffusers", "split"])
def test_there_and_back(tiny_overlay: Overlay, tmp_path: Path, layout: str) -> None:
    """An export is a source again: read and exported as the official file, it has the same tensors and settings."""
    export(tiny_overlay, layout, tmp_path / "there", shard_bytes=300_000)
    for gemma in tmp_path.glob("there/text_encoders/gemma*"):
        gemma.unlink()  # a file says nothing of its sizes, and is taken for 12B
    again = materialize(tmp_path / "there", GEMMA, output=tmp_path / "again.json")
    for name in ("transformer", "connectors", "text_projection", "video_decoder", "audio_encoder", "vocoder"):
        assert expected_tensors(name, again.require(name).config) == {
            key: ref.shape for key, ref in tiny_overlay.require(name).tensors.items()}, name
    (file,) = export(again, "monolith", tmp_path / "back").files
    same_tensors(file.path, read_header(CHECKPOINT).tensors)
    assert set(materialize(file.path).components) == set(OFFICIAL.components)


def test_the_same_files_whether_made_or_loaded(tiny_overlay: Overlay) -> None:
    """Else a run from the command line could not complete one of Python."""
    loaded = Overlay.load(tiny_overlay.path)
    for plan in LAYOUTS.values():
        assert [f.fingerprint for f in plan(tiny_overlay, 10**6, AS_STORED)] == [
            f.fingerprint for f in plan(loaded, 10**6, AS_STORED)]


def test_22b_is_few_large_copies(tmp_path: Path) -> None:
    """The official files in their true size, sparse: what would be copied, and that blocks can be shared."""
    checkpoint_22b(tmp_path / "ltx-2.3-22b-dev.safetensors")
    overlay = materialize(tmp_path / "ltx-2.3-22b-dev.safetensors", gemma_folder(tmp_path / "gemma"),
                          upsamplers=upscalers_22b(tmp_path), distilled_lora=lora_22b(tmp_path / "lora.safetensors"))
    begin = time.perf_counter()
    plans = {name: plan(overlay, 10**10, AS_STORED) for name, plan in LAYOUTS.items()}
    print(f"planned in {time.perf_counter() - begin:.2f} s")
    for name, files in plans.items():
        ranges = [len(file.ranges) for file in files]
        print(f"{name}: {len(files)} files, {sum(f.size for f in files) / 1e9:.1f} GB in {sum(ranges)} ranges")
        for file in files:
            shared = sum(part.end - part.start for place, part in file.placed() if (part.start - place) % ALIGN == 0)
            if file.ranges:
                print(f"  {file.name}: {len(file.ranges)} ranges, {shared / file.size:.1%} in equal places of blocks")
    (monolith,) = plans["monolith"]
    ((position, part),) = monolith.placed()
    assert monolith.size > 46e9 and (position - part.start) % ALIGN == 0
    shards = [f for f in plans["diffusers"] if f.name.startswith("transformer/diffusion") and f.ranges]
    assert [f.name[-20:] for f in shards] == [f"{i:05}-of-00004.safetensors"[-20:] for i in range(1, 5)]
    assert sum(len(f.ranges) for f in shards) < 40
    index = json.loads((LAYOUTS["diffusers"](overlay, 10**10, AS_STORED)[0]).head)
    assert index["num_layers"] == 48 and index["cross_attention_dim"] == 4096


# Interruptions


def fast_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_copy, "KERNEL_BYTES", 1 << 16)
    monkeypatch.setattr(export_copy, "BUFFER_BYTES", 1 << 16)
    monkeypatch.setattr(export_copy, "SYNC_BYTES", 1 << 18)


# Prints how far an earlier one was, and ends itself as a kill would, at any place within a piece that is given.
_SLOW = """
import os, sys, threading
from ltx23_core import export
from ltx23_core.overlay.export import copy as export_copy
export_copy.KERNEL_BYTES = export_copy.BUFFER_BYTES = 1 << 15
export_copy.SYNC_BYTES = 1 << 17
pieces, delay, calls = int(sys.argv[4]), float(sys.argv[5]), 0
def progress(done, total):
    global calls
    if not calls:
        print(done, flush=True)
    calls += 1
    if calls == pieces:
        threading.Timer(delay, os._exit, (9,)).start()
export(sys.argv[1], sys.argv[2], sys.argv[3], progress=progress)
"""


# The pieces: within which each run is killed, few enough for several runs before all is done.
@pytest.mark.parametrize(("layout", "seed", "pieces"), [("monolith", 1, 50), ("split", 2, 50), ("diffusers", 3, 250)])
def test_killed_and_completed(tiny_overlay: Overlay, tmp_path: Path, layout: str, seed: int, pieces: int) -> None:
    want, folder, chance = tmp_path / "want", tmp_path / "out", random.Random(seed)
    export(tiny_overlay, layout, want)
    command = [sys.executable, "-c", _SLOW, str(tiny_overlay.path), layout, str(folder)]
    kills, begun = 0, []
    while kills < 5:
        where = [str(chance.randint(1, pieces)), str(chance.uniform(0, 0.003))]
        done = subprocess.run([*command, *where], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})
        begun.append(int(done.stdout or -1))
        if done.returncode == 0:
            break
        kills += 1
    left = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    print(f"killed {kills} times; runs began at {begun}; left: {left}")
    assert kills >= 3 and max(begun) > 0, "a later run must go on where an earlier one stopped"
    report = export(tiny_overlay, layout, folder)
    assert tree(folder) == tree(want)
    assert {f.path.relative_to(folder).as_posix(): f.sha256 for f in report.files} == tree(want)


def test_interrupted_by_check(tiny_overlay: Overlay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_pieces(monkeypatch)
    calls = iter(range(100))

    def check() -> None:
        if next(calls) == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(tiny_overlay, "monolith", tmp_path, check=check)
    assert not (tmp_path / MONOLITH).exists() and (tmp_path / f".{MONOLITH}.partial").exists()
    steps: list[int] = []
    report = export(tiny_overlay, "monolith", tmp_path, progress=lambda done, total: steps.append(done))
    assert steps[0] > 2_000_000 and steps[-1] == 2 * report.bytes and steps == sorted(steps)
    assert (tmp_path / MONOLITH).read_bytes() == CHECKPOINT.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([MONOLITH, export_job.MARKER])


def test_a_complete_export_is_not_written_again(tiny_overlay: Overlay, tmp_path: Path) -> None:
    first = export(tiny_overlay, "split", tmp_path)
    times = {file.path: file.path.stat().st_mtime_ns for file in first.files}
    victim = first.files[0].path
    victim.write_bytes(victim.read_bytes()[:-1])
    second = export(str(tiny_overlay.path), "split", tmp_path)
    assert [file.reused for file in second.files] == [False] + [True] * (len(first.files) - 1)
    assert [file.sha256 for file in second.files] == [file.sha256 for file in first.files]
    assert all(file.path.stat().st_mtime_ns == times[file.path] for file in second.files[1:])
    assert "were there" in str(second)


def test_a_kill_after_the_last_name_leaves_nothing(tiny_overlay: Overlay, tmp_path: Path) -> None:
    [file] = export(tiny_overlay, "monolith", tmp_path).files
    before = tree(tmp_path)
    journal = export_copy.journal_of(file.path)
    journal.write_text("{}")
    atomic.temporary_beside(journal).write_text("{")
    assert export(tiny_overlay, "monolith", tmp_path).files[0].reused
    assert tree(tmp_path) == before


def test_without_comparison(tiny_overlay: Overlay, tmp_path: Path) -> None:
    report = export(tiny_overlay, "monolith", tmp_path, verify=False)
    assert report.files[0].sha256 is None and "not compared" in str(report)
    assert (tmp_path / MONOLITH).read_bytes() == CHECKPOINT.read_bytes()
    assert export(tiny_overlay, "monolith", tmp_path, verify=False).files[0].reused
    assert export(tiny_overlay, "monolith", tmp_path).files[0].sha256 == sha256(CHECKPOINT)


@pytest.mark.parametrize("where", ["while copying", "between runs"])
def test_wrong_bytes_are_found(tiny_overlay: Overlay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               where: str) -> None:
    partial = tmp_path / f".{MONOLITH}.partial"

    def spoil() -> None:
        with open(partial, "r+b") as file:
            file.seek(5_000_000)
            byte = file.read(1)[0]
            file.seek(5_000_000)
            file.write(bytes([byte ^ 1]))

    if where == "while copying":
        original = export_copy.FileWriter.compare
        monkeypatch.setattr(export_copy.FileWriter, "compare", lambda self: (spoil(), original(self))[1])
    else:
        monkeypatch.setattr(export_copy.FileWriter, "compare", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(tiny_overlay, "monolith", tmp_path)
        monkeypatch.undo()
        spoil()
    with refuses(ExportError, MONOLITH, "came out different"):
        export(tiny_overlay, "monolith", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [export_job.MARKER]
    monkeypatch.undo()
    assert export(tiny_overlay, "monolith", tmp_path).files[0].sha256 == sha256(CHECKPOINT)


# Ways to copy


def no_copy_file_range(*arguments: object) -> int:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


@pytest.mark.parametrize("replacement", [no_copy_file_range, lambda *_: 0, None], ids=["refused", "nothing", "absent"])
def test_plain_copy(tiny_overlay: Overlay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                    replacement: Callable[..., int] | None) -> None:
    fast_pieces(monkeypatch)
    if replacement is None:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    else:
        monkeypatch.setattr(os, "copy_file_range", replacement, raising=False)
    export(tiny_overlay, "monolith", tmp_path)
    assert (tmp_path / MONOLITH).read_bytes() == CHECKPOINT.read_bytes()


def test_kernel_copies_are_used(tiny_overlay: Overlay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "copy_file_range"):
        pytest.skip("this system has no copy_file_range")
    copied, original = [], os.copy_file_range
    monkeypatch.setattr(os, "copy_file_range", lambda *a: copied.append(original(*a)) or copied[-1])
    export(tiny_overlay, "monolith", tmp_path)
    assert sum(copied) > 0.9 * CHECKPOINT.stat().st_size or tmp_path.stat().st_dev != CHECKPOINT.stat().st_dev


# Refusals


@pytest.fixture
def own(tmp_path: Path) -> Overlay:
    """The tiny model in a folder that the test may change."""
    (tmp_path / "model").mkdir()
    return materialize(*copy_model(tmp_path / "model"))


def test_other_layouts(tiny_overlay: Overlay, tmp_path: Path) -> None:
    with refuses(ExportError, "'gguf'", "diffusers, monolith, split"):
        export(tiny_overlay, "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_with_other_things(tiny_overlay: Overlay, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with refuses(ExportError, "not empty", "holiday.jpg"):
        export(tiny_overlay, "monolith", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]
    (tmp_path / export_job.MARKER).write_text("{")
    with refuses(ExportError, "not empty"):
        export(tiny_overlay, "monolith", tmp_path)


@pytest.mark.parametrize("change", ["overlay", "layout", "shards"])
def test_folder_with_another_export(tiny_overlay: Overlay, tmp_path: Path, change: str) -> None:
    folder = tmp_path / "out"
    export(tiny_overlay, "diffusers", folder)
    before = tree(folder)
    with refuses(ExportError, "holds another export"):
        if change == "overlay":
            export(materialize(CHECKPOINT, output=tmp_path / "o.json"), "diffusers", folder)
        elif change == "layout":
            export(tiny_overlay, "split", folder)
        else:
            export(tiny_overlay, "diffusers", folder, shard_bytes=1_000_000)
    assert tree(folder) == before


def test_sources_are_never_replaced(own: Overlay, tmp_path: Path) -> None:
    source = own.sources[0].path
    want = sha256(source)
    link = tmp_path / "link"
    link.symlink_to(source.parent, target_is_directory=True)
    for folder in (source.parent, link):
        with refuses(ExportError, "is a source of the overlay"):
            export(own, "monolith", folder)
    assert sha256(source) == want and Overlay.load(own.path)


def test_changed_source(own: Overlay, tmp_path: Path) -> None:
    os.utime(own.sources[0].path, ns=(1, 1))
    with refuses(OverlayError, "changed after the overlay was made"):
        export(own, "monolith", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_source_that_changes_meanwhile(own: Overlay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_pieces(monkeypatch)
    source = own.sources[0].path

    def progress(done: int, total: int) -> None:
        if done > 1_000_000:
            os.utime(source, ns=(1, 1))

    with refuses(OverlayError, "changed after the overlay was made"):
        export(own, "monolith", tmp_path / "out", progress=progress)
    assert not (tmp_path / "out" / MONOLITH).exists()


def test_source_that_shrinks_or_goes(own: Overlay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_pieces(monkeypatch)
    monkeypatch.setattr(os, "copy_file_range", no_copy_file_range, raising=False)
    monkeypatch.setattr(type(own.sources[0]), "check_stat", lambda self, stat: None)
    source = own.sources[0].path
    with refuses(ExportError, "ended while it was copied"):
        export(own, "monolith", tmp_path / "out", progress=lambda done, total: os.truncate(source, 1_000_000))
    source.unlink()
    with refuses(OverlayError, "cannot be read any more"):
        export(own, "monolith", tmp_path / "out")


def test_no_space(tiny_overlay: Overlay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 5_000_000
    monkeypatch.setattr(export_job.shutil, "disk_usage", lambda path: Usage)
    with refuses(ExportError, "has 0.0 GB free", "0.0 GB"):
        export(tiny_overlay, "monolith", tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists(), "refused before the first byte"
    Usage.free = 10_000_000
    export(tiny_overlay, "monolith", tmp_path / "new")
    Usage.free = 0
    assert export(tiny_overlay, "monolith", tmp_path / "new").files[0].reused


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_disk_full_in_the_middle(tiny_overlay: Overlay, tmp_path: Path) -> None:
    """A limit of the system on the size of files stands for the full disk; then the limit is gone."""
    code = ("import resource, sys; from ltx23_core import export\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))\n"
            "export(sys.argv[1], 'monolith', sys.argv[2])")
    done = run([sys.executable, "-c", code, str(tiny_overlay.path), str(tmp_path / "out")], tmp_path)
    assert "cannot be written (File too large)" in done.stderr, done.stderr
    assert not (tmp_path / "out" / MONOLITH).exists()
    steps: list[int] = []
    export(tiny_overlay, "monolith", tmp_path / "out", progress=lambda done, total: steps.append(done))
    assert steps[0] == 3_000_000
    assert (tmp_path / "out" / MONOLITH).read_bytes() == CHECKPOINT.read_bytes()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_not_a_folder(tiny_overlay: Overlay, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with refuses(ExportError, "cannot be written"):
        export(tiny_overlay, "monolith", tmp_path / name)


def test_read_only(tiny_overlay: Overlay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")
    monkeypatch.setattr(Path, "mkdir", mkdir)
    with refuses(ExportError, "cannot be written (Read-only file system)"):
        export(tiny_overlay, "monolith", tmp_path / "out")


def test_two_at_once(tiny_overlay: Overlay, tmp_path: Path) -> None:
    with FileLock(tmp_path / export_job.LOCK), refuses(ExportError, "another process is exporting"):
        export(tiny_overlay, "monolith", tmp_path)
    with suppress(FileNotFoundError):
        (tmp_path / export_job.LOCK).unlink()
    assert export(tiny_overlay, "monolith", tmp_path).files


def test_quantised_weights_that_a_layout_cannot_hold(own: Overlay, tmp_path: Path) -> None:
    entry = own.require("transformer")
    name, ref = next(iter(entry.tensors.items()))
    for format, layouts, fix in (("fp8", ["diffusers"], "monolith or split"), ("Q8_0", LAYOUTS, "bf16 files; GGUF")):
        entry.tensors[name] = QuantRef(format, ref.shape, {"weight": ref})
        for layout in layouts:
            with refuses(ExportError, "transformer has quantised weights", name, fix):
                export(own, layout, tmp_path / layout)


@pytest.mark.parametrize(("component", "change", "text"), [
    ("video_encoder", {"encoder_base_channels": 16}, "begins with 16 channels for latents of 8"),
    ("video_encoder", {"encoder_blocks": [["res_x", {"num_layers": 1}], ["res_x", {"num_layers": 1}]]},
     "has the blocks res_x, res_x"),
])
def test_what_diffusers_has_no_words_for(own: Overlay, tmp_path: Path, component: str, change: dict, text: str) -> None:
    own.require(component).config.update(change)
    with refuses(ExportError, text, "monolith"):
        export(own, "diffusers", tmp_path / "out")


def test_audio_that_diffusers_has_no_words_for(own: Overlay, tmp_path: Path) -> None:
    own.require("audio_decoder").config["model"]["params"]["ddconfig"]["ch"] = 64
    with refuses(ExportError, "64 channels and statistics for 32"):
        export(own, "diffusers", tmp_path / "out")


def test_text_encoder_of_no_folder(own: Overlay, tmp_path: Path) -> None:
    (own.tokenizer / "config.json").rename(tmp_path / "config.json")
    files = LAYOUTS["monolith"](own, 1, AS_STORED)
    assert files
    with refuses(ExportError, "not part of a Hugging Face folder"):
        LAYOUTS["diffusers"](own, 1, AS_STORED)


def test_halves_of_different_vaes(own: Overlay, tmp_path: Path) -> None:
    name = "per_channel_statistics.mean-of-means"
    tensors = own.require("video_encoder").tensors
    tensors[name] = tensors["per_channel_statistics.std-of-means"]
    with refuses(ExportError, "vae.per_channel_statistics.mean-of-means is not the same"):
        export(own, "monolith", tmp_path / "out")


# Memory

_MEASURE = """
import json, os, sys
from ltx23_core import Overlay, export
from ltx23_core.overlay.export.layouts import LAYOUTS
from ltx23_core.overlay.weight_dtype import AS_STORED
if sys.argv[4] == "plain":
    del os.copy_file_range
def kilobytes(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))
before = kilobytes("VmRSS")
report = export(sys.argv[1], sys.argv[2], sys.argv[3])
print(json.dumps([report.bytes, (kilobytes("VmHWM") - before) * 1024, report.seconds]))
"""


def model_of(path: Path, width: int, layers: int) -> Overlay:
    """A checkpoint with as many layers as the real one and wider blocks than the tiny one, sparse."""
    header = read_header(CHECKPOINT)
    config = json.loads(header.metadata["config"])
    config["transformer"] |= {"num_layers": layers, "attention_head_dim": width, "connector_attention_head_dim": width,
                              "cross_attention_dim": 4 * width}
    layout = {name: (ref.dtype, ref.shape) for name, ref in header.tensors.items() if not name.startswith(T)}
    for component in ("transformer", "connectors"):
        layout |= {T + name: ("BF16", shape) for name, shape in expected_tensors(
            component, config["transformer"]).items()}
    for kind, size in (("weight", (4 * width, 256)), ("bias", (4 * width,))):
        layout[f"text_embedding_projection.video_aggregate_embed.{kind}"] = ("BF16", size)
    write_sparse(path, layout, {**header.metadata, "config": json.dumps(config)})
    return materialize(path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux: memory is read from /proc")
@pytest.mark.parametrize(("way", "layout"), [("kernel", "diffusers"), ("plain", "monolith")])
def test_memory_does_not_depend_on_the_size(tmp_path: Path, way: str, layout: str) -> None:
    growth = []
    for width in (32, 144):
        overlay = model_of(tmp_path / f"{width}.safetensors", width, layers=48)
        folder = tmp_path / str(width)
        done = run([sys.executable, "-c", _MEASURE, str(overlay.path), layout, str(folder), way], tmp_path)
        assert done.returncode == 0, done.stderr
        written, grown, seconds = json.loads(done.stdout)
        print(f"{way}, {layout}: {written / 1e9:.3f} GB in {seconds:.1f} s, memory grew by {grown / 1e6:.0f} MB")
        growth.append(grown)
        shutil.rmtree(folder)
    assert max(growth) < 300e6
    assert np.ptp(growth) < 60e6, "it must not depend on the size"


# Command line


def test_command(tiny_overlay: Overlay, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ltx23_core", "export", "--overlay", str(tiny_overlay.path), "--layout"]
    done = run([*command, "monolith", "-o", "out"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert sha256(CHECKPOINT) in done.stdout and (tmp_path / "out" / MONOLITH).exists()
    done = run([*command, "split", "-o", "out", "--quiet"], tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("Error: ") and "another export" in done.stderr
    assert run([*command, "split", "-o", "s", "--quiet", "--no-verify"], tmp_path).stderr == ""


def test_choices_are_those_of_the_library() -> None:
    from ltx23_core.cli import parser as cli
    assert tuple(LAYOUTS) == cli.LAYOUTS and ltx23_core.export is export


def test_what_a_kill_left_of_the_journal_goes(tiny_overlay: Overlay, tmp_path: Path) -> None:
    """Killed while the journal or the marker was written: their temporaries vanish with the next complete run."""
    name = export(tiny_overlay, "monolith", tmp_path / "want").files[0].path.name
    folder = tmp_path / "again"
    folder.mkdir()
    for of in (f".{name}.partial.json", export_job.MARKER):
        (folder / f".{of}.999999999-00ff00ff.tmp").write_bytes(b"{")
    (folder / f".{name}.partial").write_bytes(b"")
    (folder / export_job.MARKER).write_bytes((tmp_path / "want" / export_job.MARKER).read_bytes())
    export(tiny_overlay, "monolith", folder)
    assert sorted(os.listdir(folder)) == sorted(os.listdir(tmp_path / "want"))
