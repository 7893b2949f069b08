"""Golden cases of sampling: schedules, guidance, steps, whole denoising loops, two stages, the whole pipeline."""
from __future__ import annotations

import torch

from ltx23_core.geometry import VideoGrid, audio_positions, video_positions
from ltx23_core.models.latent_upsampler import upsample
from ltx23_core.models.transformer.model import Transformer
from ltx23_core.plan.guidance import Guidance, GuiderParams
from ltx23_core.plan.latents import PromptContext
from ltx23_core.plan.recipes import DISTILLED_SIGMAS, STAGE_2_SIGMAS, TILED_STAGE_2_SIGMAS
from ltx23_core.plan.sigmas import TERMINAL, beta_schedule, linear_quadratic_schedule, ltx2_schedule
from ltx23_core.sampling import solvers
from ltx23_core.sampling.combine import combine
from ltx23_core.sampling.denoiser import Denoiser
from ltx23_core.sampling.state import (
    Streams,
    StreamState,
    audio_to_tokens,
    map_streams,
    tokens_to_audio,
    tokens_to_video,
    video_to_tokens,
)

from .harness import HANDLERS, Case, case, config, latent_statistics, lora_module, module, pipeline


def guider(settings: dict) -> GuiderParams:
    """A guider of the index, whose keys are the official ones."""
    return GuiderParams(settings.get("cfg_scale", 1.0), settings.get("stg_scale", 0.0),
                        settings.get("modality_scale", 1.0), settings.get("rescale_scale", 0.0),
                        tuple(settings.get("stg_blocks", (0,))))


def guidance(run: Case) -> Guidance | None:
    """The guidance of a case, None where it has none."""
    if "video_guider" not in run.raw_settings:
        return None
    return Guidance(guider(run.settings.video_guider), guider(run.settings.audio_guider))


def grid_of(settings: dict) -> VideoGrid:
    return VideoGrid(settings["F"], settings["H"], settings["W"])


class Loop:
    """A denoising loop on a case's inputs that records what enters and leaves the denoiser."""

    def __init__(self, run: Case, states: Streams, guide: Guidance | None,
                 transformer: Transformer | None = None) -> None:
        def context(kind: str) -> PromptContext | None:
            both = run.inputs.get("video_" + kind), run.inputs.get("audio_" + kind)
            return None if both == (None, None) else PromptContext(*both)

        self.states = states
        self.denoiser = Denoiser(transformer or module("transformer"), context("context"), context("negative"), guide,
                                 *states)
        self.inputs: list[Streams] = []
        self.outputs: list[Streams] = []

    def blend(self, x: Streams) -> Streams:
        return map_streams(lambda s, t: s.blend(t), self.states, x)

    def model(self, x: Streams, sigma: float, step: int) -> Streams:
        denoised = self.denoiser(x, sigma, step)
        self.inputs.append(x)
        self.outputs.append(denoised)
        return self.blend(denoised)

    def check(self, run: Case, prefix: str = "") -> None:
        for which, kind in enumerate(("video", "audio")):
            if self.states[which] is not None:
                run.check(f"{prefix}{kind}_x_per_step", torch.stack([x[which] for x in self.inputs]))
                run.check(f"{prefix}{kind}_denoised_per_step", torch.stack([x[which] for x in self.outputs]))


def plain_states(run: Case, grid: VideoGrid, audio_frames: int, fps: float) -> Streams:
    """States of zeros without conditions."""
    batch, video, audio = run.settings.batch, config("transformer")["in_channels"], run.inputs["audio_noise"].shape[-1]
    return (StreamState.from_tokens(torch.zeros(batch, grid.tokens, video), video_positions(grid, fps)),
            StreamState.from_tokens(torch.zeros(batch, audio_frames, audio), audio_positions(audio_frames)))


def as_latents(run: Case, x: Streams, grid: VideoGrid) -> Streams:
    channels = config("audio_vae")["model"]["params"]["ddconfig"]["z_channels"]
    return (None if x[0] is None else tokens_to_video(x[0], grid),
            None if x[1] is None else tokens_to_audio(x[1], channels))


FIXED = {"distilled": DISTILLED_SIGMAS, "distilled_stage2": STAGE_2_SIGMAS,
         "distilled_tiled_stage2": TILED_STAGE_2_SIGMAS}


@case("scheduler")
@case("scheduler_more")
def scheduler(run: Case) -> None:
    default_terminal = getattr(run.settings, "terminal", TERMINAL)
    for name in run.entry["outputs"]:
        if name in FIXED:
            run.check(name, torch.tensor(FIXED[name]))
            continue
        kind, _, rest = name.rpartition(".steps")
        steps = int(rest)
        if kind == "beta":
            got = beta_schedule(steps)
        elif kind == "linear_quadratic":
            got = linear_quadratic_schedule(steps)
        else:
            tokens = kind.rpartition("tokens")[2]
            number = int(tokens) if tokens.isdigit() else run.settings.default_tokens
            own = kind.partition(".tokens")[0].removeprefix("terminal")
            terminal = float(own) if kind.startswith("terminal") else default_terminal
            got = ltx2_schedule(steps, number, terminal=terminal, stretch=not kind.startswith("no_stretch"))
        run.check(name, torch.tensor(got))


@case("guider")
def guiders(run: Case) -> None:
    for name, settings in run.raw_settings.items():
        params, given = guider(settings), run.inputs
        run.check(name, combine(params, given["cond"], given["uncond"] if params.uses_cfg else None,
                                given["perturbed"] if params.uses_stg else None,
                                given["modality"] if params.uses_modality else None))


@case("steps")
def steps(run: Case) -> None:
    x, x0, noise, sigmas = (run.inputs[k] for k in ("x", "x0", "noise", "sigmas"))
    sigmas = sigmas.tolist()
    for name in run.entry["outputs"]:
        kind, _, index = name.rpartition(".")
        if kind == "sde_coeff":
            run.check(name, torch.tensor(solvers.sde_coefficients(sigmas[int(index) + 1], run.settings.res2s_eta)))
        elif kind:
            pair = sigmas[int(index)], sigmas[int(index) + 1]
            if kind == "euler":
                got = solvers.euler_step(x, x0, *pair)
            else:
                function = {"res2s_sde": solvers.sde_step, "ancestral": solvers.ancestral_step}[kind]
                got = function(x, x0, *pair, noise, eta=run.raw_settings[kind.removesuffix("_sde") + "_eta"])
            run.check(name, got)
    run.check("res2s_coefficients", torch.tensor([solvers.res_2s_coefficients(h) for h in run.settings.res2s_h],
                                                 dtype=torch.float64))


def _start(run: Case, states: Streams, sigma: float) -> Streams:
    return map_streams(lambda s, n: s.noised(n, sigma), states, (run.inputs["video_noise"], run.inputs["audio_noise"]))


def _finish(run: Case, loop: Loop, x: Streams, grid: VideoGrid, prefix: str = "") -> None:
    for kind, latent in zip(("video", "audio"), as_latents(run, x, grid), strict=True):
        if latent is not None:
            run.check(f"{prefix}{kind}_latent", latent)
    loop.check(run, prefix)


def _denoise(run: Case) -> None:
    s, sigmas = run.settings, run.inputs["sigmas"].tolist()
    grid = grid_of(s.latent_grid)
    states = plain_states(run, grid, s.audio_frames, s.fps)
    if "image_u8" in run.inputs:
        latent = module("video_encoder")(run.inputs["image_u8"].float() / 127.5 - 1)
        run.check("image_latent", latent)
        states = (states[0].replaced(video_to_tokens(latent), 0, s.strength), states[1])
    if "keyframe_0_latent" in run.inputs:
        last = video_positions(VideoGrid(1, grid.height, grid.width), s.fps, start_frame=s.frame_idx)
        video = states[0].replaced(video_to_tokens(run.inputs["keyframe_0_latent"]), 0, s.strength_first)
        video = video.appended(video_to_tokens(run.inputs["keyframe_last_latent"]), last, s.strength_last)
        run.check("video_positions", video.positions.expand(s.batch, -1, -1, -1))
        states = (video, states[1])
    loop = Loop(run, states, guidance(run))
    x = _start(run, states, sigmas[0])
    if "denoise_mask" in run.entry["outputs"]:
        run.check("denoise_mask", states[0].mask)
        run.check("video_start", x[0])
    _finish(run, loop, solvers.euler(loop.model, x, sigmas), grid)


for _name in ("denoise_t2av", "denoise_i2v", "denoise_keyframe", "denoise_distilled"):
    HANDLERS[_name] = _denoise


@case("denoise_res2s")
def denoise_res2s(run: Case) -> None:
    s, sigmas = run.settings, run.inputs["sigmas"].tolist()
    grid = grid_of(s.latent_grid)
    states = plain_states(run, grid, s.audio_frames, s.fps)
    loop = Loop(run, states, guidance(run))
    drawn = iter(range(s.num_noises))
    x = solvers.res_2s(loop.model, _start(run, states, sigmas[0]), sigmas, blend=loop.blend,
                       noise=lambda kind: tuple(run.inputs[f"sde_noise.{next(drawn)}"] for _ in range(2)))
    assert next(drawn, None) is None, "not all SDE noises were drawn"
    _finish(run, loop, x, grid)


@case("two_stage")
def two_stage(run: Case) -> None:
    s, given = run.settings, run.inputs
    grid, grid_2 = grid_of(s.latent_grid), grid_of(s.stage2_latent_grid)
    states = plain_states(run, grid, s.audio_frames, s.fps)
    sigmas = given["sigmas_1"].tolist()
    loop = Loop(run, states, guidance(run))
    video, audio = as_latents(run, solvers.euler(loop.model, _start(run, states, sigmas[0]), sigmas), grid)
    run.check("stage1_video_latent", video)
    run.check("stage1_audio_latent", audio)
    upscaled = upsample(module("upsampler_x2"), video, *latent_statistics())
    run.check("upscaled_latent", upscaled)
    states = (StreamState.from_tokens(video_to_tokens(upscaled), video_positions(grid_2, s.fps)),
              StreamState.from_tokens(audio_to_tokens(audio), audio_positions(s.audio_frames)))
    start = map_streams(lambda state, n: state.noised(n, s.noise_scale), states,
                        (given["video_noise_2"], given["audio_noise_2"]))
    run.check("stage2_video_start", start[0])
    run.check("stage2_audio_start", start[1])
    loop = Loop(run, states, None, lora_module(s.lora_strength))
    video, audio = as_latents(run, solvers.euler(loop.model, start, given["sigmas_2"].tolist()), grid_2)
    run.check("stage2_video_latent", video)
    run.check("stage2_audio_latent_discarded", audio)
    loop.check(run)
    pixels = module("video_decoder")(video)
    run.check("pixels_frame0", pixels[:, :, 0])
    run.check("pixels_last_frame", pixels[:, :, -1])


@case("pipeline_t2av")
def pipeline_t2av(run: Case) -> None:
    s, pipe = run.settings, pipeline()
    pair = pipe.encode(s.prompt, s.negative_prompt)
    for kind, context in (("", pair.positive), ("negative", pair.negative)):
        run.inputs["video_" + (kind or "context")] = context.video
        run.inputs["audio_" + (kind or "context")] = context.audio
    grid = grid_of(s.latent_grid)
    states = plain_states(run, grid, s.audio_frames, s.fps)
    sigmas = ltx2_schedule(s.steps)
    loop = Loop(run, states, guidance(run))
    video, audio = as_latents(run, solvers.euler(loop.model, _start(run, states, sigmas[0]), sigmas), grid)
    run.check("video_latent", video)
    run.check("audio_latent", audio)
    frames = torch.cat(list(pipe.decode_video(video)))
    run.check("frames", frames[[0, len(frames) // 2, -1]])
    sound = pipe.decode_audio(audio)
    assert sound.sample_rate == s.sampling_rate
    run.check("waveform", sound.waveform[0])
