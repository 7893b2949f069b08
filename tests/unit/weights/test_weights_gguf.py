"""GGUF weights in modules: kept as blocks, exact numbers when used, LoRAs, memory, whole runs."""
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ltx23_core import Overlay, Pipeline, materialize
from ltx23_core.errors import OverlayError
from ltx23_core.lora.plan import LoraUse, lora_pairs
from ltx23_core.models.registry import build
from ltx23_core.overlay.bytes.gguf import read_gguf
from ltx23_core.overlay.bytes.source import QuantRef
from ltx23_core.overlay.lora.dialects import read_lora
from ltx23_core.quant.layers import QuantEmbedding, QuantLinear, QuantWeight
from ltx23_core.runtime.component import META, Component
from ltx23_core.runtime.load import load_module
from ltx23_core.weights.reader import read_tensors
from tests.goldens.harness import CHECKPOINT, GEMMA, companion
from tests.goldens.harness import overlay as official
from tests.support.gguf import gemma_gguf, k_mix, q8, transformer_gguf
from tests.support.layouts import split_prefixed
from tests.support.overlay import refuses

RUN = {"width": 64, "height": 64, "frames": 9, "steps": 2, "seed": 3}
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


class Files:
    """GGUF files of the tiny model and the numbers that they stand for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.transformer, self.gemma = folder / "mix.gguf", folder / "gemma.gguf"
        self.numbers = transformer_gguf(self.transformer, k_mix)
        self.gemma_numbers = gemma_gguf(self.gemma)
        self.rest = split_prefixed(folder).arguments["components"]
        self.overlay = materialize(self.transformer, self.gemma, components=self.rest,
                                   distilled_lora=companion("distilled-lora"), output=folder / "gguf.json")
        self.dense = self.dense_overlay()

    def dense_overlay(self) -> Overlay:
        """The same model with the dequantised numbers in float32."""
        main = self.folder / "dense.safetensors"
        save_file({name: torch.from_numpy(value) for name, value in self.numbers.items()}, main,
                  {"config": read_gguf(self.transformer).metadata["config"]})
        text = self.folder / "gemma"
        text.mkdir()
        save_file({"model." + name: torch.from_numpy(value) for name, value in self.gemma_numbers.items()},
                  text / "model.safetensors")
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
            (text / name).write_bytes((GEMMA / name).read_bytes())
        return materialize(main, text, components=self.rest, distilled_lora=companion("distilled-lora"),
                           output=self.folder / "dense.json")

    def module(self, overlay: Overlay, component: str, dtype: torch.dtype, loras: list[LoraUse] = (),
               device: str = "cpu") -> nn.Module:
        entry = overlay.require(component)
        built = build(component, entry.config)
        load_module(built, entry.tensors, device, dtype, loras=loras)
        return built


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("gguf"))


def same_numbers(got: Mapping[str, Tensor], want: Mapping[str, np.ndarray]) -> None:
    assert got.keys() == want.keys()
    wrong = [name for name, value in want.items() if not np.array_equal(got[name].numpy(), value)]
    assert not wrong, wrong


def test_every_number_is_that_of_the_package(files: Files) -> None:
    overlay = Overlay.load(files.overlay.path)
    assert overlay == files.overlay and overlay.layout.startswith("transformer without prefix")
    got = dict(read_tensors(overlay.require("transformer").tensors, "cpu", torch.float32))
    got |= dict(read_tensors(overlay.require("connectors").tensors, "cpu", torch.float32))
    same_numbers(got, files.numbers)
    same_numbers(dict(read_tensors(overlay.require("text_encoder").tensors, "cpu", torch.float32)),
                 files.gemma_numbers)
    formats = {ref.format for ref in overlay.require("transformer").tensors.values() if isinstance(ref, QuantRef)}
    assert formats >= {"Q4_0", "Q5_1", "Q8_0", "Q4_1", "Q5_0", "IQ4_NL"} and len(formats) >= 8


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("strengths", [(), (1.0,), (0.7, -0.4)])
def test_layers_compute_with_exactly_these_numbers(files: Files, strengths: tuple[float, ...], dtype: torch.dtype,
                                                   device: str) -> None:
    """With LoRAs too: fused at each use is bit for bit fused into the dequantised weight."""
    loras = [LoraUse(lora_pairs(files.overlay.require("distilled_lora").tensors), s) for s in strengths]
    quant, dense = (files.module(o, "transformer", dtype, loras, device) for o in (files.overlay, files.dense))
    layers = {name: layer for name, layer in quant.named_modules() if isinstance(layer, QuantLinear)}
    assert len(layers) > 80
    for name, layer in layers.items():
        want = dense.get_submodule(name)
        x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(1)).to(device, dtype)
        assert layer.weight.dtype == torch.uint8 and layer.numbers().dtype == dtype
        assert torch.equal(layer.numbers(), want.weight), name
        assert torch.equal(layer(x), want(x)), name
        assert len(list(layer.buffers())) == 1 + 2 * len(strengths)


def test_every_kind_of_update_on_quantised_weights(files: Files, tmp_path: Path) -> None:
    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=torch.Generator().manual_seed(sum(size))) / 8

    block = "diffusion_model.transformer_blocks.0."
    save_file({block + "attn1.to_q.lora_A.weight": random(3, 64), block + "attn1.to_q.lora_B.weight": random(64, 3),
               block + "attn1.to_q.alpha": torch.tensor(2.0), block + "attn1.to_q.dora_scale": random(64, 1) + 2,
               block + "attn1.to_k.lokr_w1": random(4, 4), block + "attn1.to_k.lokr_w2": random(16, 16),
               block + "attn1.to_v.diff": random(64, 64), block + "attn1.to_v.diff_b": random(64),
               block + "scale_shift_table.diff": random(9, 64),
               "diffusion_model.proj_out.set_weight": random(8, 64)}, tmp_path / "lora.safetensors")
    shapes = {name: tuple(value.shape) for name, value in
              build("transformer", files.overlay.require("transformer").config).state_dict().items()}
    lora = read_lora(tmp_path / "lora.safetensors", {"transformer": shapes})
    assert not lora.unused and len(lora.updates["transformer"]) == 6
    use = LoraUse(lora.updates["transformer"], 0.6)
    plain, changed = (files.module(files.dense, "transformer", torch.float32, u) for u in ([], [use]))
    quant = files.module(files.overlay, "transformer", torch.float32, [use])
    for name in use.updates:
        layer = quant.get_submodule(name.rpartition(".")[0])
        blocks = isinstance(layer, QuantWeight) and name.endswith("weight")
        got = layer.numbers() if blocks else quant.state_dict()[name]
        assert torch.equal(got, changed.state_dict()[name]) and not torch.equal(got, plain.state_dict()[name]), name


def test_memory_is_that_of_the_blocks(files: Files) -> None:
    for name in ("transformer", "text_encoder"):
        entry = files.overlay.require(name)
        loras = [LoraUse(lora_pairs(files.overlay.require("distilled_lora").tensors), 1.0)] * (name == "transformer")
        for used in ([], loras):
            component = Component(name, lambda n=name, e=entry: build(n, e.config), entry.tensors, torch.bfloat16,
                                  loras=used)
            dense = sum(np.prod(ref.shape) for ref in entry.tensors.values()) * 2
            expected = component.size_bytes
            assert used or expected < 0.75 * dense
            for _ in range(2):  # loading again after release
                assert component.load(torch.device("cpu")) == expected == component.loaded_bytes
                real = [*component.module.parameters(), *(
                    buffer for layer in component.module.modules() if isinstance(layer, QuantWeight)
                    for name, buffer in layer.named_buffers(recurse=False) if name != "embed_scale")]
                assert sum(t.numel() * t.element_size() for t in real) == expected
                component.release()
                assert component.loaded_bytes == 0 and component.device == META
                assert all(t.is_meta for layer in component.module.modules() if isinstance(layer, QuantWeight)
                           for t in layer.buffers())


def test_embedding_of_gemma(files: Files) -> None:
    quant, dense = (files.module(o, "text_encoder", torch.bfloat16) for o in (files.overlay, files.dense))
    assert isinstance(quant.embed_tokens, QuantEmbedding)
    from ltx23_core.models.text.gemma import hidden_states
    for got, want in zip(hidden_states(quant, [2, 17, 400, 9]), hidden_states(dense, [2, 17, 400, 9]), strict=True):
        assert torch.equal(got, want)


def run(overlay: Overlay) -> dict[str, Tensor]:
    pipe = Pipeline(overlay, device="cpu", dtype="fp32")
    context = pipe.encode("a boat on a lake", "noise")
    latents = pipe.sample(context, **RUN)
    return {"context": context.positive.video, "video": latents.video, "audio": latents.audio}


def test_whole_run_equals_the_dequantised_model(files: Files) -> None:
    got, want = run(files.overlay), run(files.dense)
    for name in want:
        assert torch.isfinite(want[name]).all() and torch.equal(got[name], want[name]), name


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("connectors", [True, False])
def test_q8_is_close_to_the_original(prefix: str, connectors: bool, tmp_path: Path) -> None:
    """Without connectors they come from another file; without `config` from another source's."""
    path = tmp_path / "q8.gguf"
    transformer_gguf(path, q8, connectors=connectors, prefix=prefix, config=False, architecture="pig")
    overlay = materialize(CHECKPOINT, GEMMA, components=[path], output=tmp_path / "o.json")
    assert next(iter(overlay.require("transformer").tensors.values())).path == path
    kept = {ref.path for ref in overlay.require("connectors").tensors.values()}
    assert kept == {path if connectors else CHECKPOINT}
    got, want = run(overlay), run(official())
    for name in want:
        error = ((got[name] - want[name]).norm() / want[name].norm()).item()
        print(name, error)
        assert 0 < error < 0.05 or (name == "context" and not connectors and error == 0)


def test_folders_with_gguf_files(files: Files, tmp_path: Path) -> None:
    """Files are found in a folder; a GGUF and a safetensors file of one name are two files, and one too many."""
    for name, source in {"main/ltx.gguf": files.transformer, "text/gemma.gguf": files.gemma,
                         **{f"main/{path.name}": path for path in files.rest}}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(source)
    overlay = materialize(tmp_path / "main", tmp_path / "text", output=tmp_path / "o.json")
    assert overlay.layout == files.overlay.layout
    assert next(iter(overlay.require("text_encoder").tensors.values())).path.name == "gemma.gguf"
    (tmp_path / "main" / "ltx.safetensors").symlink_to(files.folder / "dense.safetensors")
    with refuses(OverlayError, "two files with the component", "ltx.gguf", "ltx.safetensors"):
        materialize(tmp_path / "main", GEMMA, output=tmp_path / "o.json")


def test_unreadable_types_and_foreign_models(tmp_path: Path) -> None:
    from tests.support.gguf import finish, gguf
    writer = gguf.GGUFWriter(tmp_path / "llama.gguf", "llama")
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((32, 32), np.float32))
    finish(writer)
    with refuses(OverlayError, "llama.gguf is "):
        materialize(tmp_path / "llama.gguf", GEMMA)
    writer = gguf.GGUFWriter(tmp_path / "iq.gguf", "ltxv")
    writer.add_tensor("transformer_blocks.0.attn1.to_q.weight", np.zeros((4, 66), np.uint8),
                      raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS)
    finish(writer)
    with refuses(OverlayError, "1 tensors of type IQ2_XXS"):
        materialize(tmp_path / "iq.gguf", GEMMA)


def test_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    transformer_gguf(path)
    overlay = materialize(CHECKPOINT, GEMMA, components=[path], output=tmp_path / "o.json")
    assert json.loads(overlay.path.read_text())["format"]
    with open(path, "r+b") as file:
        file.seek(30)
        file.write(b"x")
    with refuses(OverlayError, "m.gguf changed after the overlay was made"):
        Overlay.load(overlay.path)
