"""Coverage-guided fuzzing of everything that reads bytes of strangers: headers, `identify`, manifests.

    .venv/bin/python -m tools.fuzz_headers --seconds 300 [--seed 1] [--engine auto|atheris|own] [--keep FOLDER]

Whatever the bytes are, the readers return or raise an error of the library, soon. An input is a byte that says what it
is (`SHAPES`) and the content; lengths and ids are made right, so that the mutations reach what lies behind them. With
atheris (``pip install atheris``, Python 3.11 to 3.13) libFuzzer chooses them; else a loop of our own does, which keeps
every input that reaches a new pair of lines. A finding is printed with its traceback; then the exit status is 1.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import random
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]
SLOW = 5.0  # seconds for one small input
SHAPES = ("raw", "safetensors", "gguf", "manifest")
MOST = 1 << 14
WEIGHT, LORA = "transformer_blocks.0.attn1.to_q.weight", "diffusion_model.transformer_blocks.0.attn1.to_q.lora_"
INTERESTING: tuple[Any, ...] = (
    0, 1, -1, 2, 63, 64, 65, 255, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, 1 << 64, -(1 << 63), 10**400,
    0.5, -0.0, 1e308, float("inf"), float("nan"), True, None, "", "a", "F8_E4M3", "BF16", "U8", "F4", "\ud800", "\0",
    "\n", "../../etc/passwd", "/etc/passwd", "/dev/zero", "weight", "fp8", "gemma3", [], {}, [[]], [0, 0],
    [1 << 62] * 70, {"format": "float8_e4m3fn"}, {"quant": "fp8", "shape": [2, 2], "parameters": {}, "parts": {}})


def entry(start: int, end: int, dtype: str = "BF16", shape: tuple[int, ...] = (2, 2)) -> dict[str, Any]:
    """One tensor of a safetensors header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def gguf_file(version: int = 3) -> bytes:
    """A small GGUF file: values of several types, one tensor."""
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    values = [text("general.architecture") + struct.pack("<I", 8) + text("gemma3"),
              text("general.alignment") + struct.pack("<II", 4, 32),
              text("gemma3.block_count") + struct.pack("<II", 4, 1),
              text("a") + struct.pack("<IIQ3i", 9, 5, 3, 1, 2, 3),
              text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("x") + text("y"),
              text("nested") + struct.pack("<IIQIQ2B", 9, 9, 1, 0, 2, 1, 2)]
    tensors = [text("blk.0.attn_q.weight") + struct.pack("<IQQIQ", 2, 32, 2, 8, 0),
               text("output_norm.weight") + struct.pack("<IQIQ", 1, 4, 0, 96)]
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values)) + b"".join((*values, *tensors))
    return head + bytes(-len(head) % 32 + 112)


@dataclass
class Readers:
    """All readers over one folder of files.

    Args:
        folder: where the inputs are written.
    """

    folder: Path

    def __post_init__(self) -> None:
        from ltx23_core.overlay import manifest
        from ltx23_core.overlay.bytes import header
        self.weights = self.folder / "weights.safetensors"
        self.weights.write_bytes(self.safetensors(json.dumps({WEIGHT: entry(0, 8)}).encode(), bytes(8)))
        (self.folder / "tokenizer.json").write_text("{}")
        source = header.read_header(self.weights)
        side = manifest.SourceFile.of(self.folder / "tokenizer.json")
        components = {"transformer": manifest.ComponentEntry({"a": 1}, dict(source.tensors)),
                      "vocoder": manifest.ComponentEntry({}, {"x": manifest.QuantRef(
                          "fp8", (2, 2), {"weight": source.tensors[WEIGHT]}, {"group": 16})})}
        self.manifest = manifest.to_content("dev", "2.3", "x", (source.source, side), components, self.folder, ("a",))
        self._encode = manifest.encode

    @staticmethod
    def safetensors(text: bytes, data: bytes = b"") -> bytes:
        """A file with this header."""
        return len(text).to_bytes(8, "little") + text + data

    def seeds(self) -> list[bytes]:
        """Valid and nearly valid inputs."""
        headers: list[Any] = [
            {"__metadata__": {"config": '{"transformer": {}}', "format": "pt"}, WEIGHT: entry(0, 8)},
            {WEIGHT: entry(0, 4, "F8_E4M3"), WEIGHT + "_scale": entry(4, 8, "F32", ())},
            {LORA + "A.weight": entry(0, 8), LORA + "B.weight": entry(8, 16)},
            {"model.layers.0.self_attn.q_norm.weight": entry(0, 8), "model.embed_tokens.weight": entry(8, 16),
             "model.layers.0.post_feedforward_layernorm.weight": entry(16, 24)},
            {"audio_adaln_single.linear.weight": entry(0, 8), "prompt_adaln_single.linear.weight": entry(8, 16),
             "a.weight": entry(16, 17, "F4", (2, 1)), "__metadata__": {"_quantization_metadata":
             '{"layers": {"a": {"format": "nvfp4"}}}'}},
            {"a": entry(0, 8), "b": entry(4, 12)}, {"a": [[[[]]]]}, []]
        contents = [b"\1" + json.dumps(header).encode() for header in headers]
        contents += [b"\1" + b'{"a":{},"a":{}}', b"\1" + b"[" * 3000, b"\2" + gguf_file(), b"\2" + gguf_file(2)]
        contents += [b"\3" + json.dumps(self.manifest).encode(), b"\0version https://git-lfs.github.com/\nsize 5"]
        return [*contents, b"\0<!doctype html>", b"\0PK\3\4", b"\0" + self.weights.read_bytes(), b"\0" + gguf_file()]

    def run(self, data: bytes) -> None:
        """Give one input to all readers that it concerns.

        Raises:
            Exception: a finding.
        """
        from ltx23_core.errors import LTX23Error
        from ltx23_core.overlay.bytes.gguf import read_gguf, read_gguf_weights
        from ltx23_core.overlay.bytes.header import read_header
        from ltx23_core.overlay.manifest import Overlay
        from ltx23_core.overlay.shelf.identify import identify
        shape, content = SHAPES[data[0] % len(SHAPES) if data else 0], data[1:]
        path = self.folder / ("input.gguf" if shape == "gguf" else "input.safetensors")
        if shape == "manifest":
            content = self._with_id(content)
        elif shape == "safetensors":
            content = self.safetensors(content, bytes(self._data_bytes(content)))
        path.write_bytes(content)
        started = time.monotonic()
        readers: list[Callable[[Path], Any]] = [Overlay.load] if shape == "manifest" else [
            read_gguf, read_gguf_weights, read_header, identify]
        for reader in readers:
            try:
                result = reader(path)
            except LTX23Error as error:
                assert "\n" not in str(error) and len(str(error)) < 8000, "an error is no line"
                str(error).encode()
            else:
                self._check(result, len(content))
        assert time.monotonic() - started < SLOW, "slow"

    def _with_id(self, content: bytes) -> bytes:
        try:
            value = json.loads(content)
            value.pop("id", None)
            return self._encode(value)[0].encode()
        except (ValueError, RecursionError, AttributeError, TypeError):
            return content

    @staticmethod
    def _data_bytes(header: bytes) -> int:
        """Bytes of data that the header asks for, as far as that is a small number."""
        try:
            return int(min(1 << 16, max(0, *(value["data_offsets"][1] for value in json.loads(header).values()
                                             if "data_offsets" in value))))
        except Exception:
            return 0

    def _check(self, result: Any, size: int) -> None:  # noqa: ANN401 (of several readers)
        from ltx23_core.overlay.bytes.header import Header
        from ltx23_core.overlay.manifest import Overlay
        if isinstance(result, Header):
            parts = [part for ref in result.tensors.values() for part in getattr(ref, "parts", {"": ref}).values()]
            assert all(0 <= part.start <= part.end <= size for part in parts), "a tensor outside of its file"
        elif isinstance(result, Overlay):
            files = {source.path for source in result.sources}
            assert files <= {self.weights, self.folder / "tokenizer.json"}, f"it reads {files}"
            assert result.tokenizer in (None, self.folder)
        else:
            assert isinstance(result.sentence, str) and len(result.sentence) < 8000


def mutate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A changed input: JSON by its values where it is JSON, else bytes."""
    kind, content = data[:1], data[1:]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if rng.random() < 0.6 and kind in (b"\1", b"\3"):
            try:
                content = _mutate_json(rng, content)
                continue
            except (ValueError, RecursionError):
                pass
        content = _mutate_bytes(rng, content, other[1:])
    return (kind if rng.random() < 0.95 else bytes([rng.randrange(4)])) + content[:MOST]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 (any JSON)
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def _mutate_json(rng: random.Random, content: bytes) -> bytes:
    value = json.loads(content)
    places = list(_places(value))
    if not places:
        raise ValueError
    holder, key = rng.choice(places)
    what = rng.randrange(6)
    if what == 0 and isinstance(holder, dict):
        holder[str(rng.choice(INTERESTING))] = holder.pop(key)
    elif what == 1:
        del holder[key]
    elif what == 2 and isinstance(holder[key], int):
        holder[key] += rng.choice((-1, 1, 8, -8, 1 << 32))
    elif what == 3:
        inside, name = rng.choice(places)
        holder[key] = json.loads(json.dumps(inside[name])) if name in inside or isinstance(inside, list) else None
    else:
        holder[key] = rng.choice(INTERESTING)
    text = json.dumps(value)
    if what == 5 and isinstance(value, dict) and value:  # a key that occurs twice
        text = text[:-1] + f", {json.dumps(next(iter(value)))}: 0}}"
    return text.encode("utf-8", "surrogatepass")


def _mutate_bytes(rng: random.Random, content: bytes, other: bytes) -> bytes:
    data = bytearray(content)
    at = rng.randrange(len(data) + 1)
    what = rng.randrange(7)
    if what == 0 and data:
        data[at % len(data)] ^= 1 << rng.randrange(8)
    elif what == 1:
        data[at:at + rng.choice((1, 4, 8))] = struct.pack("<Q", rng.choice((0, 1, 9, 64, 255, 1 << 31, 1 << 40, 1 << 63,
                                                                           (1 << 64) - 1)))[:rng.choice((1, 4, 8))]
    elif what == 2:
        del data[at:at + rng.randrange(1, 32)]
    elif what == 3:
        data[at:at] = rng.randbytes(rng.randrange(1, 16))
    elif what == 4 and other:
        cut = rng.randrange(len(other))
        data[at:at] = other[cut:cut + rng.randrange(1, 64)]
    elif what == 5:
        data[at:at] = data[at:at + rng.randrange(1, 64)] * rng.randrange(1, 9)
    else:
        data[at:at] = rng.choice((b"[", b"{", b'"', b",", b"\xff", b"\\ud800", b"[" * 900, b'{"a":' * 300, b"\0"))
    return bytes(data)


@dataclass
class Result:
    """What a run did."""

    executions: int = 0
    corpus: int = 0
    edges: int = 0
    findings: list[tuple[bytes, str]] = field(default_factory=list)


def own_engine(seconds: float, seed: int, folder: Path, executions: int = 1 << 60) -> Result:
    """The loop without atheris: inputs that reach a new pair of lines of `overlay` are kept and changed further."""
    readers, rng, result = Readers(folder), random.Random(seed), Result()
    watched = str(ROOT / "ltx23_core" / "overlay")
    edges: set[tuple[str, int, int]] = set()
    new = False

    def trace(frame: FrameType, event: str, _: object) -> Any:  # noqa: ANN401 (itself)
        if not frame.f_code.co_filename.startswith(watched):
            return None
        name, last = frame.f_code.co_filename, frame.f_lineno

        def lines(frame: FrameType, event: str, _: object) -> Any:  # noqa: ANN401
            nonlocal last, new
            if event == "line":
                edge = (name, last, frame.f_lineno)
                last = frame.f_lineno
                if edge not in edges:
                    edges.add(edge)
                    new = True
            return lines

        return lines

    def run(data: bytes) -> bool:
        nonlocal new
        new = False
        result.executions += 1
        sys.settrace(trace)
        try:
            readers.run(data)
        except Exception:
            sys.settrace(None)
            result.findings.append((data, traceback.format_exc()))
        finally:
            sys.settrace(None)
        return new

    corpus = readers.seeds()
    for data in list(corpus):
        run(data)
    end = time.monotonic() + seconds
    while time.monotonic() < end and len(result.findings) < 10 and result.executions < executions:
        data = mutate(rng, rng.choice(corpus[-50:] if rng.random() < 0.3 else corpus), rng.choice(corpus))
        if run(data):
            corpus.append(data)
    result.corpus, result.edges = len(corpus), len(edges)
    return result


def atheris_engine(seconds: float, seed: int, folder: Path) -> None:
    """libFuzzer by way of atheris; it ends the process itself."""
    import atheris
    with atheris.instrument_imports(include=["ltx23_core.overlay"]):
        import ltx23_core.overlay.bytes.gguf
        import ltx23_core.overlay.bytes.header
        import ltx23_core.overlay.manifest
        import ltx23_core.overlay.shelf.identify
        import ltx23_core.overlay.shelf.identify_folder
        assert ltx23_core.overlay
    readers, corpus = Readers(folder), folder / "corpus"
    corpus.mkdir()
    seeds = readers.seeds()
    for number, data in enumerate(seeds):
        (corpus / str(number)).write_bytes(data)

    def changed(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        return (mutate(rng, data, rng.choice(seeds)) if rng.random() < 0.7 else atheris.Mutate(data, most))[:most]

    atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}", f"-seed={seed}", f"-max_len={MOST}", "-timeout=20",
                   "-rss_limit_mb=2048", "-print_final_stats=1", f"-artifact_prefix={folder}/", str(corpus)],
                  readers.run, custom_mutator=changed)
    atheris.Fuzz()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("auto", "atheris", "own"), default="auto")
    parser.add_argument("--keep", type=Path, help="folder for inputs that were findings")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ltx23-fuzz-"))
    if options.engine == "atheris" or (options.engine == "auto" and importlib.util.find_spec("atheris")):
        atheris_engine(options.seconds, options.seed, folder)
        return 0
    result = own_engine(options.seconds, options.seed, folder)
    for number, (data, text) in enumerate(result.findings):
        print(f"{data[:200]!r}\n{text}")
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"finding-{number}").write_bytes(data)
    print(f"{result.executions} executions, {result.edges} pairs of lines, corpus of {result.corpus}, "
          f"{len(result.findings)} findings")
    return 1 if result.findings else 0


if __name__ == "__main__":
    sys.exit(main())
