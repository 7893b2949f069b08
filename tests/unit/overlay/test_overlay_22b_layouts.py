"""Quantised, split and diffusers files of the true size: recognised from the header, in under a second."""
from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ltx23_core.overlay import Overlay, materialize
from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.overlay.bytes.source import QuantRef
from ltx23_core.overlay.names.layout import OFFICIAL
from ltx23_core.overlay.names.renames import FOLDERS, to_diffusers
from tests.support.overlay import Layout, as_layout, manifest_22b, write_sparse
from tests.support.speed import within

T = "model.diffusion_model."
CONFIG = manifest_22b()["metadata"]["config"]
Parts = Callable[[int, int], Layout]


def up(value: int, step: int) -> int:
    return -(-value // step) * step


def fp8(rows: int, columns: int) -> Layout:
    return {"weight": ("F8_E4M3", (rows, columns)), "weight_scale": ("F32", ())}


def mxfp8(rows: int, columns: int) -> Layout:
    return {"weight": ("F8_E4M3", (up(rows, 32), columns)), "weight_scale": ("U8", (up(rows, 128), columns // 32))}


def nvfp4(rows: int, columns: int) -> Layout:
    return {"weight": ("U8", (up(rows, 16), columns // 2)), "weight_scale_2": ("F32", ()),
            "weight_scale": ("F8_E4M3", (up(rows, 128), columns // 16))}


def int8(rows: int, columns: int) -> Layout:
    return {"weight": ("I8", (rows, columns)), "weight_scale": ("F32", (rows, 1))}


def official(*prefixes: str) -> Layout:
    return {k: v for k, v in as_layout(manifest_22b()["tensors"]).items() if k.startswith(prefixes or "")}


def quantised(layout: Layout, parts: Parts, blocks: range, extra: Layout | None = None) -> Layout:
    """All 34 two-dimensional weights of some blocks quantised."""
    result: Layout = {}
    for key, (dtype, shape) in layout.items():
        block = re.match(rf"({re.escape(T)})?transformer_blocks\.(\d+)\.", key)
        if not (block and int(block[2]) in blocks and key.endswith(".weight") and len(shape) == 2):
            result[key] = (dtype, shape)
            continue
        made = {**parts(*shape), **(extra or {})}
        result |= {key.removesuffix("weight") + name: value for name, value in made.items()}
    return result


def with_json(path: Path, told: dict) -> Path:
    """Fill in the `comfy_quant` tensors."""
    data = json.dumps(told).encode()
    with open(path, "r+b") as file:
        for key, ref in read_header(path).tensors.items():
            if key.endswith(".comfy_quant"):
                assert ref.size_bytes == len(data)
                file.seek(ref.start)
                file.write(data)
    return path


def comfy_quant(told: dict) -> Layout:
    return {"comfy_quant": ("U8", (len(json.dumps(told)),))}


META = {"config": json.dumps(CONFIG), "model_version": "2.3.0"}
ONLY = {"config": json.dumps({"transformer": CONFIG["transformer"]})}
BLOCKS = range(2, 46)  # the 44 of the official files


def official_fp8(folder: Path) -> Path:
    extra: Layout = {"input_scale": ("F32", ())}
    return write_sparse(folder / "ltx-2.3-22b-dev-fp8.safetensors", quantised(official(), fp8, BLOCKS, extra), META)


def official_nvfp4(folder: Path) -> Path:
    layout = quantised(official(), nvfp4, BLOCKS)
    layers = {key.removesuffix(".weight_scale"): {"format": "nvfp4"} for key in layout if key.endswith("weight_scale")}
    return write_sparse(folder / "ltx-2.3-22b-dev-nvfp4.safetensors", layout,
                        META | {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})})


def kijai_fp8(folder: Path) -> Path:
    told = {"format": "float8_e4m3fn"}
    return with_json(write_sparse(folder / "t.safetensors",
                                  quantised(official(T), fp8, range(48), comfy_quant(told)), ONLY), told)


def kijai_mxfp8(folder: Path) -> Path:
    told = {"format": "mxfp8"}
    return with_json(write_sparse(folder / "t.safetensors",
                                  quantised(official(T), mxfp8, range(48), comfy_quant(told)), ONLY), told)


def kijai_int8(folder: Path) -> Path:
    told = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}
    return with_json(write_sparse(folder / "t.safetensors",
                                  quantised(official(T), int8, range(48), comfy_quant(told)), ONLY), told)


def bare_without_metadata(folder: Path) -> Path:
    layout = {key.removeprefix(T): value for key, value in official(T).items()}
    return write_sparse(folder / "diffusion_model.safetensors", quantised(layout, fp8, range(48)))


def monolith_without_metadata(folder: Path) -> Path:
    return write_sparse(folder / "renamed.safetensors", official())


# writer -> components, quantised weights, GB by spec/09 §0, §1 (they state the size on the web page)
FILES = {official_fp8: (8, 44 * 34, 29.14), official_nvfp4: (8, 44 * 34, 21.70), kijai_fp8: (2, 48 * 34, 23.47),
         kijai_mxfp8: (2, 48 * 34, 24.05), kijai_int8: (2, 48 * 34, None), bare_without_metadata: (2, 48 * 34, 23.47),
         monolith_without_metadata: (8, 0, 46.15)}


def timed(**arguments: object) -> Overlay:
    """Materialise in less than a second of processor time: other programs may take the processor meanwhile."""
    made: list[Overlay] = []

    def run() -> float:
        begin = time.process_time()
        made.append(materialize(**arguments))
        return time.process_time() - begin

    assert within(1, run), made[-1].layout
    return made[-1]


def check(overlay: Overlay) -> None:
    """Every component has exactly the logical tensors of the official file."""
    for component, entry in overlay.components.items():
        want = {name: tuple(shape) for key, (_, *shape) in manifest_22b()["tensors"].items()
                for place, name in OFFICIAL.places(key) if place == component}
        assert {name: ref.shape for name, ref in entry.tensors.items()} == want, component


@pytest.mark.parametrize("writer", FILES, ids=lambda writer: writer.__name__)
def test_file(writer: Callable[[Path], Path], tmp_path: Path) -> None:
    components, weights, gigabytes = FILES[writer]
    path = writer(tmp_path)
    if gigabytes:
        assert path.stat().st_size / 1e9 == pytest.approx(gigabytes, rel=3e-3)
    overlay = timed(checkpoint=path)
    assert len(overlay.components) == components
    check(overlay)
    quants = [ref for entry in overlay.components.values() for ref in entry.tensors.values()
              if isinstance(ref, QuantRef)]
    assert len(quants) == weights
    assert overlay.require("transformer").config == CONFIG["transformer"]
    guessed = any("the built-in configuration of LTX-2.3 22B fits" in note for note in overlay.notes)
    assert guessed == writer.__name__.endswith("without_metadata")
    assert path.stat().st_blocks * 512 < 20e6
    assert Overlay.load(overlay.path) == overlay


def test_split_files(tmp_path: Path) -> None:
    """Wan2GP's six files: bare names, no metadata anywhere."""
    def file(name: str, prefix: str, keep: Callable[[str], bool] = lambda key: True) -> Path:
        return write_sparse(tmp_path / name,
                            {k.removeprefix(prefix): v for k, v in official(prefix).items() if keep(k)})

    main = file("transformer.safetensors", T, lambda key: "_connector." not in key)
    rest = [file("connectors.safetensors", T, lambda key: "_connector." in key), file("vae.safetensors", "vae."),
            file("text_projection.safetensors", "text_embedding_projection."),
            file("audio.safetensors", "audio_vae."), file("vocoder.safetensors", "vocoder.")]
    overlay = timed(checkpoint=main, components=rest)
    assert set(overlay.components) == set(OFFICIAL.components)
    check(overlay)
    assert overlay.require("text_projection").config["in_features"] == 188160


@pytest.mark.parametrize("shards", [1, 8])
def test_diffusers_folder(shards: int, tmp_path: Path) -> None:
    for folder, components in FOLDERS.items():
        layout = {to_diffusers(component, name): value for key, value in official().items()
                  for component, name in OFFICIAL.places(key) if component in components}
        names = sorted(layout)
        stem = "diffusion_pytorch_model"
        for i in range(shards if layout else 0):
            file = f"{stem}-{i + 1:05}-of-{shards:05}.safetensors" if shards > 1 else f"{stem}.safetensors"
            write_sparse(tmp_path / "m" / folder / file, {name: layout[name] for name in names[i::shards]})
    overlay = timed(checkpoint=tmp_path / "m")  # no config.json: the built-in one fits
    assert set(overlay.components) == set(OFFICIAL.components)
    check(overlay)


def test_other_architectures_are_not_taken_for_2_3(tmp_path: Path) -> None:
    """A pruned video VAE without metadata has other channel counts: the built-in table must not be forced on it."""
    from ltx23_core.errors import OverlayError
    vae = {k.removeprefix("vae."): (d, tuple(n * 3 // 4 if n > 128 else n for n in shape))
           for k, (d, shape) in official("vae.").items()}
    pruned = write_sparse(tmp_path / "pruna_vae.safetensors", vae)
    with pytest.raises(OverlayError, match="no config for video_encoder, video_decoder.*mis-shaped"):
        materialize(monolith_without_metadata(tmp_path), components=[pruned])
