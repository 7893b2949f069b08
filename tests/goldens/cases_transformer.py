"""Golden cases of the transformer: rotary tables, layouts, AdaLN, one block, whole forwards."""
from __future__ import annotations

import torch

from ltx23_core.config import ConnectorConfig, TransformerConfig
from ltx23_core.geometry import VideoGrid, audio_latent_length, audio_positions, video_grid, video_positions
from ltx23_core.models.transformer.adaln import sinusoid
from ltx23_core.models.transformer.block import BlockCall, State, StreamStep
from ltx23_core.models.transformer.inputs import STAGES, STREAMS, Pass, Perturbation, StreamInput
from ltx23_core.models.transformer.masked import Rows
from ltx23_core.models.transformer.model import Transformer, Velocities
from ltx23_core.models.transformer.rows import Coefficients, StepRows
from ltx23_core.ops.attention import mask_bias
from ltx23_core.ops.modulate import add_norm_modulate
from ltx23_core.ops.rope import rope_frequencies, rope_tables
from ltx23_core.sampling.denoiser import to_denoised
from ltx23_core.sampling.state import audio_to_tokens, video_to_tokens

from .harness import HANDLERS, Case, case, config, module


@case("rope")
def rope(run: Case) -> None:
    cfg = TransformerConfig.from_dict(config("transformer"))
    s = run.settings

    def check(name: str, middles: torch.Tensor, width: int, heads: int, limits: list[float]) -> None:
        for part, table in zip(("cos", "sin"), rope_tables(middles, width, tuple(limits), s.theta, torch.float32),
                               strict=True):
            run.check(f"{name}.{part}", table.unflatten(-1, (heads, -1)).transpose(1, 2))

    for suffix, video, audio in (("", cfg.video, cfg.audio), ("_22b", None, None)):
        if f"video_positions{suffix}" not in run.inputs:
            continue
        video_mid, audio_mid = (run.inputs[f"{k}_positions{suffix}"].mean(-1) for k in ("video", "audio"))
        # The real model's widths (spec/02 §1) where the case says 22b.
        vw, vh, aw, ah = (video.width, video.heads, audio.width, audio.heads) if video else (4096, 32, 2048, 32)
        check("video" + suffix, video_mid, vw, vh, s.video_max_pos)
        check("audio" + suffix, audio_mid, aw, ah, s.audio_max_pos)
        check("video_cross" + suffix, video_mid[:, :1], aw, ah, s.cross_max_pos)
        if not suffix:
            check("audio_cross", audio_mid, aw, ah, s.cross_max_pos)
    index = torch.arange(s.connector_tokens, dtype=torch.float32)[None, None]
    for kind in ("video", "audio"):
        c = ConnectorConfig.from_dict(config("transformer"), audio=kind == "audio")
        check(f"{kind}_connector", index, c.width, c.heads, s.connector_max_pos)
    run.check("freqs_video", rope_frequencies(s.theta, cfg.video.width // 6))


@case("latent_layout")
def latent_layout(run: Case) -> None:
    s = run.settings
    run.check("video_tokens", video_to_tokens(run.inputs["video"]))
    run.check("audio_tokens", audio_to_tokens(run.inputs["audio"]))
    grid = VideoGrid(s.latent_grid["F"], s.latent_grid["H"], s.latent_grid["W"])
    batch = len(run.inputs["video"])  # positions do not depend on the sample: the library keeps one set
    run.check("video_positions", video_positions(grid, s.fps).expand(batch, -1, -1, -1))
    run.check("audio_positions", audio_positions(s.audio_frames).expand(batch, -1, -1, -1))
    run.check("video_positions_b", video_positions(VideoGrid(*s.b["latent_grid"]), s.b["fps"]))
    run.check("audio_positions_b", audio_positions(s.b["audio_frames"]))
    sizes = []
    for frames, height, width, fps in run.inputs["pixel_shapes"].tolist():
        g = video_grid(int(width), int(height), int(frames))
        sizes.append([g.frames, g.height, g.width, audio_latent_length(int(frames), fps)])
    run.check("latent_sizes", torch.tensor(sizes))


@case("adaln")
def adaln(run: Case) -> None:
    model, sigmas = module("transformer"), run.inputs["timesteps"]
    scale = run.settings.timestep_scale_multiplier
    gate = scale * run.settings.av_ca_timestep_scale_multiplier / scale
    run.check("sinusoid", sinusoid(sigmas.flatten() * scale))
    for name in run.entry["outputs"]:
        if name.endswith("adaln_single"):
            head = getattr(model, name)
            rows, embedded = head(sigmas * (gate if "_gate_" in name else scale))
            run.check(name, rows)
            if name + ".embedded" in run.entry["outputs"]:
                run.check(name + ".embedded", embedded)


@case("block")
def block(run: Case) -> None:
    part, given = module("transformer").transformer_blocks[run.settings.block], run.inputs

    def rope(*names: str) -> tuple[torch.Tensor, ...]:
        """(B, heads, N, d / 2) in the case, a row a token here."""
        return tuple(given[name].transpose(1, 2).flatten(2) for name in names)

    def step(kind: str) -> StreamStep:
        names = ("timesteps", "prompt_timestep", "cross_scale_shift", "cross_gate")
        rows = StepRows([part], kind, Coefficients(*(given[f"{kind}.{name}"] for name in names)))
        return StreamStep(rows, rope(f"{kind}.cos", f"{kind}.sin"), rope(f"{kind}.cross_cos", f"{kind}.cross_sin"))

    call = BlockCall(0, {kind: step(kind) for kind in STREAMS}, Pass(given["video.context"], given["audio.context"]))
    states = {kind: State(given[f"{kind}.x"]) for kind in STREAMS}
    for stage in STAGES:
        states = part(stage, states, call)
    for kind, (x, update) in states.items():
        run.check(kind, add_norm_modulate(x, update, (), None, part.eps)[0])
    own = rope("video.cos", "video.sin")
    run.check("attn1", part.attn1(given["x"], rope=own))
    run.check("attn1_all_perturbed", part.attn1(given["x"], rope=own, skip=True))
    run.check("ff", part.ff(given["x"]))


def forward(model: Transformer, inputs: dict[str, torch.Tensor], passes: list[Pass],
            streams: tuple[bool, bool] = (True, True)) -> list[Velocities]:
    """Run the whole transformer on a case's inputs."""
    def stream(kind: str) -> StreamInput:
        return StreamInput(inputs[kind + "_latent"], inputs["sigma"], inputs[kind + "_timesteps"][..., 0])

    video, audio = (stream(k) if on else None for k, on in zip(("video", "audio"), streams, strict=True))
    tables = model.tables(inputs["video_positions"] if video else None, inputs["audio_positions"] if audio else None,
                          torch.float32, self_rows(inputs.get("video_attention_mask")))
    return model(video, audio, passes, tables)


def self_rows(mask: torch.Tensor | None) -> tuple[Rows, ...]:
    """A case's mask (1, N, N) of weights as what each of its tokens sees."""
    if mask is None:
        return ()
    bias = mask_bias(mask[0], torch.float32)
    return tuple(Rows(i, i + 1, seen) for i, seen in enumerate(bias))


def plain_pass(inputs: dict[str, torch.Tensor], perturbation: Perturbation | None = None) -> Pass:
    """The conditional pass of a case, with its text mask where it has one."""
    mask = inputs.get("text_mask")
    bias = None if mask is None else mask_bias(mask, torch.float32)[:, None, None]
    return Pass(inputs["video_context"], inputs["audio_context"], perturbation or Perturbation(), bias)


def _whole(run: Case) -> None:
    [(video, audio)] = forward(module("transformer"), run.inputs, [plain_pass(run.inputs)])
    run.check("video", video)
    run.check("audio", audio)
    for kind, velocity in (("video", video), ("audio", audio)):
        if kind + "_x0" in run.entry["outputs"]:
            run.check(kind + "_x0", to_denoised(run.inputs[kind + "_latent"], velocity,
                                                run.inputs[kind + "_timesteps"]))


for _name in ("dit_plain", "dit_text_mask", "dit_per_token", "dit_self_mask"):
    HANDLERS[_name] = _whole


@case("dit_stg")
def dit_stg(run: Case) -> None:
    blocks = frozenset(run.settings.blocks)
    # All passes in one call: the shared prefix is part of what is tested.
    perturbations = {"both": Perturbation(blocks, blocks), "video_only": Perturbation(blocks)}
    passes = [plain_pass(run.inputs), *(plain_pass(run.inputs, p) for p in perturbations.values())]
    for name, (video, audio) in zip(perturbations, forward(module("transformer"), run.inputs, passes)[1:], strict=True):
        run.check(name + ".video", video)
        run.check(name + ".audio", audio)


@case("dit_modality_skip")
def dit_modality_skip(run: Case) -> None:
    passes = [plain_pass(run.inputs), plain_pass(run.inputs, Perturbation(cross=True))]
    video, audio = forward(module("transformer"), run.inputs, passes)[1]
    run.check("video", video)
    run.check("audio", audio)


@case("dit_single_stream")
def dit_single_stream(run: Case) -> None:
    model = module("transformer")
    run.check("video", forward(model, run.inputs, [plain_pass(run.inputs)], (True, False))[0][0])
    run.check("audio", forward(model, run.inputs, [plain_pass(run.inputs)], (False, True))[0][1])
