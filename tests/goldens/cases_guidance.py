"""Golden cases of guidance beyond the constant one, and of the ancestral solvers, through `solve` and `Denoiser`."""
from __future__ import annotations

import torch

from ltx23_core.plan.guidance import Apg, Guidance, GuiderBins, GuiderParams
from ltx23_core.plan.latents import PromptContext
from ltx23_core.sampling import solvers
from ltx23_core.sampling.combine import RunningDifference, combine
from ltx23_core.sampling.denoiser import Denoiser
from ltx23_core.sampling.solve import Solver, solve
from ltx23_core.sampling.state import Streams, map_streams, video_to_tokens

from .cases_sampling import as_latents, grid_of, guider, plain_states
from .harness import Case, case, module


class Recorder(Denoiser):
    """A denoiser that keeps what enters and what leaves it."""

    def __init__(self, *given: object) -> None:
        super().__init__(*given)
        self.inputs: list[Streams] = []
        self.outputs: list[Streams] = []

    def _evaluate(self, x: Streams, sigma: float, step: int, uncond: bool) -> tuple[Streams, Streams]:
        pair = super()._evaluate(x, sigma, step, uncond)
        self.inputs.append(x)
        self.outputs.append(pair[0])
        return pair


def run_loop(run: Case, prefix: str, guidance: Guidance | None, solver: Solver, states: Streams,
             noises: list[torch.Tensor]) -> None:
    """One loop of a case on its noise; checks latents and each step."""
    given, sigmas = run.inputs, run.inputs["sigmas"].tolist()
    contexts = [PromptContext(given["video_" + kind], given["audio_" + kind]) for kind in ("context", "negative")]
    denoiser = Recorder(module("transformer"), *contexts, guidance, *states)
    x = map_streams(lambda s, n: s.noised(n, sigmas[0]), states, (given["video_noise"], given["audio_noise"]))

    def draw(shape: tuple[int, ...]) -> torch.Tensor:
        noise = noises.pop(0)
        assert tuple(noise.shape) == shape
        return noise

    with torch.no_grad():
        x = solve(solver, denoiser, states, x, sigmas, torch.Generator(), draw)
    assert not noises, "not all noise was drawn"
    latents = as_latents(run, x, grid_of(run.settings.latent_grid))
    for which, kind in enumerate(("video", "audio")):
        run.check(f"{prefix}.{kind}_latent", latents[which])
        run.check(f"{prefix}.{kind}_denoised_per_step", torch.stack([out[which] for out in denoiser.outputs]))
        run.check(f"{prefix}.{kind}_x_per_step", torch.stack([given[which] for given in denoiser.inputs]))


def states_of(run: Case) -> Streams:
    s = run.settings
    return plain_states(run, grid_of(s.latent_grid), s.audio_frames, s.fps)


@case("guider_loops")
def guider_loops(run: Case) -> None:
    s = run.settings
    video, audio = s.video_guider, s.audio_guider

    def bins(entries: list) -> GuiderBins:
        return GuiderBins(tuple((bound, guider(settings)) for bound, settings in entries))

    loops = {name: Guidance(*(GuiderParams(**{**vars(guider(settings)), "skip_step": skips[kind]})
                              for kind, settings in (("video", video), ("audio", audio))))
             for name, skips in s.skip_step.items()}
    loops["bins"] = Guidance(bins(s.bins["video"]), bins(s.bins["audio"]))
    loops["video_guided"] = Guidance(video=guider(video))
    loops["audio_guided"] = Guidance(audio=guider(audio))
    for name, guidance in loops.items():
        run_loop(run, name, guidance, Solver(), states_of(run), [])


@case("guider_variants")
def guider_variants(run: Case) -> None:
    """The case holds what is added to the conditional prediction; `combine` adds it."""
    s, given = run.settings, run.inputs
    by_name = {"cfg": GuiderParams(cfg=s.scale), "cfg_star": GuiderParams(cfg=s.scale, cfg_star=True)}
    for name in ("apg", "apg_eta0", "apg_threshold"):
        by_name[name] = GuiderParams(cfg=s.scale, apg=Apg(**{"momentum": 0.0, **run.raw_settings[name]}))
    for layout in ("tokens", "latent"):
        cond, uncond, cond_2, uncond_2 = (given[f"{layout}.{key}"] for key in ("cond", "uncond", "cond_2", "uncond_2"))
        for name, params in by_name.items():
            run.check(f"{layout}.{name}", combine(params, cond, uncond) - cond)
        stg = GuiderParams(stg=s.stg_scale, stg_blocks=(0,))
        run.check(f"{layout}.stg", combine(stg, cond, perturbed=uncond) - cond)
        # The legacy form scales by `scale` where the others scale by `scale - 1`.
        legacy, running = GuiderParams(cfg=s.scale + 1, apg=Apg(**s.apg_legacy)), RunningDifference()
        run.check(f"{layout}.apg_legacy_first", combine(legacy, cond, uncond, running=running) - cond)
        run.check(f"{layout}.apg_legacy_second", combine(legacy, cond_2, uncond_2, running=running) - cond_2)
    bins = GuiderBins(tuple((key, GuiderParams(cfg=1 + key)) for key in s.bin_keys))
    run.check("bin_index", torch.tensor([bins.index(sigma) for sigma in given["bin_sigmas"].tolist()]))
    shape = run.entry["outputs"]["skip_table"]["shape"]
    run.check("skip_table", torch.tensor([[int(GuiderParams(skip_step=skip).skips(step)) for step in range(shape[1])]
                                          for skip in range(shape[0])]))


@case("ancestral")
def ancestral(run: Case) -> None:
    s, given = run.settings, run.inputs
    x, x0, uncond, noise = (given["step." + key] for key in ("x", "x0", "uncond", "noise"))
    sigmas = given["step.sigmas"].tolist()
    for name in (name for name in run.entry["outputs"] if name.startswith("step.")):
        kind, _, rest = name.removeprefix("step.").partition(".eta")
        options, _, step = rest.rpartition(".")
        eta, _, s_noise = options.partition("_s")
        pair = sigmas[int(step)], sigmas[int(step) + 1]
        factors = {"eta": float(eta), "s_noise": float(s_noise or 1)}
        run.check(name, solvers.ancestral_step(x, x0, *pair, noise, **factors) if kind == "ancestral" else
                  solvers.cfg_pp_step(x, x0, uncond, *pair, noise, **factors))
    count = sum(name.startswith("sde_noise.") for name in given)
    for name, eta in s.eta.items():
        states = states_of(run)
        if name.endswith("image"):
            states = (states[0].replaced(video_to_tokens(given["image_latent"]), 0, s.image_strength), states[1])
        scales, guidance = run.raw_settings.get(name), None
        if scales is not None:
            guidance = Guidance(GuiderParams(cfg=scales["video_cfg"]), GuiderParams(cfg=scales["audio_cfg"]))
        solver = Solver("euler_ancestral_cfg_pp" if name.startswith("cfg_pp") else "euler_ancestral", eta=eta,
                        s_noise=s.s_noise)
        run_loop(run, name, guidance, solver, states, [given[f"sde_noise.{i}"] for i in range(count)])
