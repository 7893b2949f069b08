"""LTX23NAG, LTX23APG: guidance named after its papers, as options of Guidance or of the recipe's own values."""
from __future__ import annotations

from comfy_api.latest import io

from ...ltx23_core.plan.guidance import RECIPE, Apg, Nag
from ...ltx23_core.plan.guidance import Guidance as GuidanceValues
from ..checks import guarded
from ..sockets import Guidance, advanced, schema
from ..validation import before_the_run

STREAMS = ["both", "video", "audio"]
GIVEN = "Guidance that gets this option, at every sigma. Not linked: the recipe's official values get it."
OUTPUT = "The guidance with this option, for Sampler, Guidance Range or another option."


def _streams() -> io.Combo.Input:
    return io.Combo.Input("streams", options=STREAMS, default="both", tooltip=(
        "Where it acts: both (default), video or audio. For other values in the other stream chain a second "
        "node."))


class NAGNode(io.ComfyNode):
    """Normalized attention guidance, also for distilled models, where CFG does not act."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Defaults are the paper's for distilled Flux models."""
        defaults = Nag()
        return schema(
            node_id="LTX23NAG", display_name="NAG (guidance)", aliases=["normalized attention "
                                                             "guidance", "negative prompt"],
            description="Normalized attention guidance: makes the negative prompt act inside the text "
                        "attention. It needs no further pass, so it also works in distilled recipes, in all "
                        "of their stages.",
            inputs=[
                io.Float.Input("scale", default=defaults.scale, min=1.0, max=50.0, step=0.1, tooltip=(
                    "How far away from the negative prompt, 1 (off) to 50. Paper's default for distilled "
                    "models 5; higher is stronger.")),
                io.Float.Input("tau", default=defaults.tau, min=0.1, max=20.0, step=0.1, tooltip=(
                    "How much larger a token's attention may become, as a factor: 0.1 to 20. Lower it if "
                    "colours or sound break. Paper's default 2.5.")),
                io.Float.Input("alpha", default=defaults.alpha, min=0.0, max=1.0, step=0.01, tooltip=(
                    "Share of the guided attention in the result, 0 (off) to 1. Paper's default 0.25; higher "
                    "is stronger.")),
                _streams(),
                Guidance.Input("guidance", optional=True, tooltip=GIVEN),
            ],
            outputs=[Guidance.Output(display_name="guidance", tooltip=OUTPUT)],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, scale: float, tau: float, alpha: float, streams: str,
                guidance: GuidanceValues = RECIPE) -> io.NodeOutput:
        """Add the option."""
        return io.NodeOutput(guidance.with_options(streams, nag=Nag(scale, tau, alpha)))


class APGNode(io.ComfyNode):
    """Adaptive projected guidance in the place of plain CFG."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """eta and momentum are the paper's; its norm thresholds are for other latents, so that is off."""
        defaults = Apg()
        return schema(
            node_id="LTX23APG", display_name="APG (guidance)", aliases=["adaptive projected "
                                                             "guidance", "cfg", "oversaturation"],
            description="Adaptive projected guidance: changes what CFG adds so that a high CFG oversaturates "
                        "less. Acts where CFG is not 1, so not in distilled recipes.",
            inputs=[
                io.Float.Input("eta", default=defaults.eta, min=-10.0, max=10.0, step=0.05, tooltip=(
                    "Share that stays of the part of CFG which only amplifies the prediction, -10 to 10: 1 "
                    "keeps all as plain CFG does. Paper's default 0.")),
                io.Float.Input("norm_threshold", default=defaults.norm_threshold, min=0.0, max=10000.0, step=0.5,
                               tooltip=(
                    "Largest norm of what CFG adds over all values of the latent, 0 to 10000. It grows with "
                    "size and length, so there is no general value. 0 (default): no limit.")),
                advanced(io.Float.Input("momentum", default=defaults.momentum, min=-0.99, max=0.99, step=0.05, tooltip=(
                    "Weight of the earlier steps' differences, -0.99 to 0.99: negative values move away from "
                    "what was added before. 0 is off; paper's default -0.5."))),
                _streams(),
                Guidance.Input("guidance", optional=True, tooltip=GIVEN),
            ],
            outputs=[Guidance.Output(display_name="guidance", tooltip=OUTPUT)],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, eta: float, norm_threshold: float, momentum: float, streams: str,
                guidance: GuidanceValues = RECIPE) -> io.NodeOutput:
        """Add the option."""
        return io.NodeOutput(guidance.with_options(streams, apg=Apg(eta, norm_threshold, momentum)))
