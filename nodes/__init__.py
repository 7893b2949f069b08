"""The nodes of the pack. Each node is a schema and a short `execute` that calls `ltx23_core`."""
from __future__ import annotations

from comfy_api.latest import io

from .conditions import ImageConditionNode, KeyframeNode
from .decode import DecodeAudioNode, DecodeToFileNode, DecodeVideoNode
from .enhance import EnhancePromptNode
from .fetch import FetchNode
from .guidance import GuidanceNode, GuidanceRangeNode
from .guidance_options import APGNode, NAGNode
from .host import ComfyExtension
from .load import LoadNode
from .long import LongVideoNode
from .lora import LoraNode
from .overlay import OverlayNode
from .prompt import PromptNode
from .retake import ExtendNode, InpaintNode, RetakeNode
from .sample import SamplerNode
from .solver import SigmasNode, SolverNode
from .sources import ReferenceVideoNode, SourceAudioNode, SourceVideoNode
from .upscale import LatentUpscaleNode


class LTX23Extension(ComfyExtension):
    """Names the nodes to ComfyUI. Ids and input order are append-only: saved workflows depend on them."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes, in the order of the menu."""
        return [OverlayNode, LoadNode, PromptNode, ImageConditionNode, GuidanceNode, SamplerNode, DecodeVideoNode,
                DecodeAudioNode, DecodeToFileNode, FetchNode, LatentUpscaleNode, LongVideoNode, GuidanceRangeNode,
                NAGNode, APGNode, SolverNode, SigmasNode, EnhancePromptNode, KeyframeNode, ReferenceVideoNode,
                SourceAudioNode, SourceVideoNode, RetakeNode, ExtendNode, InpaintNode, LoraNode]


async def comfy_entrypoint() -> LTX23Extension:
    """Return the extension; ComfyUI calls this once at start-up."""
    return LTX23Extension()
