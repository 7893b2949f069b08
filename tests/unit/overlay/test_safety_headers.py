"""Whatever the bytes of a file are: an answer or an error of the library, soon, and with bounded memory."""
from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ltx23_core.errors import OverlayError
from ltx23_core.overlay.bytes.gguf import read_gguf
from ltx23_core.overlay.bytes.header import (
    MAX_BRACKETS,
    MAX_JSON,
    MAX_NAME,
    MAX_NAMES,
    MAX_TENSORS,
    parse_json,
    read_header,
    read_json,
)
from ltx23_core.overlay.bytes.source import DTYPE_BITS, MAX_DIMENSIONS, TensorRef
from ltx23_core.overlay.names.lines import PIECE, Lines
from ltx23_core.overlay.shelf.identify import identify
from tests.support.overlay import refuses
from tools.fuzz_headers import Readers, gguf_file, own_engine

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = settings(max_examples=150, deadline=30_000, derandomize=True, database=None,
                   suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Readers:
    return Readers(tmp_path_factory.mktemp("hostile"))


def write(path: Path, header: object, data: int = 0) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(Readers.safetensors(text, bytes(data)))
    return path


def entry(start: int, end: int, **other: object) -> dict[str, object]:
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end], **other}


# --- properties

numbers = st.one_of(st.integers(), st.integers(0, 64), st.floats(), st.booleans(), st.none(),
                    st.sampled_from([1 << 63, (1 << 63) - 1, 10**400, -1]))
names = st.one_of(st.text(max_size=8), st.sampled_from(["a.weight", "a.weight_scale", "a.comfy_quant", "__metadata__"]))
entries = st.fixed_dictionaries({}, optional={
    "dtype": st.one_of(st.sampled_from(sorted(DTYPE_BITS)), numbers, st.lists(st.just("BF16"))),
    "shape": st.one_of(st.lists(numbers, max_size=5), numbers, st.text(max_size=3)),
    "data_offsets": st.one_of(st.lists(numbers, max_size=4), numbers), "more": numbers})
values = st.recursive(st.one_of(numbers, st.text(max_size=8)), lambda inner: st.one_of(
    st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)), max_leaves=12)


@HOSTILE
@given(content=st.binary(max_size=400), kind=st.sampled_from([b"\0", b"\1", b"\2", b"\3", b"\0GGUF\3\0\0\0"]))
def test_any_bytes(content: bytes, kind: bytes, readers: Readers) -> None:
    readers.run(kind + content)


@HOSTILE
@given(header=st.dictionaries(names, st.one_of(entries, values), max_size=5))
def test_any_header(header: dict[str, Any], readers: Readers) -> None:
    readers.run(b"\1" + json.dumps(header).encode())


@HOSTILE
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), order=st.randoms(use_true_random=False),
       shift=st.sampled_from([0, 0, 0, 1, -1]), at=st.integers(0, 5), rest=st.sampled_from([0, 0, 1, -1]))
def test_ranges_are_read_as_they_are_or_refused(sizes: list[int], order: Any, shift: int, at: int, rest: int,
                                                readers: Readers) -> None:
    """Accepted only if the ranges cover the data exactly, in whatever order the names stand."""
    header, end = {}, 0
    for number, size in enumerate(sizes):
        start = max(0, end + (shift if number == at else 0))
        header[f"t{number}"] = entry(start, start + size)
        end += size
    items = list(header.items())
    order.shuffle(items)
    path = write(readers.folder / "ranges.safetensors", dict(items), max(0, end + rest))
    spans = sorted(tuple(value["data_offsets"]) for value in header.values())
    exact = spans[0][0] == 0 and all(a[1] == b[0] for a, b in zip(spans, spans[1:], strict=False))
    if exact and spans[-1][1] == path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little"):
        tensors = read_header(path).tensors
        assert {name: ref.end - ref.start for name, ref in tensors.items()} == {
            name: value["shape"][0] for name, value in header.items()}
    else:
        with pytest.raises(OverlayError):
            read_header(path)


@HOSTILE
@given(change=st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8)), max_size=4),
       cut=st.one_of(st.none(), st.integers(0, 400)))
def test_any_damage_of_a_gguf_header(change: list[tuple[int, bytes]], cut: int | None, readers: Readers) -> None:
    data = bytearray(gguf_file())
    for at, text in change:
        data[at:at + len(text)] = text
    readers.run(b"\2" + bytes(data[:cut]))


def paths_of(value: Any) -> list[tuple[Any, Any]]:
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(value, key) for key, _ in items] + [place for _, inner in items for place in paths_of(inner)]


@HOSTILE
@given(data=st.data())
def test_any_edited_manifest(data: st.DataObject, readers: Readers) -> None:
    """The id is made right again, so the content itself must be believed in nothing."""
    content = json.loads(json.dumps(readers.manifest))
    for _ in range(data.draw(st.integers(1, 3))):
        places = paths_of(content)
        holder, key = places[data.draw(st.integers(0, len(places) - 1))]
        holder[key] = data.draw(values)
    readers.run(b"\3" + json.dumps(content).encode())


def test_short_fuzzing(tmp_path: Path) -> None:
    """A sample; `python -m tools.fuzz_headers` goes on for as long as one likes."""
    result = own_engine(4, 11, tmp_path)
    assert not result.findings, result.findings[0][1]
    assert result.executions > 30 and result.edges > 200, result


# --- what was found

TABLE = {"a": entry(0, 4)}
FOUND = {
    "same key twice": (b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],'
                       b'"data_offsets":[0,4]}}', "a key occurs twice"),
    "same key twice, escaped": (b'{"a":{},"\\u0061":{}}', "a key occurs twice"),
    "same key twice within": (b'{"a":{"dtype":"U8","shape":[4],"shape":[4],"data_offsets":[0,4]}}',
                              "a key occurs twice"),
    "same metadata twice": (b'{"__metadata__":{"config":"{}","config":"[]"}}', "a key occurs twice"),
    "number of 5000 digits": ({"a": {**entry(0, 4), "shape": [1 << 62] * 300}}, "has a shape that is none"),
    "product of a million numbers": ({"a": {**entry(0, 4), "shape": [1 << 62] * 100_000}}, "has a shape that is none"),
    "too many dimensions": ({"a": {**entry(0, 4), "shape": [1] * MAX_DIMENSIONS + [4]}}, "has a shape that is none"),
    "dtype is a list": ({"a": {**entry(0, 4), "dtype": ["U8"]}}, "unknown dtype"),
    "long dtype": ({"a": {**entry(0, 4), "dtype": "U" * 10**6}}, "unknown dtype"),
    "name of two lines": ({"a\nb": entry(0, 4)}, "no name of at most"),
    "name with half a character": ({"\ud800": entry(0, 4)}, "no name of at most"),
    "long name": ({"attn2_to_k" * 10**5: entry(0, 4)}, "no name of at most"),
    "UTF-16": (json.dumps(TABLE).encode("utf-16-le"), "damaged header"),
    "not a number": (b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,4]}}', "has a shape that is none"),
    "negative zero": (b'{"a":{"dtype":"U8","shape":[-0.0],"data_offsets":[0,4]}}', "has a shape that is none"),
    "deep": (b'{"a":' * 100_000, "damaged header"),
    "deep in metadata": (b'{"__metadata__":' + b"[" * 100_000, "damaged header"),
    "wide": (b'{"a":[' + b"[]," * MAX_BRACKETS + b"[]]}", "lists and tables"),
}


@pytest.mark.parametrize("name", FOUND)
def test_hostile_headers(name: str, tmp_path: Path) -> None:
    header, text = FOUND[name]
    path = write(tmp_path / "model.safetensors", header, 4)
    with refuses(OverlayError, text) as raised:
        read_header(path)
    assert len(str(raised.value)) < 1000
    identity = identify(path)
    assert not identity.usable and len(identity.sentence) < 600


def test_longest_name_and_most_dimensions_are_fine(tmp_path: Path) -> None:
    header = {"x" * MAX_NAME: {**entry(0, 4), "shape": [1] * (MAX_DIMENSIONS - 1) + [4]}}
    [ref] = read_header(write(tmp_path / "a.safetensors", header, 4)).tensors.values()
    assert isinstance(ref, TensorRef) and ref.size_bytes == 4


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def test_gguf_keys_twice_and_masses(tmp_path: Path) -> None:
    one = text("k") + struct.pack("<IB", 0, 1)
    for pairs, count, words in (([one, one], 2, "occurs twice"), ([one], 1 << 40, "it promises 0 tensors and"),
                                ([text("k") + struct.pack("<IIQ", 9, 8, 1 << 40)], 1, "arrays of more than"),
                                ([text("a\nb") + struct.pack("<IB", 0, 1)], 1, "has no name")):
        (tmp_path / "x.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, count) + b"".join(pairs) + bytes(1 << 21))
        with refuses(OverlayError, words):
            read_gguf(tmp_path / "x.gguf")


def test_side_files_with_a_key_twice(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": 1, "a": 2}')
    with refuses(OverlayError, "is not JSON", "a key occurs twice"):
        read_json(tmp_path / "config.json")
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 200_000)


# --- memory and time, in a process that may not have more

MEASURE = """
import resource, sys, time, tracemalloc
from pathlib import Path
from ltx23_core.errors import LTX23Error
from ltx23_core.overlay.shelf.identify import identify
from ltx23_core.overlay.bytes.header import read_header, read_json
from ltx23_core.overlay.bytes.gguf import read_gguf
used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
for name in sys.argv[1:]:
    path = Path(name)
    for reader in (read_gguf,) if '.gguf' in name else (read_json,) if '.json' in name else (read_header, identify):
        start = time.process_time()
        tracemalloc.start()
        try:
            reader(path)
            result = 'read'
        except LTX23Error:
            result = 'refused'
        except RecursionError:
            result = 'recursion'
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(path.name, reader.__name__, path.stat().st_size, peak, time.process_time() - start, result)
"""
N = 4 << 20
BOMBS: dict[str, bytes] = {
    "lists": b'{"a":[' + b"[]," * (N // 3) + b"[]]}",
    "few lists": b'{"a":[' + b"[]," * (MAX_BRACKETS - 3) + b"[]]}",
    "few tables": b'{"a":[' + b'{"":0},' * (MAX_BRACKETS - 3) + b"0]}",
    "numbers": b'{"a":[' + b"999," * (N // 4) + b"0]}",
    "floats": b'{"a":[' + b"0.1," * 900_000 + b"0]}",
    "keys": b"{" + b",".join(b'"%x":0' % i for i in range(400_000)) + b"}",
    "deep": b"[" * N,
    "wide characters": '{"__metadata__":{"a":"🦊'.encode() + b"a" * N + b'"}}',
    "digits": b'{"a":' + b"1" * N + b"}",
    "dimensions": b'{"a":{"dtype":"U8","data_offsets":[0,0],"shape":[' + b"9" * 18 + b",9" * (N // 2) + b"]}}",
    "tensors": json.dumps({f"m.{i}.lora_A.weight": entry(0, 0) for i in range(20_000)}).encode(),
}
TIMES, PLUS = 24, 64 << 20  # a header of 30 000 tensors and their objects takes 13 times its size


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory as Linux does")
def test_memory_and_time_are_bounded(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name.replace(' ', '-')}.safetensors", data) for name, data in BOMBS.items()]
    for name in ("lists", "few tables", "deep", "keys"):
        paths.append(tmp_path / f"{name.replace(' ', '-')}.json")
        paths[-1].write_bytes(BOMBS[name])
    values = {"pairs": b"".join(text(f"{i:06}") + struct.pack("<IB", 0, 1) for i in range(50_000)),
              "tables": text("a") + struct.pack("<IIQ", 9, 9, 60_000) + struct.pack("<IQ", 0, 0) * 60_000,
              "texts": text("a") + struct.pack("<IIQ", 9, 8, 500_000) + bytes(N)}
    for name, data in values.items():
        paths.append(tmp_path / f"{name}.gguf")
        paths[-1].write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 50_000 if name == "pairs" else 1) + data)
    (tmp_path / "huge.safetensors").write_bytes(b"\xff" * 7 + b"\0{" + bytes(99))
    (tmp_path / "huge.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 62) + bytes(N))
    paths += [tmp_path / "huge.safetensors", tmp_path / "huge.gguf"]
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, paths)], cwd=ROOT, capture_output=True, text=True,
                          timeout=600)  # against a hang; what counts is the processor time below
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == sum(1 + (path.suffix == ".safetensors") for path in paths)
    for name, reader, size, peak, seconds, result in lines:
        assert int(peak) < PLUS + TIMES * int(size), (name, reader)
        assert float(seconds) < 20 and result != "recursion", (name, reader)


# --- work is bounded: names together, and what one search looks at

LONG = [f"layers.{number:06}." + "a" * 1000 for number in range(5000)]  # 5 MB


def test_names_together_are_bounded(tmp_path: Path) -> None:
    table = {name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for name in LONG}
    for names, damaged in ((LONG[:4000], False), (LONG, True)):
        text = json.dumps({name: table[name] for name in names}).encode()
        path = tmp_path / "x.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        if not damaged:
            assert len(read_header(path).tensors) == 4000
            continue
        with refuses(OverlayError, "damaged header", f"more than {MAX_NAMES}"):
            read_header(path)
        assert identify(path).kind == "damaged"


def test_tensors_are_counted(tmp_path: Path) -> None:
    text = json.dumps({f"a{number}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
                       for number in range(MAX_TENSORS + 1)}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with refuses(OverlayError, "damaged header", f"it has {MAX_TENSORS + 1} tensors"):
        read_header(path)


def test_names_of_gguf_are_bounded_together(tmp_path: Path) -> None:
    def text(value: str) -> bytes:
        return len(value).to_bytes(8, "little") + value.encode()

    entries = b"".join(text(name) + struct.pack("<IQIQ", 1, 0, 0, 0) for name in LONG)
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, len(LONG), 0) + entries + bytes(64))
    with refuses(OverlayError, "damaged header", f"more than {MAX_NAMES}"):
        read_gguf(path)


def test_long_metadata_is_bounded(tmp_path: Path) -> None:
    text = json.dumps({"__metadata__": {"a": "x" * MAX_JSON}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with refuses(OverlayError, "damaged header", f"more than {MAX_JSON}"):
        read_header(path)


def test_no_search_looks_at_a_whole_header() -> None:
    """Other threads wait for each single search: none is over more than a piece."""
    lines = Lines(LONG)
    assert lines.has(r"^layers\.004999\.a+$") and not lines.has(r"b")
    assert max(map(len, lines._pieces)) < PIECE + MAX_NAME + 1 and "\n".join(lines._pieces) == "\n".join(LONG)
