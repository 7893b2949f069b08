"""The nodes of the pack. Each node is a schema and a short `execute` that calls `ltx23_core`."""
from __future__ import annotations

import sys

from comfy_api.latest import ComfyExtension, io

from ..ltx23_core.errors import name_paths
from .conditions import clips, inputs
from .conditions.clips import ReferenceVideoNode, ReferenceVoiceNode, SourceAudioNode, SourceVideoNode
from .conditions.edit import ExtendNode, InpaintNode, RetakeNode
from .conditions.image import ImageConditionNode, KeyframeNode
from .host import places
from .model import get
from .model.fetch import FetchNode
from .model.load import LoadNode
from .model.lora import LoraNode
from .model.overlay import OverlayNode
from .output.decode import DecodeAudioNode, DecodeToFileNode, DecodeVideoNode
from .prompt.enhance import EnhancePromptNode
from .prompt.prompt import PromptNode
from .sampling.guidance import GuidanceNode, GuidanceRangeNode
from .sampling.long import LongVideoNode
from .sampling.options import APGNode, NAGNode
from .sampling.sampler import SamplerNode
from .sampling.solver import SigmasNode, SolverNode
from .sampling.upscale import LatentUpscaleNode

# Names that two modules had before; scripts of users import them.
sys.modules.setdefault(f"{__name__}.sources", clips)
sys.modules.setdefault(f"{__name__}.condition_inputs", inputs)


class LTX23Extension(ComfyExtension):
    """Names the nodes to ComfyUI. Ids and input order are append-only: saved workflows depend on them."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes, in the order of the menu."""
        return [
            OverlayNode, LoadNode, PromptNode, ImageConditionNode, GuidanceNode, SamplerNode,
            DecodeVideoNode, DecodeAudioNode, DecodeToFileNode, FetchNode, LatentUpscaleNode, LongVideoNode,
            GuidanceRangeNode, NAGNode, APGNode, SolverNode, SigmasNode, EnhancePromptNode, KeyframeNode,
            ReferenceVideoNode, SourceAudioNode, SourceVideoNode, RetakeNode, ExtendNode, InpaintNode,
            LoraNode, ReferenceVoiceNode,
        ]


async def comfy_entrypoint() -> LTX23Extension:
    """Return the extension; ComfyUI calls this once at start-up."""
    name_paths(places.for_clients)
    get.serve()
    return LTX23Extension()
