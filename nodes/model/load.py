"""LTX23Load: from an overlay to a model that generates."""
from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from comfy_api.latest import io

from ...ltx23_core.lora.settings import MODES
from ...ltx23_core.plan.settings import ATTENTION, MATMUL_DTYPES, WEIGHT_DTYPES
from ..checks import guarded
from ..host import memory as host_memory
from ..host import progress
from ..sockets import Model, Overlay, advanced, schema
from ..validation import before_the_run

if TYPE_CHECKING:
    from ...ltx23_core.overlay import Overlay as OverlayFiles
    from ...ltx23_core.pipeline import Pipeline

PRECISIONS = ["auto", "bf16", "fp32"]

# Two Load nodes with equal settings share one pipeline, so no weight is loaded twice. Weak: the node's output is
# the cache, and ComfyUI decides how long it lives.
_PIPELINES: WeakValueDictionary[tuple[str, ...], Pipeline] = WeakValueDictionary()


class LoadNode(io.ComfyNode):
    """Prepare the model; weights are read when a stage first needs them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23Load", display_name="Load (Lightricks model)", aliases=["model", "loader", "pipeline"],
            description="Prepares an overlay for use. Each part is read from its file when a stage first "
                        "needs it, then kept until ComfyUI wants the memory.",
            inputs=[
                Overlay.Input("overlay", tooltip="The described model, from Overlay."),
                advanced(io.Combo.Input("precision", options=PRECISIONS, default="auto", tooltip=(
                    "Number format of weights and calculation. auto (default): bf16 as in the official code, "
                    "fp32 on a CPU. fp32 needs twice the memory and is slower. The vocoder is always "
                    "fp32."))),
                advanced(io.Combo.Input("attention", options=list(ATTENTION), default="auto", tooltip=(
                    "Attention kernel. auto (default) takes the fastest exact one of this device, FlashAttention 3 "
                    "too where a package of it is installed. Force one only to compare speed, or where auto "
                    "fails; results differ by rounding only, with sage by more."))),
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
                advanced(io.Combo.Input("weight_dtype", optional=True, options=list(WEIGHT_DTYPES),
                                        default=WEIGHT_DTYPES[0], tooltip=(
                    "Quantise the transformer while a bf16 checkpoint is read. Lossy: pictures change a "
                    "little. fp8_e4m3fn, fp8_scaled, int8, Q8_0: half the memory (20 GB); Q4_K: 11 GB, less "
                    "exact. A checkpoint that is quantised in its file stays as it is. as stored (default): "
                    "off."))),
                advanced(io.Combo.Input("matmul_dtype", optional=True, options=list(MATMUL_DTYPES),
                                        default=MATMUL_DTYPES[0], tooltip=(
                    "Arithmetic of the transformer's large products. Lossy: pictures change a little. fp8: "
                    "faster on RTX 40, 50 and newer data-centre cards; int8: on RTX 20 and 30. A bf16 "
                    "checkpoint is quantised to it while it is read. default: off."))),
                advanced(io.String.Input("devices", optional=True, default="1", tooltip=(
                    "On how many GPUs of this computer one video is made: 1 (default), 2, 4 …, auto (all), or "
                    "names such as cuda:0,cuda:2. Each beyond the first is a process of its own that keeps "
                    "its weights. ray://HOST:PORT/N: N GPUs of a Ray cluster. Results differ by rounding "
                    "only."))),
            ],
            outputs=[Model.Output(display_name="model", tooltip="The model, for Prompt, Sampler and the "
                                                                "decoders.")],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, overlay: OverlayFiles, precision: str, attention: str, lora_mode: str = "auto",
                memory: str = "auto", weight_dtype: str = WEIGHT_DTYPES[0],
                matmul_dtype: str = MATMUL_DTYPES[0], devices: str = "1") -> io.NodeOutput:
        """Build the pipeline, or hand out the one that an equal node has built."""
        from ...ltx23_core.workers.opening import open_pipeline
        from ..host.hosted import HostedPipeline

        options = {"dtype": precision, "attention": attention, "lora_mode": lora_mode, "memory": memory,
                   "weight_dtype": weight_dtype, "matmul_dtype": matmul_dtype}
        key = (overlay.id, devices.strip(), *options.values())
        pipeline = _PIPELINES.get(key)
        if pipeline is None:
            pipeline = open_pipeline(overlay, devices, single=HostedPipeline,
                                     residency=host_memory.Residency(memory), make_room=host_memory.make_room,
                                     tell=progress.add, count=progress.count, **options)
            _PIPELINES[key] = pipeline
        return io.NodeOutput(pipeline)
