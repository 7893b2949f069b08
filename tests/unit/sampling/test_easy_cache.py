"""EasyCache: which calls are left out, what stands in their place, and what a whole run loses."""
from __future__ import annotations

import pytest
import torch

from ltx23_core.errors import RequestError
from ltx23_core.models.transformer.inputs import StreamInput
from ltx23_core.models.transformer.model import Transformer
from ltx23_core.sampling.easy_cache import FIRST, EasyCache

RUN = {"recipe": "one_stage", "width": 128, "height": 64, "frames": 25, "seed": 3, "steps": 12}


def stream(values: torch.Tensor) -> StreamInput:
    return StreamInput(values, torch.ones(1), torch.ones(1, 1))


class Model:
    """Velocities 2 x and -x of two passes; counts its calls."""

    def __init__(self, inputs: dict[str, StreamInput]) -> None:
        self.inputs, self.calls = inputs, 0

    def __call__(self) -> list[tuple[torch.Tensor | None, torch.Tensor | None]]:
        self.calls += 1
        return [tuple(factor * each.latent for each in self.inputs.values()) for factor in (2, -1)]


def walk(cache: EasyCache, xs: list[torch.Tensor], keys: list[str] | None = None) -> list[tuple[bool, list]]:
    """For each x of both streams (the sound's is half): whether the model was called, and what came of it."""
    found = []
    for number, x in enumerate(xs):
        inputs = {"video": stream(x), "audio": stream(x / 2)}
        model = Model(inputs)
        made = cache(inputs, (keys or ["same"] * len(xs))[number], model)
        found.append((model.calls == 1, made))
    return found


def test_what_is_left_out_and_what_stands_in_its_place():
    """v = 2 x: its rate of change is 2; from x to x + 0.1 the expected relative change is 2 · 0.1 / 2 x = 0.1 / x."""
    xs = [torch.full((1, 2, 3), 1 + 0.1 * step) for step in range(9)]
    cache = EasyCache(0.15)
    found = walk(cache, xs)
    # 0.1 / 1.3 = 0.077 is left out. v stands at 1.4 + 1.3 = 2.7 then, and 2 · 0.1 / 2.7 = 0.074 more reaches 0.151.
    assert [called for called, _ in found] == [True] * FIRST + [False, True, False, True, False]
    assert (cache.made, cache.left_out) == (6, 3)
    (video, audio), (other, _) = found[4][1]
    x, last = xs[4], xs[3]
    assert torch.allclose(video, x + (2 * last - last)) and torch.allclose(audio, x / 2 + last / 2)
    assert torch.allclose(other, x + (-last - last))
    exact, _ = found[5][1][0]
    assert torch.equal(exact, 2 * xs[5])


def test_the_stream_that_changes_more_decides():
    cache = EasyCache(0.2)
    for step in range(FIRST + 3):
        x = torch.ones(1, 2, 3)
        inputs = {"video": stream(x + 1e-4 * step), "audio": stream(x * 2**step)}
        model = Model(inputs)
        cache(inputs, "same", model)
        assert model.calls == 1


def test_other_passes_begin_anew():
    xs = [torch.full((1, 2, 3), 1 + 0.01 * step) for step in range(8)]
    found = walk(EasyCache(0.5), xs, ["a"] * 5 + ["b"] * 3)
    # Of the new passes two calls are needed before there is a rate.
    assert [called for called, _ in found] == [True] * 4 + [False, True, True, False]


def test_streams_that_are_not_there_stay_away():
    cache, x = EasyCache(0.5), torch.ones(1, 2, 3)
    for step in range(6):
        inputs = {"audio": stream(x + 0.01 * step)}
        made = cache(inputs, "same", lambda given=inputs: [(None, given["audio"].latent * 2)])
        assert made[0][0] is None and made[0][1] is not None
    assert cache.left_out == 2


@pytest.fixture(scope="module")
def pair(tiny_pipeline):
    return tiny_pipeline.encode("a boat on a lake", "noise")


def test_a_whole_run(tiny_pipeline, pair, monkeypatch):
    calls, forward = [], Transformer.forward
    monkeypatch.setattr(Transformer, "forward", lambda *given: calls.append(1) or forward(*given))
    exact = tiny_pipeline.sample(pair, **RUN)
    off = tiny_pipeline.sample(pair, **RUN, easy_cache=0.0)
    assert torch.equal(exact.video, off.video) and len(calls) == 24
    before, errors = 12, []
    for threshold in (0.05, 1.0):
        calls.clear()
        got = tiny_pipeline.sample(pair, **RUN, easy_cache=threshold)
        errors.append(((got.video - exact.video).norm() / exact.video.norm()).item())
        print(f"threshold {threshold}: {len(calls)} of 12 calls, relative L2 {errors[-1]:.1e}")
        assert FIRST <= len(calls) <= before
        before = len(calls)
    assert before < 12 and 0 < errors[-1] < 1
    assert torch.equal(tiny_pipeline.sample(pair, **RUN, easy_cache=1.0).video, got.video)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_what_it_may_be(value, tiny_pipeline, pair):
    with pytest.raises(RequestError, match="easy_cache is"):
        tiny_pipeline.sample(pair, **RUN, easy_cache=value)
