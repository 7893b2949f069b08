"""Guidance over sigma, skipped steps, NAG, APG: on the tiny model where it matters."""
from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ltx23_core.errors import RequestError
from ltx23_core.geometry import audio_positions, video_grid, video_positions
from ltx23_core.models.transformer.inputs import Pass, Perturbation, StreamInput
from ltx23_core.models.transformer.nag import NagContext, push
from ltx23_core.plan.guidance import RECIPE, Apg, Guidance, GuiderBins, GuiderParams, Nag
from ltx23_core.plan.recipes import RECIPES
from ltx23_core.plan.sigmas import ltx2_schedule
from ltx23_core.plan.solver import SOLVERS
from ltx23_core.sampling.combine import RunningDifference, combine
from ltx23_core.sampling.denoiser import Denoiser
from ltx23_core.sampling.solve import Solver, solve
from ltx23_core.sampling.state import StreamState, map_streams

SIZE = {"width": 64, "height": 64, "frames": 9}
STRONG = GuiderParams(3.0, 1.0, 3.0, 0.7, (2,))


class Counting:
    """A transformer that notes the passes of each call and which streams were enabled."""

    def __init__(self, module):
        self.module, self.calls = module, []

    def __getattr__(self, name):
        return getattr(self.module, name)

    def __call__(self, video, audio, passes, tables, check=None):
        self.calls.append((len(passes), tuple(part and part.enabled for part in (video, audio))))
        return self.module(video, audio, passes, tables, check)


@pytest.fixture(scope="module")
def pair(tiny_pipeline):
    return tiny_pipeline.encode("a boat on a lake", "grey noise")


@pytest.fixture
def setting(tiny_pipeline, pair):
    """(counting transformer, function guidance -> denoiser, start tokens)."""
    component = tiny_pipeline.component("transformer")
    tiny_pipeline.residency.use(component)
    config, generator = tiny_pipeline.transformer_config, torch.Generator().manual_seed(1)
    grid, model = video_grid(64, 64, 9), Counting(component.module)
    tokens = [torch.zeros(1, n, s.in_channels) for n, s in ((grid.tokens, config.video), (9, config.audio))]
    states = (StreamState.from_tokens(tokens[0], video_positions(grid, 24.0)),
              StreamState.from_tokens(tokens[1], audio_positions(9)))
    start = map_streams(lambda t: torch.randn(t.shape, generator=generator), tuple(tokens))

    def denoiser(guidance, states=states):
        return Denoiser(model, pair.positive, pair.negative, guidance, *states)

    return model, denoiser, start, states


def run(denoiser, start, states, steps=4, solver=None, guard=None):
    generator, sigmas = torch.Generator().manual_seed(0), ltx2_schedule(steps)
    with torch.no_grad(), guard or nullcontext():
        return solve(solver or Solver(), denoiser, states, start, sigmas, generator,
                     lambda shape: torch.randn(shape, generator=generator))


# -- skipped steps -------------------------------------------------------------------------------------------------
def test_skipped_steps_run_no_forward(setting):
    model, denoiser, start, states = setting
    every_other = replace(STRONG, skip_step=1)
    run(denoiser(Guidance(every_other, every_other)), start, states, steps=5)
    assert model.calls == [(4, (True, True))] * 3, "steps 0, 2 and 4"


def test_a_stream_that_skips_is_context_and_needs_no_passes(setting):
    model, denoiser, start, states = setting
    guidance = Guidance(GuiderParams(cfg=3.0), GuiderParams(modality=2.0, skip_step=1))
    run(denoiser(guidance), start, states, steps=2)
    assert model.calls == [(3, (True, True)), (2, (True, False))], "the modality pass is the sound's alone"


def test_a_skipped_step_reuses_the_last_result(setting):
    _, denoiser, start, _ = setting
    guided = denoiser(Guidance(replace(STRONG, skip_step=1), STRONG))
    with torch.no_grad():
        first, again, third = (guided(start, sigma, step) for step, sigma in enumerate((0.9, 0.8, 0.7)))
    assert torch.equal(first[0], again[0]) and not torch.allclose(first[1], again[1], atol=1e-3)
    assert not torch.allclose(first[0], third[0], atol=1e-3)


def test_with_frozen_sound_a_skipped_video_step_costs_nothing(setting):
    model, denoiser, start, (video, audio) = setting
    held = replace(audio, frozen=True, mask=torch.zeros_like(audio.mask), clean=start[1])
    guidance = Guidance(video=replace(STRONG, skip_step=1))
    result = run(denoiser(guidance, (video, held)), start, (video, held), steps=4)
    assert len(model.calls) == 2 and torch.equal(result[1], start[1])


def test_the_midpoints_of_res_2s_are_never_skipped(setting):
    model, denoiser, start, states = setting
    skipping = GuiderParams(cfg=2.0, skip_step=3)
    run(denoiser(Guidance(skipping, skipping)), start, states, steps=3, solver=Solver("res_2s"))
    assert len(model.calls) == 1 + 3, "step 0, and the midpoint of every step; the steps 1, 2 and the last call reuse"


# -- over sigma ----------------------------------------------------------------------------------------------------
def test_bins_hold_sigmas_up_to_their_bound():
    low, high = GuiderParams(cfg=2.0), GuiderParams(cfg=5.0)
    bins = GuiderBins(((0.6, low), (0.9, high)))
    assert bins.bins[0][0] == 0.9, "kept with the bounds falling"
    guidance = Guidance(bins)
    assert [guidance.at(s)[0].cfg for s in (1.0, 0.9, 0.61, 0.6, 0.1)] == [5, 5, 5, 2, 2]
    assert guidance.at(torch.tensor(0.6).item())[0] is high, "float32 0.6 is above 0.6"
    assert guidance.at(0.5)[1] == GuiderParams()


def test_a_range_includes_its_float32_bounds():
    inside = Guidance(STRONG, STRONG).within(0.3, 0.6)
    sigmas = torch.tensor([1.0, 0.61, 0.6, 0.5, 0.3, 0.29]).tolist()
    assert [inside.at(s)[0].cfg for s in sigmas] == [1, 1, 3, 3, 3, 1]
    assert Guidance(STRONG).within(0.0, 1.0) == Guidance(STRONG), "the whole schedule is no schedule"
    assert inside.passes == 4 and inside.audio == inside.video


def test_ranges_chain():
    first = Guidance(GuiderParams(cfg=9.0)).within(0.8, 1.0)
    chain = Guidance(GuiderParams(cfg=4.0)).within(0.4, 0.6, otherwise=first)
    sigmas = torch.tensor([1.0, 0.8, 0.7, 0.6, 0.4, 0.3]).tolist()
    assert [chain.at(s)[0].cfg for s in sigmas] == [9, 9, 1, 4, 4, 1]
    over = Guidance(GuiderParams(cfg=2.0)).within(0.5, 0.9, otherwise=chain)
    assert [over.at(s)[0].cfg for s in torch.tensor([1.0, 0.9, 0.5, 0.45]).tolist()] == [9, 2, 2, 4]


def test_only_the_passes_of_the_bin_run(setting):
    model, denoiser, start, states = setting
    run(denoiser(Guidance(STRONG, STRONG).within(0.5, 0.9)), start, states, steps=4)
    wanted = [4 if 0.5 <= sigma <= 0.9 else 1 for sigma in ltx2_schedule(4)[:-1]]
    assert [passes for passes, _ in model.calls] == wanted and {1, 4} == set(wanted)


def test_unlinked_guidance_means_the_recipe():
    official = RECIPES["one_stage"].guidance(4)
    assert RECIPE.resolved(official) == official and RECIPE.resolved(None) == Guidance()
    ranged = RECIPE.within(0.2, 0.8).resolved(official)
    assert ranged == official.within(0.2, 0.8)
    apg, nag = Apg(), Nag()
    both = RECIPE.with_options(nag=nag).with_options("video", apg=apg)
    assert both.resolved(official) == Guidance(replace(official.video, apg=apg, nag=nag),
                                               replace(official.audio, nag=nag))
    assert both.resolved(None) == Guidance(GuiderParams(nag=nag), GuiderParams(nag=nag)), "nothing for APG to act on"
    assert both.resolved(official).nag_alone() == both.resolved(None)
    assert official.nag_alone() is None and RECIPE.with_options(apg=apg).resolved(None) == Guidance()


# -- APG and CFG-Zero* ---------------------------------------------------------------------------------------------
def test_apg_that_changes_nothing_is_cfg():
    cond, uncond = torch.randn(2, 7, 4), torch.randn(2, 7, 4)
    plain = combine(GuiderParams(cfg=5.0), cond, uncond)
    same = combine(GuiderParams(cfg=5.0, apg=Apg(1.0, 0.0, 0.0)), cond, uncond)
    assert torch.allclose(plain, same, atol=1e-5)
    assert not torch.allclose(plain, combine(GuiderParams(cfg=5.0, apg=Apg(0.0, 0.0, 0.0)), cond, uncond), atol=1e-2)


def test_apg_with_eta_0_adds_nothing_along_the_prediction():
    cond, uncond = torch.randn(3, 7, 4), torch.randn(3, 7, 4)
    added = combine(GuiderParams(cfg=5.0, apg=Apg(0.0, 2.0, 0.0)), cond, uncond) - cond
    assert (added * cond).sum((1, 2)).abs().max() < 1e-3
    assert (added.flatten(1).norm(dim=1) <= 4 * 2.0 + 1e-4).all(), "(cfg - 1) times the threshold"


@pytest.mark.parametrize("params", [GuiderParams(cfg=4.0, apg=Apg(0.3, 2.5, -0.5)),
                                    GuiderParams(cfg=4.0, cfg_star=True)])
def test_each_sample_of_a_batch_is_guided_as_alone(params):
    cond, uncond = torch.randn(3, 7, 4), torch.randn(3, 7, 4)
    running = RunningDifference()
    alone = [RunningDifference() for _ in range(3)]
    for _ in range(2):
        together = combine(params, cond, uncond, running=running)
        for index in range(3):
            part = slice(index, index + 1)
            single = combine(params, cond[part], uncond[part], running=alone[index])
            assert torch.allclose(together[part], single, atol=1e-5)


def test_momentum_lives_in_one_run(setting):
    _, denoiser, start, states = setting
    guidance = Guidance(GuiderParams(cfg=4.0, apg=Apg(0.0, 0.0, -0.5)), GuiderParams(cfg=4.0))
    first, second = (run(denoiser(guidance), start, states) for _ in range(2))
    assert torch.equal(first[0], second[0])
    without = Guidance(GuiderParams(cfg=4.0, apg=Apg(0.0, 0.0, 0.0)), GuiderParams(cfg=4.0))
    assert not torch.allclose(first[0], run(denoiser(without), start, states)[0], atol=1e-3)


# -- NAG -----------------------------------------------------------------------------------------------------------
def test_nag_that_changes_nothing(setting):
    model, denoiser, start, _ = setting
    with torch.no_grad():
        plain = denoiser(None)(start, 0.8, 0)
        for nag in (Nag(scale=1.0), Nag(alpha=0.0)):
            same = denoiser(Guidance(GuiderParams(nag=nag), GuiderParams(nag=nag)))(start, 0.8, 0)
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, same, strict=True))
        pushed = denoiser(Guidance(GuiderParams(nag=Nag()), GuiderParams(nag=Nag())))(start, 0.8, 0)
    assert all(not torch.allclose(a, b, atol=1e-4) for a, b in zip(plain, pushed, strict=True))
    assert {passes for passes, _ in model.calls} == {1}, "NAG needs no further pass"


def test_nag_formula():
    positive, negative = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    for nag in (Nag(5.0, 2.5, 0.25), Nag(2.0, 50.0, 1.0)):
        z = nag.scale * positive - (nag.scale - 1) * negative
        ratio = z.abs().sum(-1, keepdim=True) / positive.abs().sum(-1, keepdim=True)
        limited = torch.where(ratio > nag.tau, z * nag.tau / ratio, z)
        want = nag.alpha * limited + (1 - nag.alpha) * positive
        assert torch.allclose(push(nag, positive, negative), want, atol=1e-5)
    grown = push(Nag(50.0, 1.5, 1.0), positive, negative).abs().sum(-1) / positive.abs().sum(-1)
    assert (grown <= 1.5 + 1e-4).all()
    assert torch.equal(push(Nag(), torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)), torch.zeros(1, 2, 4))


@torch.no_grad()
def test_passes_with_nag_share_exactly(setting, pair):
    model, _, (video, audio), states = setting
    tables = model.tables(*(s.positions for s in states), torch.float32)
    v, a, nv, na = pair.positive.video, pair.positive.audio, pair.negative.video, pair.negative.audio
    nag, other = (NagContext(Nag(), nv), NagContext(Nag(), na)), (NagContext(Nag(9.0), nv), NagContext(Nag(), na))
    skip = frozenset((2,))
    passes = [Pass(v, a), Pass(v, a, nag=nag), Pass(v, a, Perturbation(skip, skip), nag=nag), Pass(v, a, nag=other),
              Pass(v, a, nag=(NagContext(Nag(), nv), NagContext(Nag(), na)))]
    scalar = torch.full((1,), 0.7)
    given = StreamInput(video, scalar, scalar[:, None]), StreamInput(audio, scalar, scalar[:, None])
    calls = []
    together = model.module(*given, passes, tables, lambda: calls.append(1))
    layers = len(model.transformer_blocks)
    assert len(calls) == 3 * layers + (layers - 2), "equal settings and context are one branch"
    for one, both in zip(passes, together, strict=True):
        [alone] = model.module(*given, [one], tables)
        assert torch.equal(alone[0], both[0]) and torch.equal(alone[1], both[1])
    assert not torch.equal(together[0][0], together[1][0]) and not torch.equal(together[1][0], together[3][0])


def test_nag_acts_in_every_stage_of_a_distilled_recipe(tiny_pipeline, pair):
    options = {"recipe": "distilled", "width": 128, "height": 64, "frames": 9}
    nag = RECIPE.with_options(nag=Nag(20.0, 5.0, 1.0))
    first = tiny_pipeline.sample(pair, stages="first", **options)
    start = replace(first, video=tiny_pipeline.upscale(first.video))
    plain, pushed = (tiny_pipeline.sample(pair, stages="second", start=start, guidance=guidance, **options)
                     for guidance in (None, nag))
    assert not torch.allclose(plain.video, pushed.video, atol=1e-3)
    cfg = Guidance(GuiderParams(cfg=4.0), GuiderParams(cfg=4.0))
    same = tiny_pipeline.sample(pair, stages="second", start=start, guidance=cfg, **options)
    assert torch.equal(same.video, plain.video), "CFG acts in the first stage of a distilled recipe alone"


@pytest.mark.parametrize("streams", ["video", "audio"])
def test_nag_of_one_stream(setting, streams):
    _, denoiser, start, states = setting
    guided = Guidance().with_options(streams, nag=Nag(20.0, 5.0, 1.0))
    assert (guided.video is None) == (streams == "audio") and (guided.audio is None) == (streams == "video")
    assert not torch.allclose(run(denoiser(guided), start, states)[0], run(denoiser(None), start, states)[0], atol=1e-4)


# -- refusals ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("make", "words"), [
    (lambda: GuiderParams(skip_step=-1), "0 \\(every step\\)"), (lambda: GuiderBins(()), "at least one"),
    (lambda: GuiderParams(cfg_star=True, apg=Apg()), "one of them"), (lambda: GuiderBins(((0.5, None),) * 2), "diff"),
    (lambda: RECIPE.within(0.6, 0.5), "from <= to"), (lambda: RECIPE.within(0.0, 0.0), "above 0"),
    (lambda: Nag(scale=0.5), "1 \\(off\\)"), (lambda: Nag(tau=0.0), "above 0"), (lambda: Nag(alpha=2.0), "0 to 1"),
    (lambda: Apg(eta=float("nan")), "finite"), (lambda: Apg(momentum=1.0), "between"),
    (lambda: Apg(norm_threshold=-1.0), "0 \\(off\\)")])
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(RequestError, match=words):
        make()


@pytest.mark.parametrize("guidance", [Guidance(GuiderParams(cfg=2.0)), Guidance(GuiderParams(nag=Nag()))])
def test_without_a_negative_prompt(setting, pair, guidance):
    model, _, start, states = setting
    with pytest.raises(RequestError, match="without a negative prompt"), torch.no_grad():
        Denoiser(model, pair.positive, None, guidance, *states)(start, 0.5, 0)


def test_a_block_that_the_model_lacks_is_found_in_every_bin(tiny_pipeline, pair):
    bad = Guidance(GuiderParams(stg=1.0, stg_blocks=(28,))).within(0.0, 0.3)
    with pytest.raises(RequestError, match="STG block 28"):
        tiny_pipeline.sample(pair, recipe="one_stage", steps=1, guidance=bad, **SIZE)


# -- the loop never waits for the device ---------------------------------------------------------------------------
class NoWaiting(TorchDispatchMode):
    """Refuses every operation that reads a value back: on a GPU each would stop the queue."""

    WAITS = ("_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "masked_select", "equal", "is_nonzero")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in self.WAITS, f"{name} waits for the device"
        return function(*args, **(kwargs or {}))


def test_the_guard_sees_waiting():
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        bool(torch.ones(1) > 0)


@pytest.mark.parametrize("name", SOLVERS)
def test_no_step_waits_for_the_device(setting, name):
    _, denoiser, start, (video, audio) = setting
    states = (video.replaced(torch.ones(1, 2, video.clean.shape[2]), 0, 0.5), audio)
    full = replace(STRONG, apg=Apg(0.2, 3.0, -0.5), nag=Nag())
    guided = denoiser(Guidance(full, replace(STRONG, skip_step=1, cfg_star=True)).within(0.1, 0.95), states)
    result = run(guided, start, states, steps=3, solver=Solver(name), guard=NoWaiting())
    assert all(torch.isfinite(part).all() for part in result)
