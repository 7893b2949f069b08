"""Golden case of IC-LoRA reference videos, through `ReferenceVideo.apply` and what it calls."""
from __future__ import annotations

from types import SimpleNamespace

import torch

from ltx23_core.conditioning.image import ImageCondition
from ltx23_core.conditioning.reference import (
    ReferenceVideo,
    append_reference,
    kept_frames,
    mask_weights,
    reference_positions,
)
from ltx23_core.conditioning.source import SourceClip, encode_frames
from ltx23_core.geometry import VideoGrid
from ltx23_core.ops.attention import mask_bias
from ltx23_core.plan.condition import StageSetting
from ltx23_core.sampling import solvers
from ltx23_core.sampling.state import StatePair, StreamState

from .cases_conditions import check_state, noised, velocities
from .cases_sampling import Loop, grid_of, plain_states
from .cases_sampling import _finish as finish
from .harness import Case, case, module

MASKED = -100.0  # the stored form of the lowest float32


class References:
    """The conditions of the case on its inputs."""

    def __init__(self, run: Case) -> None:
        s = run.settings
        self.run, self.grid = run, grid_of(s.latent_grid)
        encoders = SimpleNamespace(dtype=torch.float32, encode_video=module("video_encoder"))
        self.stage = StageSetting(1, self.grid, s.audio_frames, s.fps, encoders)
        self.source = SourceClip(run.inputs["reference_u8"][0].permute(1, 2, 3, 0))
        self.mask = run.inputs["mask_u8"][0, 0] / 255

    def condition(self, attention: float = 1.0, strength: float = 1.0,
                  mask: torch.Tensor | None = None) -> ReferenceVideo:
        factor = self.run.settings.reference_downscale_factor
        return ReferenceVideo(self.source, strength, attention, mask, downscale=factor)

    def first(self, states: StatePair, **options: object) -> StatePair:
        return self.condition(**options).apply(states, self.stage)

    def second(self, states: StatePair, **options: object) -> StatePair:
        """The reference that the case gives as a latent."""
        video = append_reference(states[0], self.run.inputs["reference_latent_2"], self.grid.tokens,
                                 self.run.settings.fps, self.condition(**options))
        return video, states[1]

    def image(self, video: StreamState, name: str, frame: int, strength: float) -> StreamState:
        condition = ImageCondition(torch.zeros(2, 2, 3), frame, strength)
        return condition.place(video, self.run.inputs[name], frame, self.run.settings.fps)

    def variant(self, name: str) -> StatePair:
        s = self.run.settings
        states = plain_states(self.run, self.grid, s.audio_frames, s.fps)
        if name == "many":
            image = self.image(states[0], "image_latent", 0, 1.0)
            last = self.image(image, "keyframe_latent", self.grid.pixel_frames - 1, 0.9)
            attention, strengths = s.attention_strength["many"], s.strength["many"]
            states = self.first((last, states[1]), attention=attention, strength=strengths[0])
            return self.second(states, attention=attention, strength=strengths[1])
        if name == "mask":
            return self.first(states, attention=0.8, mask=self.mask)
        states = self.first(states, attention=s.attention_strength[name], strength=s.strength.get(name, 1.0))
        return self.second(states) if name == "two_unmasked" else states


@case("reference_video")
@torch.no_grad()
def reference_video(run: Case) -> None:
    s, given, sigmas = run.settings, References(run), run.inputs["sigmas"].tolist()
    width, height = (side // s.reference_downscale_factor for side in (given.stage.width, given.stage.height))
    latent = encode_frames(given.stage, given.source.frames, range(given.grid.pixel_frames), width, height)
    run.check("reference_latent", latent)
    run.check("mask_weights", mask_weights(given.mask, tuple(range(len(given.mask))), tuple(latent.shape[2:]),
                                           (given.stage.height, given.stage.width)))
    for name in s.variants:
        states = given.variant(name)
        video, x = states[0], noised(run, states, 1.0)  # as in stage 1, whatever the loop's first sigma
        check_state(run, f"{name}.", video, x[0])
        assert (video.attention is None) == (f"{name}.attention_mask" not in run.entry["outputs"])
        if video.attention is not None:
            seen = video.attention.dense().expand(len(video.clean), -1, -1)
            run.check(f"{name}.attention_mask", seen)
            run.check(f"{name}.attention_bias", mask_bias(seen, torch.float32).clamp(min=MASKED)[:, None])
        for kind, velocity in zip(("video", "audio"), velocities(run, states, x, s.forward_sigma), strict=True):
            run.check(f"{name}.velocity_{kind}", velocity)
        loop = Loop(run, states, None)
        x = solvers.euler(loop.model, x, sigmas)
        run.check(f"{name}.video_tokens_all", x[0])
        finish(run, loop, x, given.grid, f"{name}.")
    _temporal(run)


def _temporal(run: Case) -> None:
    settings = run.settings.temporal
    grid = VideoGrid(*settings["target_latent_grid"])
    for name, factor in settings["reference_temporal_scale_factor"].items():
        kept = kept_frames(tuple(range(grid.pixel_frames)), factor)
        run.check(f"{name}.frames", torch.tensor(kept))
        size = run.entry["outputs"][f"{name}.positions"]["shape"][2]
        frames = (len(kept) - 1) // 8 + 1
        assert frames == size, "one token a latent frame"
        run.check(f"{name}.positions", reference_positions((frames, 1, 1), run.settings.fps,
                                                           run.settings.reference_downscale_factor, factor))
