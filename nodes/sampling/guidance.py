"""LTX23Guidance, LTX23GuidanceRange: how strongly the sampler follows prompt, structure and the other modality."""
from __future__ import annotations

import re

from comfy_api.latest import io

from ...ltx23_core.errors import RequestError
from ...ltx23_core.plan.guidance import RECIPE, GuiderParams
from ...ltx23_core.plan.guidance import Guidance as GuidanceValues
from ...ltx23_core.plan.recipes import OFFICIAL_LAYERS, official_guidance
from ..checks import guarded
from ..sockets import Guidance, advanced, schema
from ..validation import before_the_run

CFG = ("CFG scale: how strongly the {what} follows the prompt rather than the negative prompt. 1 switches it "
       "off and, where video and audio are both 1, saves a pass a step; official default {default}.")
STG = ("Spatio-temporal guidance: pushes the {what} away from a pass without self-attention, for steadier "
       "structure. 0 switches it off and, where video and audio are both 0, saves a pass a step; official "
       "default {default}.")
MODALITY = ("How strongly the {what} follows the other modality, for sound in time with the picture. 1 "
            "switches it off and, where both are 1, saves a pass a step; official default {default}.")
RESCALE = ("Pulls the contrast of the guided {what} back towards the unguided one: 0 (off) to 1. Raise it if "
           "the result looks or sounds overdriven; official default {default}.")
STG_BLOCKS = ("Transformer blocks whose {what} self-attention the STG pass leaves out: numbers from 0, "
              "separated by commas. Official default 28 (of 48). Empty is allowed where the STG scale is 0.")
SKIP_STEP = ("Computes the {what} only every (value + 1)-th step and reuses its last result in between: "
             "faster and rougher. Where video and audio both skip a step, it costs nothing. 0 (official "
             "default): every step.")
CFG_STAR = ("CFG-Zero*: scales the negative prediction of the {what} to fit the positive one before CFG "
            "takes their difference; can calm high CFG. Not together with APG. Off (official default).")

MAX_SKIP, MAX_DIGITS = 9, 6
SCALES = [("cfg", CFG, 30.0), ("stg", STG, 10.0), ("modality", MODALITY, 10.0), ("rescale", RESCALE, 1.0)]


def blocks(text: str, name: str = "video_stg_blocks") -> tuple[int, ...]:
    """Read the block numbers of an input, such as "28" or "27, 28"; `RequestError` for anything else."""
    words = text.replace(",", " ").split()
    if not re.fullmatch("[0-9 ]*", " ".join(words)):
        raise RequestError(f"{name} is {text!r}", "whole numbers from 0, separated by commas", "Use 28.")
    if max(map(len, words), default=0) > MAX_DIGITS:
        raise RequestError(f"{name} is {text[:40]!r}", "numbers of transformer blocks", "Use 28.")
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
        inputs += [advanced(io.Int.Input(f"{what}_skip_step", default=0, min=0, max=MAX_SKIP, optional=True,
                                         tooltip=SKIP_STEP.format(what=what))) for what in streams]
        inputs += [advanced(io.Boolean.Input(f"{what}_cfg_star", default=False, optional=True,
                                             tooltip=CFG_STAR.format(what=what))) for what in streams]
        return schema(
            node_id="LTX23Guidance", display_name="Guidance (CFG, STG)", aliases=["cfg", "stg", "rescale", "modality"],
            description="Strengths of guidance for video and audio. Without this node the recipe's official "
                        "values are used; distilled recipes run without guidance.",
            inputs=inputs,
            outputs=[Guidance.Output(display_name="guidance", tooltip="The strengths, for Sampler.")],
        )

    validate_inputs = before_the_run("video_stg_blocks", "audio_stg_blocks", checks=[
        lambda given: blocks(given.get("video_stg_blocks", ""), "video_stg_blocks"),
        lambda given: blocks(given.get("audio_stg_blocks", ""), "audio_stg_blocks")])

    @classmethod
    @guarded
    def execute(cls, video_cfg: float, video_stg: float, video_modality: float, video_rescale: float,
                audio_cfg: float, audio_stg: float, audio_modality: float, audio_rescale: float,
                video_stg_blocks: str, audio_stg_blocks: str,
                video_skip_step: int = 0, audio_skip_step: int = 0,
                video_cfg_star: bool = False, audio_cfg_star: bool = False) -> io.NodeOutput:
        """Collect the values."""
        return io.NodeOutput(GuidanceValues(
            video=GuiderParams(video_cfg, video_stg, video_modality, video_rescale,
                               blocks(video_stg_blocks, "video_stg_blocks"), video_skip_step, video_cfg_star),
            audio=GuiderParams(audio_cfg, audio_stg, audio_modality, audio_rescale,
                               blocks(audio_stg_blocks, "audio_stg_blocks"), audio_skip_step, audio_cfg_star)))


class GuidanceRangeNode(io.ComfyNode):
    """Guidance for a part of the schedule; nodes of this kind chain."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23GuidanceRange", display_name="Guidance Range",
            aliases=["guidance interval", "cfg interval", "cfg schedule"],
            description="Lets guidance act only while the noise level (sigma) is between two values. Chain "
                        "several through otherwise for other values in other parts.",
            inputs=[
                io.Float.Input("from_sigma", default=0.0, min=0.0, max=1.0, step=0.001, tooltip=(
                    "Lowest sigma at which the guidance acts, 0 to 1, itself included. Default 0: to the "
                    "end.")),
                io.Float.Input("to_sigma", default=1.0, min=0.001, max=1.0, step=0.001, tooltip=(
                    "Highest sigma at which the guidance acts, 0 to 1, itself included; sampling begins at "
                    "1. Default 1: from the beginning.")),
                Guidance.Input("guidance", optional=True, tooltip=(
                    "The values that act in this range, from Guidance, NAG or APG. Not linked: the "
                    "recipe's.")),
                Guidance.Input("otherwise", optional=True, tooltip=(
                    "The values outside this range, for example another Guidance Range. Not linked: no "
                    "guidance there, so those steps take one pass.")),
            ],
            outputs=[Guidance.Output(display_name="guidance", tooltip="Guidance over sigma, for Sampler.")],
        )

    validate_inputs = before_the_run("to_sigma", checks=[
        lambda given: RECIPE.within(given.get("from_sigma", 0.0), given.get("to_sigma", 1.0))])

    @classmethod
    @guarded
    def execute(cls, from_sigma: float, to_sigma: float, guidance: GuidanceValues = RECIPE,
                otherwise: GuidanceValues | None = None) -> io.NodeOutput:
        """Put the range around the values."""
        return io.NodeOutput(guidance.within(from_sigma, to_sigma, otherwise))
