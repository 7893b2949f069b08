"""No sentence about a file carries what stands in it: messages reach whoever uses the server.

Names of tensors, and plain words that say what a model is, are the exception: they are what people need to hear.
"""
from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ltx23_core.errors import LTX23Error, reason, word
from ltx23_core.overlay import Overlay, materialize
from ltx23_core.overlay.shelf.identify import identify
from tests.goldens.harness import CHECKPOINT

SECRET = "hunter2 is the password"
ONE = {"a.weight": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}
LORA = {"transformer_blocks.0.attn1.to_q.lora_A.weight": {"dtype": "BF16", "shape": [1, 64], "data_offsets": [0, 128]},
        "transformer_blocks.0.attn1.to_q.lora_B.weight": {"dtype": "BF16", "shape": [64, 1],
                                                          "data_offsets": [128, 256]}}


def weights(header: object, raw: str | None = None) -> bytes:
    text = (json.dumps(header) if raw is None else raw).encode()
    return struct.pack("<Q", len(text)) + text + bytes(256)


def gguf(*pairs: tuple[str, str]) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()
    body = b"".join(text(key) + struct.pack("<I", 8) + text(value) for key, value in pairs)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + body + bytes(64)


def entry(**change: object) -> bytes:
    return weights({"a.weight": {**ONE["a.weight"], **change}})


FILES = {
    "short text": SECRET.encode(), "long text": (SECRET + "\n").encode() * 1000,
    "binary": SECRET.encode() + bytes(5000), "page": f"<html>{SECRET}".encode(),
    "answer": f'{{"error": "{SECRET}"}}'.encode(), "refusal": f"Entry not found {SECRET}".encode(),
    "pointer": f"version https://git-lfs.github.com/spec/v1\noid sha256:{SECRET}\nsize {SECRET}\n".encode(),
    "pickle": b"\x80\x02" + SECRET.encode() + bytes(5000), "zip": b"PK\x03\x04" + SECRET.encode() + bytes(5000),
    "config": weights({"__metadata__": {"config": SECRET}, **ONE}),
    "config of another kind": weights({"__metadata__": {"config": json.dumps({"transformer": SECRET})}, **ONE}),
    "metadata": weights({"__metadata__": {SECRET: SECRET, "modelspec.architecture": SECRET, "format": SECRET}, **ONE}),
    "metadata of another kind": weights({"__metadata__": {"x": {"y": SECRET}}, **ONE}),
    "quantisation": weights({"__metadata__": {"_quantization_metadata": SECRET}, **ONE}),
    "dtype": entry(dtype=SECRET), "dtypes": entry(dtype=[SECRET]), "shape": entry(shape=[SECRET]),
    "no shape": entry(shape=SECRET),
    "offset": entry(data_offsets=[0, SECRET]), "no offsets": entry(data_offsets=SECRET),
    "no entry": weights({"a": SECRET}), "entry of names": weights({"a": {SECRET: SECRET}}),
    "key twice": weights(None, f'{{"__metadata__":{{"{SECRET}":"1","{SECRET}":"2"}}}}'),
    "no JSON": weights(None, f'{{"{SECRET}'), "list": weights(None, f'["{SECRET}"]'),
    "lora": weights({"__metadata__": {key: SECRET for key in (
        "ss_base_model_version", "ss_network_module", "ss_network_args", "lora_alpha", "alpha",
        "lora_adapter_metadata", "reference_downscale_factor")}, **LORA}),
    "lora's alphas": weights({"__metadata__": {"lora_adapter_metadata": json.dumps(
        {"transformer.lora_alpha": SECRET, "transformer.alpha_pattern": {SECRET: SECRET}})}, **LORA}),
    "GGUF architecture": gguf(("general.architecture", SECRET)),
    "GGUF key twice": gguf(("general.architecture", "ltxv"), (SECRET, ""), (SECRET, "")),
    "GGUF values": gguf(("general.architecture", "ltxv"), ("config", SECRET), ("general.alignment", SECRET)),
    "GGUF damaged": b"GGUF" + SECRET.encode() + bytes(100),
}
CONFIGS = {
    "text": SECRET, "key twice": f'{{"{SECRET}": 1, "{SECRET}": 2}}', "list": json.dumps([SECRET]),
    "type": json.dumps({"model_type": SECRET}), "class": json.dumps({"_class_name": SECRET}),
    "numbers": json.dumps({"model_type": "gemma3", "text_config": {"hidden_size": SECRET}}),
    "index": json.dumps({"weight_map": {"a": f"{SECRET}.safetensors"}}),
    "index of another kind": json.dumps({"weight_map": SECRET}),
}


def sentences(path: Path, output: Path) -> list[str]:
    """All that is said of a file or folder, whatever it is taken for."""
    ways: list[Callable[[], object]] = [
        lambda: materialize(path, output=output), lambda: materialize(CHECKPOINT, path, output=output),
        lambda: materialize(CHECKPOINT, upsamplers=[path], output=output),
        lambda: materialize(CHECKPOINT, distilled_lora=path, output=output),
        lambda: materialize(CHECKPOINT, components=[path], output=output), lambda: Overlay.load(path)]
    who = identify(path)
    said = [who.sentence, who.fix]
    for way in ways:
        try:
            way()
        except LTX23Error as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(FILES[name])
    said = sentences(path, tmp_path / "o.json")
    assert len(said) >= 5
    assert not [each for each in said if "hunter2" in each or "password" in each]


@pytest.mark.parametrize("place", ["config.json", "model_index.json", "model.safetensors.index.json",
                                   "transformer/config.json"])
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "index"])
def test_folders(name: str, place: str, tmp_path: Path) -> None:
    """But for the index: which of its files is missing has to be said."""
    folder = tmp_path / "folder"
    (folder / "transformer").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "gemma3", "text_config": {}}')
    for weight in ("model.safetensors", "transformer/diffusion_pytorch_model.safetensors"):
        (folder / weight).write_bytes(weights(ONE)[:-254])
    (folder / place).write_text(CONFIGS[name])
    said = sentences(folder, tmp_path / "o.json")
    assert not [each for each in said if "hunter2" in each or "password" in each]


NO_NAME = "something that is no name"


@pytest.mark.parametrize(("value", "said"), [
    ("llama", "'llama'"), ("qwen2.5-vl", "'qwen2.5-vl'"), ("BF17", "'BF17'"), (None, "nothing"), (5, NO_NAME),
    ("two words", NO_NAME), ("x" * 41, NO_NAME), ("", NO_NAME), (["llama"], NO_NAME), ("línea", NO_NAME),
    ("a\n", NO_NAME),
])
def test_words(value: object, said: str) -> None:
    assert word(value) == said


def test_reasons() -> None:
    assert reason(KeyError("num_layers")) == "'num_layers' is missing"
    assert reason(KeyError(SECRET)) == "something that is no name is missing"
    assert reason(ValueError(SECRET)) == "ValueError"
