"""torch.compile of a block's parts: no graph breaks, and nothing is compiled anew over what changes from run to run."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from bench.models import Work, compile_parts, config_22b, random_transformer
from ltx23_core.config import TransformerConfig
from ltx23_core.geometry import audio_latent_length, video_grid
from ltx23_core.models.transformer.inputs import Pass, Perturbation

CPU = torch.device("cpu")


def sized(work: Work, width: int, height: int, frames: int) -> Work:
    """The same with other latents."""
    grid, length = video_grid(width, height, frames), audio_latent_length(frames, work.fps)
    video, audio = torch.randn(1, grid.tokens, 128), torch.randn(1, length, work.latents[1].shape[2])
    return replace(work, grid=grid, latents=(video, audio))


@pytest.mark.skipif(not hasattr(torch.nn.Module, "compile"), reason="this torch compiles no modules in place")
@torch.no_grad()
def test_steps_sizes_sigmas_and_passes_compile_nothing_anew():
    torch._dynamo.reset()
    counters.clear()
    raw = config_22b(tiny=True)
    model = random_transformer(raw, CPU, torch.float32)
    first = Work.make("tiny", TransformerConfig.from_dict(raw), CPU, torch.float32, 32)
    v, a, nv, na = first.contexts
    skip = frozenset((1,))
    passes = {"one": [Pass(v, a)], "four": [Pass(v, a), Pass(nv, na), Pass(v, a, Perturbation(skip, skip)),
                                            Pass(v, a, Perturbation(cross=True))]}
    want = first.ours(model)()
    counted = CompileCounter()
    parts = compile_parts(model, backend=counted, dynamic=True)
    assert parts == 8 * len(model.transformer_blocks)

    def run(work: Work, count: str) -> list:
        tables = model.tables(*work.positions(), torch.float32)
        return model(*work.streams(), passes[count], tables)

    assert torch.allclose(run(first, "one")[0][0], want[0][0], atol=1e-5)
    run(first, "four")
    compiled = counted.frame_count
    print(f"{compiled} graphs for {parts} parts")
    assert 0 < compiled <= 12 and not counters["graph_break"]
    for size in ((192, 64, 17), (128, 128, 25)):
        for sigma in (0.9, 0.3):
            for count in passes:
                work = sized(first, *size)
                work.sigma.fill_(sigma)
                assert torch.isfinite(run(work, count)[0][0]).all()
    assert counted.frame_count == compiled and not counters["graph_break"]
    torch._dynamo.reset()
