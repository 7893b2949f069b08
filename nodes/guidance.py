"""LTX23Guidance: how strongly the sampler follows prompt, structure and the other modality."""
from __future__ import annotations

import re

from comfy_api.latest import io

from ..ltx23_core.errors import LTX23Error, RequestError
from ..ltx23_core.recipes import OFFICIAL_LAYERS, official_guidance
from ..ltx23_core.sampling.guidance import Guidance as GuidanceValues
from ..ltx23_core.sampling.guidance import GuiderParams
from .sockets import Guidance, advanced, schema

CFG = ("CFG scale: how strongly the {what} follows the prompt rather than the negative prompt. 1 switches it off "
       "and, where video and audio are both 1, saves a pass a step; official default {default}.")
STG = ("Spatio-temporal guidance: pushes the {what} away from a pass without self-attention, for steadier structure. "
       "0 switches it off and, where video and audio are both 0, saves a pass a step; official default {default}.")
MODALITY = ("How strongly the {what} follows the other modality, for sound in time with the picture. 1 switches it "
            "off and, where both are 1, saves a pass a step; official default {default}.")
RESCALE = ("Pulls the contrast of the guided {what} back towards the unguided one: 0 (off) to 1. Raise it if the "
           "result looks or sounds overdriven; official default {default}.")
STG_BLOCKS = ("Transformer blocks whose {what} self-attention the STG pass leaves out: numbers from 0, separated by "
              "commas. Official default 28 (of 48). Empty is allowed where the STG scale is 0.")

SCALES = [("cfg", CFG, 30.0), ("stg", STG, 10.0), ("modality", MODALITY, 10.0), ("rescale", RESCALE, 1.0)]


def blocks(text: str) -> tuple[int, ...]:
    """Read a list of block numbers such as "28" or "27, 28"; `RequestError` for anything else."""
    words = [word for word in re.split(r"[,\s]+", text.strip()) if word]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise RequestError(f"STG blocks are {text!r}", "whole numbers from 0, separated by commas", "Use 28.")
    return tuple(map(int, words))


def _scale(what: str, params: GuiderParams, name: str, text: str, high: float) -> io.Float.Input:
    default = getattr(params, name)
    return io.Float.Input(f"{what}_{name}", default=default, min=0.0, max=high, step=0.05,
                          tooltip=text.format(what=what, default=default))


class GuidanceNode(io.ComfyNode):
    """Guidance for video and audio, each with its own strengths."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Defaults are those of the official one-stage recipe (spec/07 §6)."""
        official = official_guidance(OFFICIAL_LAYERS)
        streams = {"video": official.video, "audio": official.audio}
        inputs = [_scale(what, params, *scale) for what, params in streams.items() for scale in SCALES]
        inputs += [advanced(io.String.Input(f"{what}_stg_blocks", default=", ".join(map(str, params.stg_blocks)),
                                            tooltip=STG_BLOCKS.format(what=what)))
                   for what, params in streams.items()]
        return schema(
            node_id="LTX23Guidance", display_name="Guidance", aliases=["cfg", "stg", "rescale", "modality"],
            description="Strengths of guidance for video and audio. Without this node the recipe's official values "
                        "are used; distilled recipes run without guidance.",
            inputs=inputs,
            outputs=[Guidance.Output(display_name="guidance", tooltip="The strengths, for Sampler.")],
        )

    @classmethod
    def validate_inputs(cls, video_stg_blocks: str | None = None, audio_stg_blocks: str | None = None) -> bool | str:
        """Refuse block lists that are not numbers."""
        try:
            blocks(video_stg_blocks or "")
            blocks(audio_stg_blocks or "")
        except LTX23Error as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, video_cfg: float, video_stg: float, video_modality: float, video_rescale: float,
                audio_cfg: float, audio_stg: float, audio_modality: float, audio_rescale: float,
                video_stg_blocks: str, audio_stg_blocks: str) -> io.NodeOutput:
        """Collect the values."""
        return io.NodeOutput(GuidanceValues(
            video=GuiderParams(video_cfg, video_stg, video_modality, video_rescale, blocks(video_stg_blocks)),
            audio=GuiderParams(audio_cfg, audio_stg, audio_modality, audio_rescale, blocks(audio_stg_blocks))))
