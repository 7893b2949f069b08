"""The nodes of the pack. Each node is a schema and a short `execute` that calls `ltx23_core`."""
from __future__ import annotations

import importlib
import logging

from comfy_api.latest import ComfyExtension, io

from ..ltx23_core.errors import name_paths

log = logging.getLogger("ltx23")

# Module -> its nodes. A module that a host breaks takes its own nodes away and no others.
MODULES: dict[str, tuple[str, ...]] = {
    "model.overlay": ("OverlayNode",),
    "model.load": ("LoadNode",),
    "prompt.prompt": ("PromptNode",),
    "conditions.image": ("ImageConditionNode", "KeyframeNode"),
    "sampling.guidance": ("GuidanceNode", "GuidanceRangeNode"),
    "sampling.sampler": ("SamplerNode",),
    "output.decode": ("DecodeVideoNode", "DecodeAudioNode", "DecodeToFileNode"),
    "model.fetch": ("FetchNode",),
    "sampling.upscale": ("LatentUpscaleNode",),
    "sampling.long": ("LongVideoNode",),
    "sampling.options": ("NAGNode", "APGNode"),
    "sampling.solver": ("SolverNode", "SigmasNode"),
    "prompt.enhance": ("EnhancePromptNode",),
    "conditions.clips": ("ReferenceVideoNode", "SourceAudioNode", "SourceVideoNode", "ReferenceVoiceNode"),
    "conditions.edit": ("RetakeNode", "ExtendNode", "InpaintNode"),
    "model.lora": ("LoraNode",),
    "bridge.native": ("ToNativeNode",),
    "bridge.latents": ("LatentsToNativeNode", "LatentsFromNativeNode", "ContextToNativeNode"),
}


def loaded(name: str, nodes: tuple[str, ...]) -> list[type[io.ComfyNode]]:
    """The nodes of a module; none, and a line in the log, where it cannot be imported or a schema cannot be made."""
    try:
        module = importlib.import_module(f".{name}", __name__)
        found = [getattr(module, each) for each in nodes]
        for node in found:
            node.GET_SCHEMA()
    except Exception:
        log.exception("LTX-2.3: %s cannot be loaded and left out; the other nodes work. Update ComfyUI and this pack.",
                      ", ".join(nodes))
        return []
    return found


class LTX23Extension(ComfyExtension):
    """Names the nodes to ComfyUI. Ids and input order are append-only: saved workflows depend on them."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes."""
        found: list[type[io.ComfyNode]] = []
        for name, nodes in MODULES.items():
            found += loaded(name, nodes)
        return found


async def comfy_entrypoint() -> LTX23Extension:
    """Return the extension; ComfyUI calls this once at start-up."""
    from .host import asked, places
    from .model import cockpit, get

    name_paths(places.for_clients)
    get.serve()
    cockpit.serve()
    asked.watch()
    return LTX23Extension()
