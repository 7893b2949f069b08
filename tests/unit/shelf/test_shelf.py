"""One look at the model folders: what it asks of the disk, what it notices, and who waits for it."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ltx23_core.overlay.shelf import remembered
from ltx23_core.overlay.shelf import shelf as shelves
from ltx23_core.overlay.shelf.identify import identify
from ltx23_core.overlay.shelf.remembered import imported_files
from ltx23_core.overlay.shelf.shelf import Shelf
from tests.support.folder import lora
from tests.support.overlay import write_sparse
from tests.support.speed import within

ROOT = Path(__file__).parents[3]
FILES = 2000


def many(folder: Path, count: int = FILES) -> Path:
    """LoRA files, each with a header of its own."""
    write_sparse(folder / "style-0000.safetensors", lora(16, lambda path: path.startswith("transformer_blocks.0.attn")))
    first = (folder / "style-0000.safetensors").read_bytes()
    length = int.from_bytes(first[:8], "little")
    for number in range(1, count):
        head = b'{"__metadata__":{"n":"%06d"},' % number + first[9:8 + length]
        (folder / f"style-{number:04}.safetensors").write_bytes(len(head).to_bytes(8, "little") + head
                                                                + first[8 + length:])
    return folder


LOOK = """
import sys, time
from pathlib import Path
from ltx23_core.overlay.shelf.shelf import Shelf
shelf, roots = Shelf(Path(sys.argv[2])), [("loras", Path(sys.argv[1]))]
looks = int(sys.argv[3])
for look in range(looks):
    start = time.perf_counter()
    items = shelf.look(roots)
    print(len(items), sum(each.identity.kind == "lora" for each in items), time.perf_counter() - start)
"""


def file_calls(folder: Path, memory: Path, looks: int) -> tuple[int, list[str]]:
    """Calls to the system with a path below a folder, in a process that looks so often; and what it prints."""
    log = memory.with_suffix(".trace")
    command = ["strace", "-f", "-qq", "-e", "trace=%file,getdents64", "-y", "-o", str(log), sys.executable, "-c", LOOK,
               str(folder), str(memory), str(looks)]
    text = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    calls = sum(str(folder) in line for line in log.read_text(errors="replace").splitlines())
    return calls, text.splitlines()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not there to count calls with")
def test_calls_of_2000_files(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    """At most two calls a file at the first look, at most 100 at each further one."""
    folder = many(tmp_path / "loras")
    once, _ = file_calls(folder, tmp_path / "one.json", 1)
    thrice, lines = file_calls(folder, tmp_path / "three.json", 3)
    record_property("calls", {"first": once, "further": (thrice - once) / 2})
    print(once, thrice, lines)
    assert all(line.startswith(f"{FILES} {FILES} ") for line in lines)
    assert once <= 2 * FILES + 20 and (thrice - once) / 2 <= 100


def test_a_second_look_takes_no_time(tmp_path: Path) -> None:
    folder = many(tmp_path / "loras")
    shelf, roots = Shelf(tmp_path / "memory.json"), [("loras", folder)]
    first = shelf.look(roots)
    seconds = []
    for _ in range(9):
        start = time.process_time()  # of all threads
        again = shelf.look(roots)
        seconds.append(time.process_time() - start)
        assert again is first
    print([round(1000 * each, 2) for each in seconds])
    assert min(seconds) <= 0.005


def test_what_changes_is_noticed(tmp_path: Path) -> None:
    folder = many(tmp_path / "loras", 30)
    shelf, roots = Shelf(), [("loras", tmp_path / "loras"), ("vae", tmp_path / "vae")]

    def names() -> list[str]:
        return [each.name for each in shelf.look(roots) if each.identity.usable]

    assert len(names()) == 30
    shutil.copy(folder / "style-0001.safetensors", folder / "new.safetensors")
    assert "new.safetensors" in names()
    (folder / "new.safetensors").rename(folder / "newer.safetensors")
    assert "newer.safetensors" in names() and "new.safetensors" not in names()
    os.truncate(folder / "newer.safetensors", 5000)  # in place: the folder's time does not change
    assert "newer.safetensors" not in names()
    shutil.copy(folder / "style-0002.safetensors", folder / "newer.safetensors")
    assert "newer.safetensors" in names()
    (folder / "newer.safetensors.aria2").write_bytes(b"")
    assert "newer.safetensors" not in names()
    (folder / "newer.safetensors.aria2").unlink()
    assert "newer.safetensors" in names()
    (tmp_path / "vae" / "sub").mkdir(parents=True)
    shutil.copy(folder / "style-0003.safetensors", tmp_path / "vae" / "sub" / "x.safetensors")
    assert "sub/x.safetensors" in names()
    shutil.rmtree(tmp_path / "vae")
    shutil.rmtree(folder)
    assert names() == []


@pytest.mark.parametrize("where", ["loras", "vae"], ids=["same folder", "another folder"])
def test_a_file_that_grew_while_another_came(tmp_path: Path, where: str) -> None:
    """A download that was half there at the last look is whole now, whatever else has come meanwhile."""
    folder = many(tmp_path / "loras", 3)
    (tmp_path / "vae").mkdir()
    shelf, roots = Shelf(), [("loras", folder), ("vae", tmp_path / "vae")]
    whole = (folder / "style-0001.safetensors").read_bytes()
    growing = folder / "growing.safetensors"
    growing.write_bytes(whole[:len(whole) // 2])

    def usable() -> set[str]:
        return {each.name for each in shelf.look(roots) if each.identity.usable}

    assert growing.name not in usable()
    growing.write_bytes(whole)
    shutil.copy(folder / "style-0002.safetensors", tmp_path / where / "other.safetensors")
    assert {growing.name, "other.safetensors"} <= usable()


def test_nobody_waits_longer_than_he_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that stands still holds up the thread, and nobody else; all looks happen in that one thread."""
    folder = many(tmp_path / "loras", 5)
    go, threads, real = threading.Event(), set(), os.scandir

    def slow(path: str) -> object:
        threads.add(threading.current_thread().name)
        go.wait(100)
        return real(path)

    monkeypatch.setattr(os, "scandir", slow)
    shelf, roots = Shelf(), [("loras", folder)]
    start = time.monotonic()
    assert shelf.look(roots, 0) == [] and shelf.look(roots, 0.05) == [] and shelf.known() == []
    assert time.monotonic() - start < 50
    go.set()
    assert len(shelf.look(roots)) == 5 and threads == {"ltx23-identify"}


def test_many_ask_at_once(tmp_path: Path) -> None:
    folder = many(tmp_path / "loras", 50)
    shelf, found = Shelf(), []
    askers = [threading.Thread(target=lambda: found.append(shelf.look([("loras", folder)]))) for _ in range(16)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert [len(each) for each in found] == [50] * 16


@pytest.mark.parametrize("function", ["identify", "remembered"])
@pytest.mark.parametrize("error", [RuntimeError("of ours"), MemoryError(), UnicodeError("half a character")])
def test_a_fault_at_one_file_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str,
                                            error: Exception) -> None:
    folder = many(tmp_path / "loras", 5)
    real = getattr(shelves, function)

    def fails(path: Path, *rest: object) -> object:
        if path.name == "style-0002.safetensors":
            raise error
        return real(path, *rest)

    shelf, roots = Shelf(tmp_path / "memory.json"), [("loras", folder)]
    with monkeypatch.context() as patch:
        patch.setattr(shelves, function, fails)
        items = {each.name: each.identity for each in shelf.look(roots)}
    fault = items.pop("style-0002.safetensors")
    assert [each.usable for each in items.values()] == [True] * 4
    assert not fault.usable and fault.kind == "fault" and type(error).__name__ in fault.sentence
    assert fault.fix.endswith(".")
    (folder / "another.txt").touch()  # the folder is listed again, and the fault has passed
    assert all(each.identity.usable for each in shelf.look(roots))


def test_a_fault_in_one_folder_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = [("loras", many(tmp_path / "loras", 3)), ("vae", many(tmp_path / "vae", 2))]
    (tmp_path / "loras" / "a").mkdir()  # listed before the files

    def fails(listing: object) -> bool:
        raise RuntimeError("of ours")

    monkeypatch.setattr(shelves, "is_model_folder", fails)
    assert [each.folder for each in Shelf().look(roots)] == ["vae", "vae"]


# --- unfinished downloads

@pytest.mark.parametrize("mark", ["{file}.aria2", "{file}.part", "{file}.crdownload", "{file}.incomplete", "{file}.tmp",
                                  "{stem}.part", "{stem}.A1b2C3d4.safetensors.part", "{FILE}.ARIA2"])
def test_a_mark_beside_says_unfinished(tmp_path: Path, mark: str) -> None:
    file = write_sparse(tmp_path / "ltx-2.3-style.safetensors", lora(16, lambda path: "blocks.0.attn1" in path))
    assert identify(file).usable
    name = mark.format(file=file.name, stem=file.stem, FILE=file.name.upper())
    (tmp_path / name).write_bytes(b"")
    for found in (identify(file), next(each.identity for each in Shelf().look([("loras", tmp_path)])
                                       if each.name == file.name)):
        assert found.kind == "unfinished" and not found.usable and found.brings == ()
        assert f"unfinished download, {name} is beside it" in found.sentence and found.fix.endswith(".")
    (tmp_path / name).unlink()
    (tmp_path / "ltx-2.3-other.safetensors.aria2").write_bytes(b"")  # of another file
    assert identify(file).usable


def filled(path: Path, until: float) -> Path:
    """A LoRA file whose numbers are there up to some part of it."""
    file = write_sparse(path, lora(16, lambda name: "blocks.0." in name))
    size = file.stat().st_size
    start = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    with file.open("r+b") as opened:
        opened.seek(start)
        opened.truncate()
        opened.truncate(size)
        opened.write(b"\x11\x3f" * int((size - start) * until / 2))
    return file


@pytest.mark.parametrize("until", [0, 0.2, 0.5, 0.8])
def test_a_tail_of_zeros_is_unfinished(tmp_path: Path, until: float) -> None:
    found = identify(filled(tmp_path / "ltx-2.3-style.safetensors", until))
    assert found.kind == "unfinished" and "only zeros at its end where numbers belong" in found.sentence
    assert identify(filled(tmp_path / "ltx-2.3-whole.safetensors", 1.0)).usable


def test_zeros_of_an_untrained_part_are_none(tmp_path: Path) -> None:
    """lora_B of what was not trained is zero; lora_A beside it is not."""
    file = filled(tmp_path / "ltx-2.3-style.safetensors", 1.0)
    from ltx23_core.overlay.bytes.header import read_header
    last = [ref for name, ref in read_header(file).tensors.items() if "lora_B" in name]
    with file.open("r+b") as opened:
        for ref in last:
            opened.seek(ref.start)
            opened.write(bytes(ref.size_bytes))
    assert identify(file).usable


# --- the memory's key, and what recognition costs to import

def test_the_memory_hashes_every_module_that_recognition_loads() -> None:
    script = ("import sys\nimport ltx23_core.overlay.shelf.identify\n"
              "print('\\n'.join(m.__file__ for n, m in sys.modules.items() if n.startswith('ltx23_core.overlay.')))")
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    start = Path(remembered.__file__).with_name("identify.py")
    hashed = {str(path.relative_to(ROOT)) for path in imported_files(start)}
    for name in ("names/kinds.py", "names/variant.py", "names/layout.py", "names/recognise.py", "names/renames.py",
                 "packed/formats.py", "packed/layers.py", "packed/sizes.py", "bytes/header.py", "bytes/gguf.py",
                 "shelf/facts.py", "shelf/identify.py", "shelf/identify_file.py", "shelf/identify_folder.py",
                 "shelf/not_weights.py"):
        assert f"ltx23_core/overlay/{name}" in hashed, name
        assert name in loaded, name
    assert not any("models" in path for path in hashed)


def test_another_rule_forgets_the_memory(tmp_path: Path) -> None:
    """A copy of the library with one more comment in a table that is imported indirectly has another key."""
    shutil.copytree(ROOT / "ltx23_core", tmp_path / "ltx23_core", ignore=shutil.ignore_patterns("__pycache__"))
    script = "from ltx23_core.overlay.shelf.remembered import tables_hash; print(tables_hash())"

    def key() -> str:
        run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=tmp_path)
        return run.stdout

    before = key()
    assert key() == before
    for name in ("overlay/packed/formats.py", "overlay/names/renames.py", "overlay/bytes/gguf.py", "errors.py"):
        with (tmp_path / "ltx23_core" / name).open("a") as file:
            file.write("# another rule\n")
        changed = key()
        assert changed != before, name
        before = changed


def test_identify_needs_no_torch(tmp_path: Path) -> None:
    file = write_sparse(tmp_path / "ltx-2.3-style.safetensors", lora(16, lambda path: "blocks.0.attn1" in path))
    script = ("import sys, time\nstart = time.process_time()\nfrom ltx23_core import identify\n"
              "print(identify(sys.argv[1]).kind, 'torch' in sys.modules, time.process_time() - start)")

    def run() -> float:
        done = subprocess.run([sys.executable, "-c", script, str(file)], check=True, capture_output=True, text=True,
                              cwd=ROOT)
        kind, torch, seconds = done.stdout.split()
        assert (kind, torch) == ("lora", "False")
        return float(seconds)

    assert within(0.3, run)
