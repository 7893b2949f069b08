"""What ComfyUI's own loaders are given: names, numbers and metadata of every layout, made when they are wanted."""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ltx23_core import export, materialize
from ltx23_core.bridge.state import PARTS, State, is_kept, made_sizes, native_part, opened
from ltx23_core.bridge.tensors import Made, MappedFiles
from ltx23_core.errors import OverlayError
from ltx23_core.overlay import Overlay
from ltx23_core.overlay.bytes.source import SourceFile, TensorRef
from tests.goldens.harness import CHECKPOINT, GEMMA
from tests.support.layouts import UNQUANTISED, T, Written, metadata, tiny
from tests.support.layouts_quantised import QUANTISED
from tests.unit.overlay.test_overlay_22b_layouts import FILES

KNOWN = ("float8_e4m3fn", "float8_e5m2", "mxfp8", "nvfp4", "int8_tensorwise", "convrot_w4a4", "asym_w4a8_int8")
PREFIXES = {"model": (T, T), "vae": ("vae.", "vae."), "audio_vae": (("audio_vae.", "vocoder."), "")}
COMPANIONS = ("weight_scale", "weight_scale_2", "input_scale")


def official(part: str) -> dict[str, torch.Tensor]:
    """Tensors of the official file as a part has them."""
    keys, strip = PREFIXES[part]
    return {key.removeprefix(strip): value for key, value in tiny().items() if key.startswith(keys)}


def states(overlay: Overlay, part: str, now: bool = False) -> State:
    with opened(KNOWN, now=now, check=lambda: None) as state:
        return state(native_part(overlay, part)[-1])


def described(writer: Callable[[Path], Written], folder: Path) -> tuple[Overlay, Written]:
    (folder / "files").mkdir()
    written = writer(folder / "files")
    return materialize(written.checkpoint, **{"output": folder / "overlay.json", **written.arguments}), written


@pytest.mark.parametrize("writer", UNQUANTISED, ids=lambda writer: writer.__name__)
def test_every_layout_becomes_the_same_state(writer: Callable[[Path], Written], tmp_path: Path) -> None:
    overlay, _ = described(writer, tmp_path)
    for part in PREFIXES:
        state, told = states(overlay, part)
        want = official(part)
        assert set(state) == set(want)
        for name, tensor in want.items():
            assert torch.equal(state[name], tensor), name
        config, whole = json.loads(told["config"]), json.loads(metadata()["config"])
        for name, values in config.items():
            assert values.items() >= {k: v for k, v in whole[name].items() if k in values}.items()
    state, _ = states(overlay, "model")
    assert not any(type(tensor) is Made for tensor in state.values()), "mapped as they are"


@pytest.mark.parametrize("writer", QUANTISED, ids=lambda writer: writer.__name__)
def test_quantised_weights_go_on_as_they_are_where_comfyui_knows_them(writer: Callable[[Path], Written],
                                                                      tmp_path: Path) -> None:
    overlay, written = described(writer, tmp_path)
    state, told = states(overlay, "model")
    layers = json.loads(told.get("_quantization_metadata", '{"layers": {}}'))["layers"]
    assert {name for name in state if not name.endswith(COMPANIONS)} == set(official("model"))
    made = 0
    for _, name in written.numbers:
        ref = overlay.require("transformer").tensors[name]
        layer = name.removesuffix(".weight")
        assert (layer in layers) == (is_kept(ref, KNOWN) and not isinstance(ref, TensorRef))
        if type(state[name]) is Made:
            made += 2 * state[name].numel()
            assert torch.equal(state[name].clone(), written.numbers["transformer", name].bfloat16())
    assert made == sum(made_sizes(native_part(overlay, "model"), KNOWN))
    assert (made > 0) == ("rows" in writer.__name__ or "squares" in writer.__name__)
    if writer.__name__ == "comfy_fp8":  # the wish of the file goes on
        assert all(entry["full_precision_matrix_mult"] for entry in layers.values())


def test_formats_that_this_comfyui_does_not_know_are_made_when_they_are_copied(tmp_path: Path) -> None:
    overlay, written = described(QUANTISED[1], tmp_path)  # NVFP4
    asked = []
    with opened((), now=False, check=lambda: asked.append(1)) as state:
        tensors, told = state(native_part(overlay, "model")[0])
        name = next(name for _, name in written.numbers)
        made = tensors[name]
        assert type(made) is Made and made.shape == written.numbers["transformer", name].shape
        assert made.dtype == torch.bfloat16 and made.nelement() and not asked, "nothing is read by looking"
        target = torch.nn.Linear(made.shape[1], made.shape[0], bias=False)
        target.load_state_dict({"weight": made})
        assert len(asked) == 1 and type(target.weight) is torch.nn.Parameter
    assert "_quantization_metadata" not in told
    torch.testing.assert_close(target.weight.data, written.numbers["transformer", name].bfloat16().float(), rtol=0,
                               atol=0)
    now, _ = states(overlay, "model", now=True)
    assert not any(type(tensor) is Made for tensor in now.values())


def test_gguf_has_the_same_names_and_is_made(tmp_path: Path) -> None:
    source = materialize(CHECKPOINT, output=tmp_path / "first.json")
    export(source, "transformer", tmp_path / "out", weight_dtype="Q8_0")
    [gguf] = (tmp_path / "out").rglob("*.gguf")
    overlay = materialize(CHECKPOINT, components=[gguf], output=tmp_path / "second.json")
    state, want = states(overlay, "model", now=True)[0], official("model")
    assert set(state) == set(want)
    name = "transformer_blocks.0.attn1.to_q.weight"
    assert not is_kept(overlay.require("transformer").tensors[name], KNOWN)
    assert state[name].dtype == torch.bfloat16
    assert float((state[name].float() - want[name]).norm() / want[name].norm()) < 0.01


def test_what_stops_a_copy_is_what_the_user_hears(tmp_path: Path) -> None:
    """torch makes a RuntimeError with a list of texts of it."""
    overlay, written = described(QUANTISED[1], tmp_path)
    name = next(name for _, name in written.numbers)

    class Cancelled(Exception):
        pass

    def cancel() -> None:
        raise Cancelled

    with pytest.raises(Cancelled), opened((), now=False, check=cancel) as state:
        made = state(native_part(overlay, "model")[0])[0][name]
        torch.nn.Linear(made.shape[1], made.shape[0], bias=False).load_state_dict({"weight": made})


def test_a_mapped_tensor_is_the_file_and_never_changes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.arange(6.0).view(2, 3)}, path)
    before = path.read_bytes()
    ref = TensorRef(path, "F32", (2, 3), len(before) - 24, len(before), SourceFile.of(path))
    tensor = MappedFiles().tensor(ref)
    assert torch.equal(tensor, torch.arange(6.0).view(2, 3))
    tensor.add_(1)
    assert path.read_bytes() == before
    odd = tmp_path / "odd.bin"
    odd.write_bytes(b"\0" + before[-24:])
    assert torch.equal(MappedFiles().tensor(TensorRef(odd, "F32", (2, 3), 1, 25)), torch.arange(6.0).view(2, 3))
    path.write_bytes(before + b"\0")
    with pytest.raises(OverlayError, match="changed after the overlay was made"):
        MappedFiles().tensor(ref)


@pytest.mark.parametrize("writer", FILES, ids=lambda writer: writer.__name__)
def test_names_of_the_true_size(writer: Callable[[Path], Path], tmp_path: Path) -> None:
    """`tests/host/native_in_process.py` compares them with ComfyUI's own classes."""
    overlay = materialize(writer(tmp_path), output=tmp_path / "overlay.json")
    names = set(native_part(overlay, "model")[0].tensors)
    assert len(names) == 4444 and "transformer_blocks.47.attn1.to_q.weight" in names
    if "vocoder" in overlay.components:
        for part in ("vae", "audio_vae"):
            assert not made_sizes(native_part(overlay, part), KNOWN)


def test_comfyuis_clip_can_only_be_gemma_12b(tmp_path: Path) -> None:
    """Its class has the size built in: any other would take 24 GB and then fail."""
    overlay, _ = described(UNQUANTISED[0], tmp_path)
    with pytest.raises(OverlayError, match="the overlay has no text_encoder"):
        native_part(overlay, "clip")
    written = UNQUANTISED[0](tmp_path)
    overlay = materialize(written.checkpoint, GEMMA, output=tmp_path / "second.json")
    with pytest.raises(OverlayError, match=r"has 7 layers of width 32.*Gemma 3 12B .*Context To Native"):
        native_part(overlay, "clip")
    assert set(PARTS) == {"model", "clip", "vae", "audio_vae"}
