"""Fused operations: each form against float64, and the forms against each other.

Triton's forms run compiled on a GPU, else in Triton's interpreter where Triton is installed.
"""
from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, rms_norm

from ltx23_core.ops import pick
from ltx23_core.ops.attention import FEW, MANY, order
from ltx23_core.ops.gates import gate_heads
from ltx23_core.ops.gelu import linear_gelu
from ltx23_core.ops.matmul import linears, pack, packed
from ltx23_core.ops.modulate import Modulation, Update, add_norm_modulate, modulated, per_token
from ltx23_core.ops.norms import norm_rope, norm_rope_pair
from ltx23_core.ops.rope import apply_rope, rope_rows, rope_tables

ROOT = Path(__file__).resolve().parents[3]
pytest_plugins = "tests.support.kernel_forms"  # `form`

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HAS_TRITON = importlib.util.find_spec("triton") is not None
EPS = 1e-6
# ‖a − b‖ / ‖b‖ against float64, the largest seen on CPU (torch 2.13, Triton 3.6 interpreted) and doubled
BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 6e-3}


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def dtype(request):
    return request.param


def random(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def error(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


def agrees(name, got, want, dtype):
    value = error(got, want)
    print(f"{name}: {value:.1e}")
    assert got.dtype == dtype and got.shape == want.shape and value <= BOUNDS[dtype], name


def tables(tokens, width, axes=3, dtype=torch.float32):
    middles = random(1, axes, tokens, seed=9).abs()
    return rope_tables(middles, width, (20.0, 2048.0, 2048.0)[:axes], 1e4, dtype)


def exact_norm_rope(x, weight, rope, heads):
    normed = rms_norm(x.double(), weight.shape, weight.double(), EPS)
    return normed if rope is None else apply_rope(normed, (rope[0].double(), rope[1].double()), heads)


@pytest.mark.parametrize(("width", "heads"), [(4096, 32), (2048, 32), (64, 4)])
@torch.no_grad()
def test_norm_and_rope(form, dtype, width, heads):
    product = random(2, 7, 3 * width + heads, dtype=dtype)  # rows of a wider product: parts are strided
    weights = [1 + 0.1 * random(width, dtype=dtype, seed=s) for s in (1, 2)]
    rope = tables(7, width, dtype=dtype)
    query, key, kept, _ = product.split([width, width, width, heads], -1)

    def both(positions):
        """Of copies: what is given may be written over."""
        one, two, _, _ = product.clone().split([width, width, width, heads], -1)
        return norm_rope_pair((one, weights[0]), (two, weights[1]), positions, heads, EPS)

    one, two = both(rope)
    agrees("query", one, exact_norm_rope(query, weights[0], rope, heads), dtype)
    agrees("key", two, exact_norm_rope(key, weights[1], rope, heads), dtype)
    assert one.stride(-1) == 1 and two.stride(-1) == 1
    plain = norm_rope(query.clone(), weights[0], None, heads, EPS)
    agrees("no positions", plain, exact_norm_rope(query, weights[0], None, heads), dtype)
    assert torch.equal(norm_rope(key.clone(), weights[1], rope, heads, EPS), two), "alone or as a pair"
    each = tuple(torch.cat((table, table.flip(1))) for table in rope)  # tables of every sample
    agrees("tables of every sample", both(each)[0], exact_norm_rope(query, weights[0], each, heads), dtype)
    assert torch.equal(both(None)[0], plain)
    before = kept.clone()
    norm_rope_pair((query, weights[0]), (key, weights[1]), rope, heads, EPS)
    assert torch.equal(kept, before), "beside them nothing is written"


GRID = torch.cartesian_prod(torch.arange(3) / 24 + 0.02, torch.arange(2) * 32.0 + 16, torch.arange(4) * 32.0 + 16)
SCATTERED = torch.cat((GRID, GRID[5:9] + torch.tensor([0.1, 0.0, 0.0]), GRID[:3]))  # with a keyframe, and repeated


@pytest.mark.parametrize("width", [4096, 2048, 64])
@pytest.mark.parametrize("axes", [3, 1])
@torch.no_grad()
def test_rope_by_position_gives_the_bytes_of_whole_tables(form, dtype, width, axes):
    heads = 32 if width > 64 else 4
    for positions in (GRID, SCATTERED):
        middles = positions.t()[None, :axes].to(DEVICE)
        given = middles, width, (20.0, 2048.0, 2048.0)[:axes], 1e4, dtype
        rows, whole = rope_rows(*given), rope_tables(*given)
        assert all(torch.equal(a, b) for a, b in zip(rows.whole(), whole, strict=True))
        assert rows.cos.shape[0] == sum(len(set(middles[0, axis].tolist())) for axis in range(axes))
        x, weight = random(1, len(positions), width, dtype=dtype), 1 + 0.1 * random(width, dtype=dtype, seed=1)
        got, want = (norm_rope(x.clone(), weight, rope, heads, EPS) for rope in (rows, whole))
        assert torch.equal(got, want)
    batch = torch.stack((GRID.t(), GRID.t() * 0.5))[:, :axes].to(DEVICE)  # other positions in each sample
    rows, whole = (make(batch, *given[1:]) for make in (rope_rows, rope_tables))
    x = random(2, len(GRID), width, dtype=dtype)
    got, want = (norm_rope(x.clone(), weight, rope, heads, EPS) for rope in (rows, whole))
    assert torch.equal(got, want)


@pytest.mark.parametrize("width", [4096, 2048, 48])
@pytest.mark.parametrize("rows", ["one", "by index", "per token"])
@torch.no_grad()
def test_add_norm_modulate(form, dtype, width, rows):
    tokens = 7
    count = {"one": 1, "by index": 3, "per token": tokens}[rows]
    index = torch.arange(tokens, device=DEVICE) * 2 % 3 if rows == "by index" else None
    table = random(2, count, 9, width, dtype=dtype, seed=1)
    parts = [Modulation(table[:, :, i], table[:, :, i + 1], table[:, :, i + 2]) for i in (0, 3)]
    x, value = random(2, tokens, width, dtype=dtype), random(2, tokens, width, dtype=dtype, seed=2)
    gates = {"own": table[:, :, 8], "one for all": random(2, 1, width, dtype=dtype, seed=3)}

    def exact(update, part):
        h = x.double()
        if update is not None:
            h = h + update.value.double() * per_token(update.gate.double(), index)
            h = h.to(dtype).double()
        normed = rms_norm(h, (width,), None, EPS)
        return h, modulated(normed, Modulation(part.shift.double(), part.scale.double()), index)

    before = x.clone()
    for name, gate in gates.items():
        for update in (None, Update(value, gate)):
            for wanted in ([], parts[:1], parts):
                kept, outs = add_norm_modulate(x, update, wanted, index, EPS)
                assert len(outs) == len(wanted) and torch.equal(x, before)
                agrees(f"stream, gate {name}", kept, exact(update, parts[0])[0], dtype)
                for out, part in zip(outs, wanted, strict=True):
                    agrees(f"modulated, gate {name}", out, exact(update, part)[1], dtype)


@torch.no_grad()
def test_gates(form, dtype):
    for heads, width in ((32, 128), (32, 64), (4, 8)):
        logits = random(2, 7, heads + 5, dtype=dtype, seed=1)[..., 2:2 + heads]
        tokens_first = random(2, 7, heads, width, dtype=dtype)
        for attended in (tokens_first, tokens_first.transpose(1, 2).contiguous().transpose(1, 2)):
            got = gate_heads(attended.clone(memory_format=torch.preserve_format), logits)
            want = (attended.double() * 2 * torch.sigmoid(logits.double())[..., None]).flatten(2)
            agrees(f"{heads} heads of {width}", got, want, dtype)
            assert got.is_contiguous()


@torch.no_grad()
def test_gelu(form, dtype):
    layer = nn.Linear(64, 256, device=DEVICE, dtype=dtype)
    x = 3 * random(2, 7, 64, dtype=dtype)
    want = gelu(nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double()), approximate="tanh")
    agrees("plain layer", linear_gelu(x, layer), want, dtype)

    class Other(nn.Linear):
        """What stands in a layer's place has no epilogue."""

    other = Other(64, 256, device=DEVICE, dtype=dtype)
    other.load_state_dict(layer.state_dict())
    agrees("another kind of layer", linear_gelu(x, other), want, dtype)


class Layers(nn.Module):
    def __init__(self, sizes=(16, 16, 8, 4)):
        super().__init__()
        self.q, self.k, self.v, self.gate = (nn.Linear(32, n, device=DEVICE) for n in sizes)

    together = (("q", "k", "v", "gate"),)

    def all(self):
        return [self.q, self.k, self.v, self.gate]


@torch.no_grad()
def test_packed_layers_are_one_product_under_their_names():
    module, x = Layers(), random(2, 7, 32)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    apart = linears(x, module.all())
    assert packed(module.all()) is None
    for one, layer in zip(apart, module.all(), strict=True):
        assert torch.allclose(one, layer(x), atol=1e-6)
    pack(module)
    weight, bias = packed(module.all())
    assert weight.shape == (44, 32) and bias.shape == (44,)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    for one, other in zip(linears(x, module.all()), apart, strict=True):
        assert torch.equal(one, other), "the same bytes, wherever the weights lie"
    module.k.weight.add_(1)  # as a fused LoRA does: in place
    assert torch.equal(weight[16:32], module.k.weight)
    assert torch.allclose(linears(x, module.all())[1], module.k(x), atol=1e-5)


@torch.no_grad()
def test_what_is_not_together_is_seen():
    module, x = Layers(), random(2, 7, 32)
    pack(module)
    assert packed([module.k, module.q]) is None, "another order"
    assert packed([module.q, module.v]) is None, "a gap"

    class Beside(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    plain = linears(x, module.all())
    other = Beside(32, 16, device=DEVICE)
    other.weight, other.bias = module.k.weight, module.k.bias
    module.k = other
    assert torch.allclose(linears(x, module.all())[1], plain[1] + 1, atol=1e-5), "a layer with a way of its own"
    module = Layers()
    pack(module)
    module.k.weight = nn.Parameter(module.k.weight.clone())
    assert packed([module.q, module.k]) is None
    module.to("meta")
    assert packed(module.all()) is None
    pack(module)
    assert module.q.weight.is_meta


def test_training_takes_the_torch_forms(form):
    x = random(1, 3, 64).requires_grad_()
    kept, [out] = add_norm_modulate(x, None, [Modulation(random(1, 1, 64), random(1, 1, 64))], None, EPS)
    out.sum().backward()
    assert x.grad is not None and kept is x


NAMED = """
import importlib.util, sys
folder = sys.argv[1]
name = folder.replace(".", "_x_")  # how ComfyUI names a pack: after its path
spec = importlib.util.spec_from_file_location(name, folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules[name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
pick = importlib.import_module(name + ".ltx23_core.ops.pick")
norms = importlib.import_module(name + ".ltx23_core.ops.norms")
import torch
device = "cuda" if torch.cuda.is_available() else "cpu"
x, weight = torch.randn(1, 3, 64, device=device), torch.ones(64, device=device)
results = []
for form in ("triton", "torch"):
    pick.choose(form)
    assert pick.prepare() == (form == "triton"), form
    with torch.no_grad():
        results.append(norms.norm_rope(x, weight, None, 4, 1e-6))
assert torch.allclose(*results, atol=1e-5)
print("equal under", norms.__name__)
"""


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
def test_kernels_work_under_the_name_that_comfyui_gives(tmp_path):
    pack_folder = tmp_path / "my packs.v2" / "ltx-2.3 nodes"
    pack_folder.mkdir(parents=True)
    (pack_folder / "__init__.py").write_text("")
    (pack_folder / "ltx23_core").symlink_to(ROOT / "ltx23_core", target_is_directory=True)
    interpreted = {} if DEVICE == "cuda" else {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", NAMED, str(pack_folder)], capture_output=True, text=True, timeout=300,
                          env={**os.environ, **interpreted})
    assert done.returncode == 0, done.stderr
    assert "my packs_x_v2" in done.stdout


def test_without_triton_the_torch_forms_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # import raises ImportError
    for name in [name for name in sys.modules if name.startswith("ltx23_core.ops.triton")]:
        monkeypatch.delitem(sys.modules, name)
    pick.choose("triton")
    try:
        assert not pick.prepare() and pick.kernels("norms", random(1, 3, 64)) is None
    finally:
        pick.choose("auto")


# (samples, heads, queries, head width), keys, who comes first: what `bench ops` measured on an H100
SHAPES = {"frames": ((1, 32, 6144, 128), 6144, MANY), "text": ((1, 32, 6144, 128), 1024, MANY),
          "sound to frames": ((1, 32, 32640, 64), 126, MANY), "frames to sound": ((1, 32, 126, 64), 6144, FEW),
          "frames to long sound": ((1, 32, 501, 64), 120000, MANY), "sound": ((1, 32, 126, 64), 126, MANY),
          "two samples": ((2, 32, 126, 64), 32640, FEW), "three samples": ((3, 32, 126, 64), 32640, MANY)}


@pytest.mark.parametrize("name", SHAPES)
def test_order_of_attention_kernels(name):
    shape, keys, want = SHAPES[name]
    assert order(shape, keys) == want
