"""`matmul_dtype`: a whole run whose products are of 8-bit codes, its error, and what is refused."""
from __future__ import annotations

import pytest
import torch

from ltx23_core import Lora, Pipeline
from ltx23_core.arithmetic import MATMUL_DTYPES
from ltx23_core.errors import RequestError
from ltx23_core.ops.matmul import _joined
from ltx23_core.plan import settings
from ltx23_core.quant.layers import QuantLinear
from ltx23_core.runtime.policy import Streamed, Whole
from tests.goldens.harness import CHECKPOINT

RUN = {"recipe": "one_stage", "width": 128, "height": 64, "frames": 25, "seed": 3, "steps": 4}
LORA = CHECKPOINT.parent / "ltx-2.3-tiny-distilled-lora.safetensors"
# Relative L2 of the video latent after four guided steps to numbers, in float32; largest seen and half more.
WHOLE_RUN = {"fp8": 0.3, "int8": 0.1}


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


@pytest.fixture(scope="module")
def pair(tiny_pipeline):
    return tiny_pipeline.encode("a boat on a lake", "noise")


def pipeline(overlay, **options) -> Pipeline:
    return Pipeline(overlay, device="cpu", dtype="fp32", **options)


def direct(pipe: Pipeline) -> int:
    layers = pipe.component("transformer").module.transformer_blocks.modules()
    return sum(isinstance(layer, QuantLinear) and layer.direct for layer in layers)


@pytest.mark.parametrize("name", ["fp8", "int8"])
def test_a_whole_run(name, tiny_overlay, tiny_pipeline, pair):
    pipe = pipeline(tiny_overlay, matmul_dtype=name)
    weights = pipeline(tiny_overlay, weight_dtype={"fp8": "fp8_e4m3fn", "int8": "int8"}[name])
    assert len({each.overlay.id for each in (pipe, weights, tiny_pipeline)}) == 3  # a resumed run must not mix them
    want, rounded, got = (each.sample(pair, **RUN) for each in (tiny_pipeline, weights, pipe))
    assert direct(pipe) == 28 * pipe.transformer_config.layers and direct(weights) == 0
    both, alone = error(got.video, want.video), error(rounded.video, want.video)
    print(f"{name}: weights {alone:.1e}, products too {both:.1e}")
    assert 0 < both < WHOLE_RUN[name] and not torch.equal(got.video, rounded.video)
    assert torch.equal(pipe.sample(pair, **RUN).video, got.video)
    component = pipe.component("transformer")
    component.place(Streamed(1), torch.device("cpu"))
    assert component.streamed and torch.equal(pipe.sample(pair, **RUN).video, got.video)
    component.place(Whole(), torch.device("cpu"))
    assert torch.equal(pipe.sample(pair, **RUN).video, got.video)


@pytest.mark.parametrize("name", ["fp8", "int8"])
def test_codes_of_one_product_lie_together(name, tiny_overlay):
    """A resident model's products of codes copy nothing; what is read is what it would be apart."""
    pipe = pipeline(tiny_overlay, matmul_dtype=name)
    component = pipe.component("transformer")
    component.load(torch.device("cpu"))
    for block in component.module.transformer_blocks:
        assert not block._forward_pre_hooks, "no numbers are made, so that a forward can be recorded"
        pieces = {each.untyped_storage().data_ptr() for each in block.state_dict().values()}
        assert len(pieces) == 1
        for part in block.modules():
            for names in getattr(part, "together", ()):
                layers = [getattr(part, each) for each in names if each != "to_gate_logits"]
                for kind in ("weight", "weight_scale", "bias"):
                    assert _joined([getattr(layer, kind) for layer in layers]) is not None, kind


@pytest.mark.parametrize("mode", ["auto", "runtime"])
def test_loras_come_and_go(mode, tiny_overlay, pair):
    run = {**RUN, "recipe": "distilled_one_stage"}  # no guidance, which would multiply differences
    del run["steps"]
    lora = [Lora(LORA, 0.5, mode=mode)]
    pipe, weights = pipeline(tiny_overlay, matmul_dtype="int8"), pipeline(tiny_overlay, weight_dtype="int8")
    base = pipe.sample(pair, **run).video
    changed = pipe.with_loras(lora).sample(pair, **run).video
    want = weights.with_loras(lora).sample(pair, **run).video
    of_lora, of_products = error(changed, base), error(changed, want)
    print(f"{mode}: the LoRA changes {of_lora:.1e}, products {of_products:.1e}")
    assert 0 < of_products < of_lora / 2
    assert torch.equal(pipe.sample(pair, **run).video, base)


@pytest.mark.parametrize(("options", "said"), [
    ({"matmul_dtype": "fp4"}, "matmul_dtype is 'fp4'"),
    ({"matmul_dtype": "fp8", "weight_dtype": "Q8_0"}, "matmul_dtype fp8 with weights in Q8_0"),
    ({"matmul_dtype": "fp8", "weight_dtype": "int8"}, "matmul_dtype fp8 with weights in int8"),
    ({"matmul_dtype": "int8", "weight_dtype": "fp8_scaled"}, "matmul_dtype int8 with weights in fp8"),
])
def test_what_is_refused_before_anything_is_read(options, said, tiny_overlay):
    with pytest.raises(RequestError, match=said):
        pipeline(tiny_overlay, **options)


def test_one_scale_for_a_matrix_is_taken_too(tiny_overlay, pair):
    """As in the official fp8 files."""
    pipe = pipeline(tiny_overlay, matmul_dtype="fp8", weight_dtype="fp8_scaled")
    assert torch.isfinite(pipe.sample(pair, **RUN).video).all() and direct(pipe)


def test_names_are_those_that_users_see():
    assert settings.MATMUL_DTYPES == MATMUL_DTYPES
