"""LTX23LoRA: add a LoRA to the model."""
from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ...ltx23_core.errors import LTX23Error
from ...ltx23_core.lora.settings import MODES, STAGE_FACTORS, Lora
from ..checks import guarded
from ..host import progress
from ..sockets import Model, advanced, schema
from ..validation import before_the_run, no_guess
from .files import FILES

if TYPE_CHECKING:
    from ...ltx23_core.pipeline import Pipeline

log = logging.getLogger("ltx23")
KEY = "lora"  # of FILES
STAGES = list(STAGE_FACTORS)


def _factor(name: str, what: str) -> io.Float.Input:
    return advanced(io.Float.Input(name, default=1.0, min=-10.0, max=10.0, step=0.05, tooltip=(
        f"Factor of strength, -10 to 10, for {what}. 0 leaves it as it is without the LoRA. Default 1.")))


class LoraNode(io.ComfyNode):
    """Add a LoRA; several nodes in a row add several."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The list is that of the last look (`files.Files`)."""
        return schema(
            node_id="LTX23LoRA", display_name="LoRA (add to model)", aliases=["lora", "ic-lora", "style", "adapter"],
            description="Adds a LoRA to the model. Put it between Load and the nodes that use the model; "
                        "chain several. Nothing is loaded here, and another strength loads no model.",
            inputs=[
                Model.Input("model", tooltip="The model, from Load or another LoRA."),
                io.Combo.Input("lora", options=FILES.names(KEY), tooltip=(
                    "LoRA from models/loras. Listed are those that LTX-2.3 can use, in any of the common "
                    "formats. The distilled LoRA of two-stage recipes belongs into Overlay instead.")),
                io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.05, tooltip=(
                    "How strongly it acts, -10 to 10: 0 not at all, 1 (default) as it was trained, below 0 "
                    "the other way.")),
                _factor("video", "all that makes the picture, with its attention to the sound"),
                _factor("audio", "all that makes the sound, with its attention to the picture"),
                _factor("cross", "the attentions between picture and sound, on top of the other two factors"),
                advanced(io.Combo.Input("stages", options=STAGES, default=STAGES[0], tooltip=(
                    "Stages of the recipe in which it acts. all (default); first: for IC-LoRAs, as in the "
                    "official pipeline; second: the refining stage after the upscale. Recipes of one stage "
                    "have only the first."))),
                advanced(io.Combo.Input("mode", options=list(MODES), default=MODES[0], tooltip=(
                    "fused: into the weights, as in the official code. runtime: beside the weights, so "
                    "another strength reads nothing; needs memory of the file's size, a step takes a little "
                    "longer, and the result differs by rounding. auto (default): fused, unless its strength "
                    "differs between stages."))),
            ],
            outputs=[
                Model.Output(display_name="model", tooltip="The model with the LoRA."),
                io.String.Output(display_name="report", tooltip=(
                    "What the LoRA changes, at which strength, and what of the file was left out and why.")),
            ],
        )

    validate_inputs = before_the_run("lora", guess=no_guess, checks=[
        lambda given: FILES.find(KEY, given["lora"]) if "lora" in given else None])

    @classmethod
    def fingerprint_inputs(cls, lora: str | None = None, **_: object) -> str:
        """Stands for time and size of the file: the node runs again when it changed. No path of the user in it."""
        if lora is None:
            return ""
        try:
            return FILES.fingerprint(KEY, lora)
        except LTX23Error as error:  # the node itself will say so
            return str(error)

    @classmethod
    @guarded
    def execute(cls, model: Pipeline, lora: str, strength: float, video: float, audio: float, cross: float,
                stages: str, mode: str) -> io.NodeOutput:
        """Add it after those that the model has."""
        path = FILES.find(KEY, lora).identity.path
        changed = model.with_loras((*model.loras, Lora(path, strength, video, audio, cross, stages, mode)))
        warnings = _given_twice(model, path)
        if changed.idle_loras[-1]:
            warnings.append(f"{path.name} changes nothing: every factor is 0, as in a LoRA that was never trained.")
        if warnings:
            progress.say("\n".join(warnings))
        return io.NodeOutput(changed, "\n".join((changed.lora_reports[-1], *warnings)))


def _given_twice(model: Pipeline, path: Path) -> list[str]:
    """A line where the model has this file already: two of it act like one of both strengths added up."""
    places = []
    if any(Path(each.path) == path for each in model.loras):
        places.append("another LoRA node")
    distilled = model.overlay.components.get("distilled_lora")
    if distilled is not None and any(ref.path == path for ref in distilled.tensors.values()):
        places.append("the distilled LoRA of Overlay, which recipes of two stages add themselves")
    lines = []
    for place in places:
        line = f"{path.name} is given twice: here and as {place}. Both act."
        log.warning(line)
        lines.append(line)
    return lines
