"""Solvers and schedules beyond the goldens: what they converge to, what they hold, where their noise comes from."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ltx23_core.errors import RequestError
from ltx23_core.plan.guidance import Guidance, GuiderParams
from ltx23_core.plan.recipes import DISTILLED_SIGMAS, STAGE_2_SIGMAS
from ltx23_core.plan.sigmas import as_sigmas, beta_schedule, linear_quadratic_schedule, ltx2_schedule, schedule
from ltx23_core.plan.solver import SCHEDULES, SOLVERS
from ltx23_core.plan.windows import Windows
from ltx23_core.sampling.solve import Solver, solve
from ltx23_core.sampling.solvers import res_2s
from ltx23_core.sampling.state import StreamState

SIZE = {"width": 64, "height": 64, "frames": 9}
STD = 0.5


class Gaussian:
    """The exact denoiser of data N(0, STD^2): linear in x. The probability flow from sigma 1 to 0 multiplies by STD."""

    def __call__(self, x, sigma, step):
        variance = ((1 - sigma) * STD) ** 2 + sigma**2
        return x[0] * ((1 - sigma) * STD**2 / variance), None

    def with_uncond(self, x, sigma, step):
        denoised = self(x, sigma, step)
        return denoised, denoised


def sampled(solver: Solver, steps: int, tokens: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    start = torch.randn(1, tokens, 8, generator=generator)
    state = StreamState.from_tokens(torch.zeros_like(start), torch.zeros(1, 3, tokens, 2))
    sigmas = [1 - i / steps for i in range(steps)] + [0.0]
    out = solve(solver, Gaussian(), (state, None), (start, None), sigmas, generator,
                lambda shape: torch.randn(shape, generator=generator))
    return start, out[0]


@pytest.mark.parametrize("solver", [Solver(), Solver("gradient_estimation", gamma=1.5),
                                    Solver("euler_ancestral", eta=0.0), Solver("euler_ancestral_cfg_pp", eta=0.0)])
def test_solvers_without_noise_converge_to_the_probability_flow(solver):
    errors = []
    for steps in (20, 400):
        start, result = sampled(solver, steps)
        errors.append((result - STD * start).abs().max().item())
    assert errors[1] < 0.01 and errors[1] < errors[0] / 5


@pytest.mark.parametrize("solver", [Solver("euler_ancestral"), Solver("euler_ancestral", eta=0.5),
                                    Solver("euler_ancestral_cfg_pp"), Solver("res_2s"), Solver("res_2s", eta=0.0)])
def test_solvers_with_noise_converge_to_the_distribution(solver):
    """With few steps the result is too narrow; with many it has the data's deviation (res_2s, whose anchor moves
    with the noise, stays 3 to 4 percent below, with any number of steps)."""
    few, (start, result) = sampled(solver, 5, tokens=5000)[1], sampled(solver, 300, tokens=5000)
    assert result.std().item() == pytest.approx(STD, rel=0.05 if solver.name == "res_2s" else 0.02)
    assert few.std() < result.std()
    assert abs(torch.corrcoef(torch.stack((start.flatten(), result.flatten())))[0, 1]) < 0.99, "no noise was added"


def test_gradient_estimation_with_gamma_1_is_euler():
    _, euler = sampled(Solver(), 10)
    _, same = sampled(Solver("gradient_estimation", gamma=1.0), 10)
    assert torch.allclose(euler, same, atol=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_conditioned_tokens_are_held_at_every_step(name):
    """Also after new noise: every x that the denoiser sees, and the result, has them exactly."""
    held, seen = torch.randn(1, 3, 8), []

    class Watching(Gaussian):
        def __call__(self, x, sigma, step):
            seen.append(x[0])
            return super().__call__(x, sigma, step)

    state = StreamState.from_tokens(torch.zeros(1, 9, 8), torch.zeros(1, 3, 9, 2)).replaced(held, 2, 1.0)
    generator = torch.Generator().manual_seed(4)
    start = state.noised(torch.randn(1, 9, 8, generator=generator), 1.0)
    out = solve(Solver(name), Watching(), (state, None), (start, None), ltx2_schedule(5), generator,
                lambda shape: torch.randn(shape, generator=generator))
    seen = [*seen[1:], out[0]]
    assert len(seen) >= 5 and all(torch.allclose(x[:, 2:5], held, atol=1e-6) for x in seen)
    assert torch.equal(out[0][:, 2:5], held)
    if SOLVERS[name]:
        assert all(torch.equal(x[:, 2:5], held) for x in seen), "the blend comes after the noise"


def test_ancestral_noise_is_drawn_video_first_and_not_for_the_last_step():
    shapes = []

    def draw(shape):
        shapes.append(shape)
        return torch.zeros(shape)

    class Both(Gaussian):
        def __call__(self, x, sigma, step):
            return tuple(super(Both, self).__call__((part,), sigma, step)[0] for part in x)

    states = tuple(StreamState.from_tokens(torch.zeros(1, n, 8), torch.zeros(1, 1, n, 2)) for n in (6, 4))
    for name in ("euler_ancestral", "euler_ancestral_cfg_pp"):
        shapes.clear()
        solve(Solver(name), Both(), states, tuple(torch.randn(1, n, 8) for n in (6, 4)), [1.0, 0.7, 0.3, 0.0],
              torch.Generator(), draw)
        assert shapes == [(1, 6, 8), (1, 4, 8)] * 2


@pytest.fixture(scope="module")
def pair(tiny_pipeline):
    return tiny_pipeline.encode("a boat on a lake", "grey noise")


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("streams", ["video", "audio"])
def test_every_solver_makes_single_streams(tiny_pipeline, pair, name, streams):
    first, again = (tiny_pipeline.sample(pair, recipe="one_stage", steps=3, solver=Solver(name), streams=streams,
                                         **SIZE) for _ in range(2))
    made, absent = (first.video, first.audio) if streams == "video" else (first.audio, first.video)
    assert absent is None and torch.isfinite(made).all()
    assert torch.equal(made, again.video if streams == "video" else again.audio)


def test_new_noise_belongs_to_the_run(tiny_pipeline, pair):
    """The user's seed gives it, and a second stage apart goes on after it."""
    options = {"recipe": "two_stage", "width": 128, "height": 64, "frames": 9, "solver": Solver("euler_ancestral")}
    together = tiny_pipeline.sample(pair, steps=3, **options)
    first = tiny_pipeline.sample(pair, steps=3, stages="first", **options)
    assert len(first.drawn) == 2 + 2 * 2, "the start, then both streams in two of three steps"
    start = replace(first, video=tiny_pipeline.upscale(first.video))
    second = tiny_pipeline.sample(pair, stages="second", start=start, **options)
    assert torch.equal(second.video, together.video)
    other = tiny_pipeline.sample(pair, steps=3, seed=99, **options)
    assert not torch.allclose(other.video, together.video, atol=1e-3)


@pytest.mark.parametrize("stop_at", [12, 30])
def test_a_long_run_goes_on_with_the_same_new_noise(tiny_pipeline, pair, tmp_path, stop_at):
    """Three windows of 8 + 3 steps; the first window's noise comes from the run's generator, like the next stage's."""
    options = {"recipe": "distilled", "frames": 81, "width": 64, "height": 64, "solver": Solver("euler_ancestral")}
    whole = tiny_pipeline.sample(pair, windows=Windows(33, 8), **options)

    def stop(info):
        if info.step == stop_at:
            raise KeyboardInterrupt

    kept = Windows(33, 8, resume=tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        tiny_pipeline.sample(pair, windows=kept, on_step=stop, **options)
    again = tiny_pipeline.sample(pair, windows=kept, **options)
    assert torch.equal(again.video, whole.video) and torch.equal(again.audio, whole.audio)
    assert again.drawn == whole.drawn


def test_cfg_pp_needs_no_cfg(tiny_pipeline, pair):
    """It takes the negative prompt where CFG is off: in a distilled recipe too."""
    other = tiny_pipeline.encode("a boat on a lake", "a lighthouse")
    options = {"recipe": "distilled_one_stage", **SIZE}
    one, two = (tiny_pipeline.sample(p, solver=Solver("euler_ancestral_cfg_pp"), **options) for p in (pair, other))
    assert not torch.allclose(one.video, two.video, atol=1e-4)
    one, two = (tiny_pipeline.sample(p, solver=Solver("euler_ancestral"), **options) for p in (pair, other))
    assert torch.equal(one.video, two.video)
    guided = Guidance(GuiderParams(cfg=2.0), GuiderParams(cfg=2.0))
    made = tiny_pipeline.sample(pair, solver=Solver("euler_ancestral_cfg_pp"), guidance=guided, **options)
    assert torch.isfinite(made.video).all()


def test_res_2s_ends_below_any_last_sigma():
    sigmas = []

    def model(x, sigma, step):
        sigmas.append(sigma)
        return torch.zeros_like(x[0]), None

    x = res_2s(model, (torch.randn(1, 4, 8), None), [1.0, 0.5, 0.0008, 0.0], blend=lambda x: x,
               noise=lambda kind: (torch.randn(1, 4, 8), None))
    assert sigmas[::2] == sorted(sigmas[::2], reverse=True) and sigmas[-1] < 0.0008 and torch.isfinite(x[0]).all()


# -- schedules -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", [2, 3, 8, 15, 40, 200])
@pytest.mark.parametrize("tokens", [1, 4096, 31_110, 45_000, 63_240, 10**7])
def test_the_official_schedule_falls_where_the_official_code_gives_nan(steps, tokens):
    sigmas = ltx2_schedule(steps, tokens)
    assert as_sigmas(sigmas) == sigmas and len(sigmas) == steps + 1
    # In float32 the first sigma comes out slightly below 1, the more tokens the more, as officially.
    assert sigmas[0] == pytest.approx(1, abs=1e-2) and sigmas[-2] == pytest.approx(0.1, abs=1e-6) and sigmas[-1] == 0


def test_its_stable_form_goes_on_where_the_official_one_ends():
    """Where float32 still has some digits the official form is within its own rounding of the stable one."""
    before, after = ltx2_schedule(8, 30_000), ltx2_schedule(8, 63_240)
    assert after == pytest.approx(before, abs=1e-3) and after != before


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 30, 1000])
def test_every_schedule_can_be_sampled(name, steps):
    sigmas = schedule(name, steps, tokens=8160)
    assert as_sigmas(sigmas) == sigmas and sigmas[-1] == 0
    if not name.startswith("distilled"):
        assert len(sigmas) == steps + 1 or name == "beta", "beta leaves out steps that fall together"


def test_schedules_by_name():
    assert schedule("ltx2", 30) == ltx2_schedule(30)
    assert schedule("ltx2", 15, tokens=8160, terminal=0.2)[-2] == pytest.approx(0.2)
    assert schedule("ltx2", 15, max_shift=3.0) != schedule("ltx2", 15)
    assert schedule("linear_quadratic", 20) == linear_quadratic_schedule(20)
    assert schedule("beta", 20, tokens=9) == beta_schedule(20)
    assert schedule("distilled", 3) == as_sigmas(DISTILLED_SIGMAS)
    assert schedule("distilled_stage_2") == as_sigmas(STAGE_2_SIGMAS)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: schedule("karras"), "ltx2"), (lambda: schedule("beta", 0), "at least 1"),
    (lambda: schedule("linear_quadratic", 0), "at least 1"), (lambda: ltx2_schedule(8, terminal=1.0), "0 and 1"),
    (lambda: Solver("heun"), "euler_ancestral_cfg_pp"), (lambda: Solver(eta=1.5), "0 to 1"),
    (lambda: Solver(s_noise=-1.0), "0 or more"), (lambda: Solver(gamma=float("nan")), "0 or more")])
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(RequestError, match=words):
        make()
