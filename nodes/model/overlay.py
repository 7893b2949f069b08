"""LTX23Overlay: from the weight files that the user has to a description of the model. No weights are read."""
from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping

from comfy_api.latest import io

from ...ltx23_core.errors import LTX23Error, spoken
from ..checks import guarded, problem_of
from ..sockets import Overlay, schema
from .files import CHECK_SECONDS, FILES
from .inputs import AUTO, OVERLAY

VARIANTS = [AUTO, "dev", "distilled"]


def _wanted(given: Mapping[str, object]) -> dict[str, str]:
    """What the file inputs say; one that is linked is not known yet and counts as auto."""
    wanted = {}
    for each in OVERLAY:
        said = given.get(each.key)
        wanted[each.key] = AUTO
        if said is not None:
            wanted[each.key] = said
    return wanted




class OverlayNode(io.ComfyNode):
    """Describe the weight files as one model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Lists are those of the last look: the server builds this on its own thread and must not wait for a disk."""
        files = [each.widget(FILES.names(each.key)) for each in OVERLAY]
        variant = io.Combo.Input("variant", optional=True, options=VARIANTS, default=AUTO, tooltip=(
            "Which model the checkpoint is: dev needs guidance and 30 steps, distilled runs in 8 steps "
            "without. auto (default) goes by the name; set it if the report names the wrong one."))
        return schema(
            node_id="LTX23Overlay", display_name="Overlay", aliases=["checkpoint", "materialize", "loader"],
            description="Describes the LTX-2.3 files you have as one model. Reads headers only: nothing is "
                        "loaded, copied or converted.",
            inputs=[*files[:4], variant, *files[4:]],
            outputs=[
                Overlay.Output(display_name="overlay", tooltip="The described model, for Load."),
                io.String.Output(display_name="report", tooltip=(
                    "What was found and why it was taken, what is missing and where to get it, and what else "
                    "is in the model folders. The node shows it too.")),
            ],
        )

    @classmethod
    async def validate_inputs(cls, checkpoint: str | None = None, text_encoder: str | None = None,
                              upsampler: str | None = None, distilled_lora: str | None = None,
                              variant: str | None = None, text_projection: str | None = None,
                              video_vae: str | None = None, audio_vae: str | None = None) -> bool | str:
        """Say what is wrong with a chosen file; a linked input is None here and checked when the node runs.

        The host writes one error for each name in this signature, so they stay. It is asked on the server's thread:
        the folders are looked at in another one.
        """
        given = dict(locals())
        del given["cls"]

        def more() -> None:
            FILES.choose(_wanted(given), CHECK_SECONDS)

        return await asyncio.to_thread(problem_of, cls, given, more) or True

    @classmethod
    def fingerprint_inputs(cls, **given: str) -> str:
        """Stands for path, time and size of every source file: the node runs again when one of them changed.

        Hashed, because ComfyUI writes it into saved files together with the prompt: no paths of the user there.
        """
        try:
            choice = FILES.choose(_wanted(given), CHECK_SECONDS)
        except LTX23Error as error:  # the node itself will say so
            return str(error)
        return hashlib.sha256("\n".join(choice.fingerprint()).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    @classmethod
    @guarded
    def execute(cls, variant: str = AUTO, **given: str) -> io.NodeOutput:
        """Write the manifest to models/ltx23_overlays and give the overlay and its report."""
        from ...ltx23_core.overlay.shelf.report import report as full_report

        overlay, choice, items = FILES.assemble(_wanted(given), variant)
        report = spoken(full_report(overlay, choice, items))
        return io.NodeOutput(overlay, report, ui={"text": [report]})
