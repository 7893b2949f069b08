"""Golden cases of single streams, image strengths, keyframes, source audio and gradient estimation."""
from __future__ import annotations

from types import SimpleNamespace

import torch

from ltx23_core.conditioning.image import ImageCondition
from ltx23_core.conditioning.source_streams import SourceAudio
from ltx23_core.config import AudioVAEConfig
from ltx23_core.geometry import VideoGrid, audio_positions, video_positions
from ltx23_core.media.audio import Audio
from ltx23_core.media.image import resize_and_crop
from ltx23_core.models.audio.mel import waveform_to_mel
from ltx23_core.models.latent_upsampler import upsample
from ltx23_core.models.transformer.inputs import Pass, StreamInput
from ltx23_core.plan.condition import StageSetting
from ltx23_core.plan.guidance import Guidance
from ltx23_core.sampling import solvers
from ltx23_core.sampling.state import Streams, StreamState, audio_to_tokens, map_streams, video_to_tokens

from .cases_sampling import Loop, as_latents, grid_of, guidance, guider, plain_states
from .cases_sampling import _finish as finish
from .harness import Case, case, config, latent_statistics, lora_module, module


def noised(run: Case, states: Streams, sigma: float) -> Streams:
    """Start of a loop; a variant with fewer tokens takes the first ones of the noise."""
    noise = (run.inputs.get("video_noise"), run.inputs.get("audio_noise"))
    return map_streams(lambda s, n: s.noised(n[:, :s.clean.shape[1]], sigma), states, noise)


def placed(run: Case, state: StreamState, latent: torch.Tensor, frame: int, strength: float,
           placement: str = "auto") -> StreamState:
    """An image's latent at a pixel frame, as `ImageCondition` places it."""
    condition = ImageCondition(torch.zeros(2, 2, 3), frame, strength, placement=placement)
    return condition.place(state, latent, frame, run.settings.fps)


def encoded(run: Case, name: str) -> torch.Tensor:
    """Latent of an image input, checked where the case has it."""
    latent = module("video_encoder")(run.inputs[name + "_u8"].float() / 127.5 - 1)
    if name + "_latent" in run.entry["outputs"]:
        run.check(name + "_latent", latent)
    return latent


def check_state(run: Case, prefix: str, state: StreamState, start: torch.Tensor, positions: bool = True) -> None:
    run.check(prefix + "start", start)
    run.check(prefix + "denoise_mask", state.mask)
    run.check(prefix + "clean_latent", state.clean)
    if positions:
        run.check(prefix + "positions", state.positions)


def velocities(run: Case, states: Streams, x: Streams, sigma: float) -> Streams:
    """One conditional forward on a start state, every token with its own timestep."""
    model = module("transformer")
    tables = model.tables(*(s.positions for s in states), torch.float32,
                          states[0].attention.rows(torch.float32) if states[0].attention else ())

    def stream(state: StreamState, part: torch.Tensor) -> StreamInput:
        scalar = torch.full(part.shape[:1], 0.0 if state.frozen else sigma)
        return StreamInput(part, scalar, state.mask[..., 0] * sigma)

    inputs = [stream(s, part) for s, part in zip(states, x, strict=True)]
    return model(*inputs, [Pass(run.inputs["video_context"], run.inputs["audio_context"])], tables)[0]


@case("gradient_estimation")
def gradient_estimation(run: Case) -> None:
    s, sigmas = run.settings, run.inputs["sigmas"].tolist()
    grid = grid_of(s.latent_grid)
    for name, gamma in s.gamma.items():
        states = plain_states(run, grid, s.audio_frames, s.fps)
        if name == "image":
            states = (states[0].replaced(video_to_tokens(run.inputs["image_latent"]), 0, s.image_strength), states[1])
        loop = Loop(run, states, guidance(run) if name in s.guided else None)
        x = solvers.gradient_estimation(loop.model, noised(run, states, sigmas[0]), sigmas, gamma=gamma)
        finish(run, loop, x, grid, name + ".")


@case("video_only")
def video_only(run: Case) -> None:
    s, sigmas = run.settings, run.inputs["sigmas"].tolist()
    grid = grid_of(s.latent_grid)
    zeros = torch.zeros(s.batch, grid.tokens, run.inputs["video_noise"].shape[-1])
    for prefix, guide in (("", Guidance(video=guider(s.video_guider))), ("simple.", None)):
        states = (StreamState.from_tokens(zeros, video_positions(grid, s.fps)), None)
        loop = Loop(run, states, guide)
        finish(run, loop, solvers.euler(loop.model, noised(run, states, sigmas[0]), sigmas), grid, prefix)


@case("text_to_audio")
@torch.no_grad()
def text_to_audio(run: Case) -> None:
    s, sigmas = run.settings, run.inputs["sigmas"].tolist()
    zeros = torch.zeros(s.batch, s.audio_frames, run.inputs["audio_noise"].shape[-1])
    for prefix, guide in (("", Guidance(audio=guider(s.audio_guider))), ("simple.", None)):
        states = (None, StreamState.from_tokens(zeros, audio_positions(s.audio_frames)))
        loop = Loop(run, states, guide)
        x = solvers.euler(loop.model, noised(run, states, sigmas[0]), sigmas)
        finish(run, loop, x, VideoGrid(0, 0, 0), prefix)
        if not prefix:
            sound = module("vocoder")(module("audio_decoder")(as_latents(run, x, VideoGrid(0, 0, 0))[1]))
            run.check("waveform", sound[0, :, :run.entry["outputs"]["waveform"]["shape"][1]])


@case("i2v_strength")
@torch.no_grad()
def i2v_strength(run: Case) -> None:
    s, sigmas = run.settings, run.inputs["sigmas"].tolist()
    grid = grid_of(s.latent_grid)
    video, audio = plain_states(run, grid, s.audio_frames, s.fps)
    replaced = placed(run, video, encoded(run, "image"), 0, s.strength)
    both = placed(run, replaced, encoded(run, "image_2"), s.keyframe["frame_idx"], s.keyframe["strength"])
    for prefix, state in (("replaced.", replaced), ("replaced_and_keyframe.", both)):
        x = noised(run, (state, audio), sigmas[0])
        check_state(run, prefix, state, x[0])
        for kind, velocity in zip(("video", "audio"), velocities(run, (state, audio), x, s.forward_sigma), strict=True):
            run.check(f"{prefix}velocity_{kind}", velocity)
        loop = Loop(run, (state, audio), guidance(run))
        finish(run, loop, solvers.euler(loop.model, x, sigmas), grid, prefix)


@case("keyframe_interpolation")
@torch.no_grad()
def keyframe_interpolation(run: Case) -> None:
    s, sigmas = run.settings, run.inputs["sigmas"].tolist()
    grid = grid_of(s.latent_grid)
    state, audio = plain_states(run, grid, s.audio_frames, s.fps)
    for number, (frame, strength) in enumerate(zip(s.frame_idx, s.strength, strict=True)):
        state = placed(run, state, encoded(run, f"image_{number}"), frame, strength, "append")
    x = noised(run, (state, audio), sigmas[0])
    check_state(run, "video.", state, x[0])
    for kind, velocity in zip(("video", "audio"), velocities(run, (state, audio), x, sigmas[0]), strict=True):
        run.check(f"velocity_{kind}", velocity)
    loop = Loop(run, (state, audio), guidance(run))
    x = solvers.euler(loop.model, x, sigmas)
    run.check("video_tokens_all", x[0])
    finish(run, loop, x, grid)


@case("i2v_two_stage")
@torch.no_grad()
def i2v_two_stage(run: Case) -> None:
    s, given = run.settings, run.inputs

    def conditioned(state: StreamState, grid: VideoGrid, stage: int) -> StreamState:
        pixels = resize_and_crop(given["image_u8"], grid.height * 32, grid.width * 32)
        latent = module("video_encoder")(pixels)
        run.check(f"image_latent_{stage}", latent)
        return placed(run, state, latent, 0, s.strength)

    grid, grid_2 = grid_of(s.latent_grid), grid_of(s.stage2_latent_grid)
    video, audio = plain_states(run, grid, s.audio_frames, s.fps)
    states, sigmas = (conditioned(video, grid, 1), audio), given["sigmas_1"].tolist()
    x = noised(run, states, sigmas[0])
    check_state(run, "stage1.", states[0], x[0], positions=False)
    loop = Loop(run, states, guidance(run))
    latents = as_latents(run, solvers.euler(loop.model, x, sigmas), grid)
    run.check("stage1_video_latent", latents[0])
    run.check("stage1_audio_latent", latents[1])
    upscaled = upsample(module("upsampler_x2"), latents[0], *latent_statistics())
    run.check("upscaled_latent", upscaled)
    video = StreamState.from_tokens(video_to_tokens(upscaled), video_positions(grid_2, s.fps))
    audio = StreamState.from_tokens(audio_to_tokens(latents[1]), audio_positions(s.audio_frames))
    states = (conditioned(video, grid_2, 2), audio)
    x = map_streams(lambda state, noise: state.noised(noise, s.noise_scale), states,
                    (given["video_noise_2"], given["audio_noise_2"]))
    check_state(run, "stage2.", states[0], x[0], positions=False)
    loop = Loop(run, states, None, lora_module(s.lora_strength))
    latents = as_latents(run, solvers.euler(loop.model, x, given["sigmas_2"].tolist()), grid_2)
    run.check("stage2_video_latent", latents[0])
    run.check("stage2_audio_latent_discarded", latents[1])
    run.check("video_denoised_per_step", torch.stack([x[0] for x in loop.outputs]))


@case("audio_to_video")
@torch.no_grad()
def audio_to_video(run: Case) -> None:
    s, sigmas = run.settings, run.inputs["sigmas"].tolist()
    grid, vae = grid_of(s.latent_grid), AudioVAEConfig.from_dict(config("audio_vae"))

    def encode(sound: Audio) -> torch.Tensor:
        latent = module("audio_encoder")(waveform_to_mel(sound.waveform, sound.sample_rate, vae))
        run.check("audio_latent_encoded", latent)
        return latent

    zeros = torch.zeros(s.batch, grid.tokens, run.inputs["video_noise"].shape[-1])
    empty = torch.zeros(s.batch, s.audio_frames, vae.latent_channels * vae.latent_bins)
    plain = (StreamState.from_tokens(zeros, video_positions(grid, s.fps)),
             StreamState.from_tokens(empty, audio_positions(s.audio_frames)))
    stage = StageSetting(1, grid, s.audio_frames, s.fps, SimpleNamespace(dtype=torch.float32, encode_audio=encode))
    states = SourceAudio(Audio(run.inputs["waveform_16k"], vae.sampling_rate)).apply(plain, stage)
    audio = states[1]
    run.inputs["audio_noise"] = torch.randn_like(empty)  # a frozen stream takes none of it
    x = noised(run, states, sigmas[0])
    check_state(run, "audio.", audio, x[1], positions=False)
    for kind, velocity in zip(("video", "audio"), velocities(run, states, x, sigmas[0]), strict=True):
        run.check(f"velocity_{kind}_first", velocity)
    loop = Loop(run, states, Guidance(video=guider(s.video_guider)))
    finish(run, loop, solvers.euler(loop.model, x, sigmas), grid)
    loop = Loop(run, states, None)
    plain = solvers.euler(loop.model, x, s.simple_sigmas)  # the same start, whatever its first sigma
    run.check("simple.video_latent", as_latents(run, plain, grid)[0])
