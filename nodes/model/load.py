"""LTX23Load: from an overlay to a model that generates."""
from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from comfy_api.latest import io

from ...ltx23_core.lora.settings import MODES
from ...ltx23_core.plan.settings import ATTENTION
from ..checks import before_the_run, guarded
from ..host import memory as host_memory
from ..sockets import Model, Overlay, advanced, schema

if TYPE_CHECKING:
    from ...ltx23_core.overlay import Overlay as OverlayFiles
    from ...ltx23_core.pipeline import Pipeline

PRECISIONS = ["auto", "bf16", "fp32"]

# Two Load nodes with equal settings share one pipeline, so no weight is loaded twice. Weak: the node's output is
# the cache, and ComfyUI decides how long it lives.
_PIPELINES: WeakValueDictionary[tuple[str, str, str, str, str], Pipeline] = WeakValueDictionary()


class LoadNode(io.ComfyNode):
    """Prepare the model; weights are read when a stage first needs them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23Load", display_name="Load", aliases=["model", "loader", "pipeline"],
            description="Prepares an overlay for use. Each part is read from its file when a stage first "
                        "needs it, then kept until ComfyUI wants the memory.",
            inputs=[
                Overlay.Input("overlay", tooltip="The described model, from Overlay."),
                advanced(io.Combo.Input("precision", options=PRECISIONS, default="auto", tooltip=(
                    "Number format of weights and calculation. auto (default): bf16 as in the official code, "
                    "fp32 on a CPU. fp32 needs twice the memory and is slower. The vocoder is always "
                    "fp32."))),
                advanced(io.Combo.Input("attention", options=list(ATTENTION), default="auto", tooltip=(
                    "Attention kernel. auto (default) lets torch choose. Force one only to compare speed, or "
                    "where auto fails; results differ by rounding only."))),
                advanced(io.Combo.Input("lora_mode", optional=True, options=list(MODES), default="auto", tooltip=(
                    "How the overlay's distilled LoRA acts in recipes of two stages. fused: in the weights, "
                    "with the official rounding; between the stages 38 GB are read again. runtime: beside "
                    "the weights, 7.6 GB more memory. auto (default): runtime for two_stage and hq where it "
                    "fits, else fused."))),
                advanced(io.String.Input("memory", optional=True, default="auto", tooltip=(
                    "How much of the device the weights may take. auto (default): as much as fits, the rest "
                    "comes in block by block while it runs. resident: all, or refused. stream: as little as "
                    "possible. A number: a budget in GB for weights and calculation together, such as 12. "
                    "Results are the same."))),
            ],
            outputs=[Model.Output(display_name="model", tooltip="The model, for Prompt, Sampler and the "
                                                                "decoders.")],
        )

    validate_inputs = before_the_run("overlay", "precision", "attention", "lora_mode", "memory")

    @classmethod
    @guarded
    def execute(cls, overlay: OverlayFiles, precision: str, attention: str, lora_mode: str = "auto",
                memory: str = "auto") -> io.NodeOutput:
        """Build the pipeline, or hand out the one that an equal node has built."""
        from ...ltx23_core.pipeline import Pipeline

        key = (overlay.id, precision, attention, lora_mode, memory)
        pipeline = _PIPELINES.get(key)
        if pipeline is None:
            pipeline = Pipeline.load(overlay, dtype=precision, attention=attention, lora_mode=lora_mode,
                                     residency=host_memory.Residency(memory))
            _PIPELINES[key] = pipeline
        return io.NodeOutput(pipeline)
