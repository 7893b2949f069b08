"""LTX23ToNative: an overlay as the models of ComfyUI's own nodes."""
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..checks import guarded
from ..host import asked, progress
from ..sockets import Overlay, schema
from ..validation import before_the_run

if TYPE_CHECKING:
    from ...ltx23_core.overlay import Overlay as OverlayFiles

OUTPUTS = ("model", "clip", "vae", "audio_vae")  # in the order of the node's outputs


def is_new_enough(_: Mapping[str, object]) -> None:
    """A check of every node here: see `host.native.version`."""
    from ..host.native.version import refuse_old

    refuse_old()


class ToNativeNode(io.ComfyNode):
    """Hand the files of an overlay to ComfyUI's own loaders."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each output's tooltip."""
        return schema(
            node_id="LTX23ToNative", display_name="To Native (MODEL, CLIP, VAE)",
            aliases=["native", "comfyui", "bridge", "checkpoint loader", "ksampler", "gguf", "diffusers"],
            description="Loads an overlay as ComfyUI's own MODEL, CLIP and VAEs, for graphs of its own LTX-2.3 "
                        "nodes. Any layout that Overlay reads; no file is written. Only linked outputs are loaded.",
            inputs=[Overlay.Input("overlay", tooltip="The described model, from Overlay.")],
            outputs=[
                io.Model.Output(display_name="model", tooltip=(
                    "The transformer with its connectors, in place of Load Checkpoint or Load Diffusion Model.")),
                io.Clip.Output(display_name="clip", tooltip=(
                    "Gemma 3 12B and the text projection, in place of Load LTXV Audio Text Encoder.")),
                io.Vae.Output(display_name="vae", tooltip="The video VAE, in place of Load Checkpoint or Load VAE."),
                io.Vae.Output(display_name="audio_vae", tooltip=(
                    "Audio VAE and vocoder, in place of Load LTXV Audio VAE.")),
            ],
        )

    validate_inputs = before_the_run(checks=[is_new_enough])

    @classmethod
    def fingerprint_inputs(cls, overlay: object = None) -> str:
        """Another output that is linked needs another run."""
        return str(sorted(asked.taken_outputs() or range(len(OUTPUTS))))

    @classmethod
    @guarded
    def execute(cls, overlay: OverlayFiles) -> io.NodeOutput:
        """Load what other nodes take, one part after the other."""
        from ..host.native.load import load

        taken = asked.taken_outputs()
        found, told = [], []
        for number, part in enumerate(OUTPUTS):
            made = None
            if taken is None or number in taken:
                made = load(overlay, part)
                told.append(part)
            found.append(made)
        progress.say(f"loaded for ComfyUI's own nodes: {', '.join(told) or 'nothing, since nothing is linked'}")
        return io.NodeOutput(*found)
