"""LoRAs as users ask for them: which file, how strong in which stream and stage, fused or at run time."""
from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from ..errors import RequestError

MODES = ("auto", "fused", "runtime")
STAGE_FACTORS = {"all": (1.0, 1.0), "first": (1.0, 0.0), "second": (0.0, 1.0)}
FAMILIES = ("video", "audio", "cross-modal")
_CROSS = re.compile(r"(^|\.)(audio_to_video_attn|video_to_audio_attn|av_ca_|scale_shift_table_a2v_ca_)")
_INTO_AUDIO = re.compile(r"(^|\.)(audio_(?!to_video)|video_to_audio_attn|av_ca_audio_|av_ca_v2a_gate_|"
                         r"scale_shift_table_a2v_ca_audio)")


@dataclass(frozen=True)
class Lora:
    """One LoRA of a `Pipeline.with_loras`.

    The strength of a parameter is strength x stage x stream x cross, where

    * *stream* is that of the hidden state which the parameter's module writes: ``audio`` for modules named ``audio_…``
      (self and text attention, feed-forward, AdaLN, tables, connector, projection) and for ``video_to_audio_attn`` with
      its AdaLN rows and gate, ``video`` for all others, so also for ``audio_to_video_attn``;
    * *cross* counts for the cross-modal attentions of both directions with their AdaLN rows, tables and gates, and for
      nothing else.

    So ``audio=0`` leaves all that writes the sound as it was, and ``cross=0`` the exchange between the two.

    Modes: "fused" adds the change to the weights with the official roundings; another strength then reads the touched
    weights again. "runtime" keeps the factors beside the weights and adds strength · B (A x) to the output of each
    layer: another strength reads nothing; the result differs by rounding. On the tiny model in bfloat16 the latents of
    two_stage, hq and distilled_one_stage then differ from fused ones by 0.3, 6.0 and 0.9 % (relative L2), where fused
    bfloat16 differs from float32 by 3.2, 3.9 and 1.0 %, and runtime bfloat16 by 3.2, 4.0 and 0.8 %. DoRA, LoHa, LoKr
    and full differences are fused in every mode, and on layers of GGUF files everything acts at use, exactly as if
    fused. "auto": fused where the strength is the same in all stages of the recipe; otherwise runtime if the factors
    fit beside the weights, else fused anew between the stages.

    Text connectors and projection run once a prompt, for all stages: there the strength of stage 1 counts.

    Args:
        path: file of any dialect that `overlay.lora_dialects.read_lora` knows.
        strength: factor of all changes; 0 changes nothing, 1 is how it was trained, negative ones go the other way.
        video, audio: factors of what writes these streams.
        cross: factor of the cross-modal attentions.
        stages: "all", "first", "second", or a factor for each of the two. Recipes of one stage have only the first.
        mode: one of `MODES`.

    Raises:
        RequestError: a number that is not finite, or a word that is not known.
    """

    path: Path | str
    strength: float = 1.0
    video: float = 1.0
    audio: float = 1.0
    cross: float = 1.0
    stages: str | tuple[float, float] = "all"
    mode: str = "auto"

    def __post_init__(self) -> None:
        """Check the values."""
        check_mode(self.mode)
        if isinstance(self.stages, str):
            known = self.stages in STAGE_FACTORS
        else:
            known = isinstance(self.stages, tuple) and len(self.stages) == 2
        if not known:
            raise RequestError(f"the stages of a LoRA are {self.stages!r}",
                               f"{', '.join(STAGE_FACTORS)}, or two numbers", "Choose all.")
        for number in (self.strength, self.video, self.audio, self.cross, *self.stage_factors):
            if not isinstance(number, int | float) or not isfinite(number):
                raise RequestError(f"a LoRA strength is {number!r}", "a finite number", "Use 1.")

    @property
    def stage_factors(self) -> tuple[float, float]:
        """Of stage 1 and of stage 2."""
        if isinstance(self.stages, str):
            return STAGE_FACTORS[self.stages]
        return self.stages

    def strength_in(self, stage: int) -> float:
        """Strength in a stage, counted from 1, before the factors of the streams."""
        return self.strength * self.stage_factors[min(stage, 2) - 1]

    def factor(self, parameter: str) -> float:
        """Factor of the stream and the cross-modal attentions for a parameter."""
        own = self.video
        if writes_audio(parameter):
            own = self.audio
        if is_cross(parameter):
            own *= self.cross
        return own


def check_mode(mode: str) -> str:
    """The mode if it is one; `RequestError` otherwise."""
    if mode not in MODES:
        raise RequestError(f"the mode of a LoRA is {mode!r}", f"one of {', '.join(MODES)}", "Choose auto.")
    return mode


def is_cross(parameter: str) -> bool:
    """Whether a parameter belongs to the cross-modal attentions."""
    return _CROSS.search(parameter) is not None


def writes_audio(parameter: str) -> bool:
    """Whether a parameter's module writes the audio stream's hidden state; all others write the video stream's."""
    return _INTO_AUDIO.search(parameter) is not None


def family(parameter: str) -> str:
    """One of `FAMILIES`, for reports."""
    if is_cross(parameter):
        return "cross-modal"
    if writes_audio(parameter):
        return "audio"
    return "video"
