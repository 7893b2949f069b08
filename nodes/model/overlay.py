"""LTX23Overlay: from the weight files that the user has to a description of the model. No weights are read."""
from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ...ltx23_core.errors import LTX23Error, spoken
from ..checks import guarded
from ..host import asked
from ..sockets import Overlay, schema
from ..validation import Refusals, before_the_run
from .files import CHECK_SECONDS, FILES, unread
from .inputs import AUTO, OVERLAY
from .needs import needs_of, refusals

if TYPE_CHECKING:
    from ...ltx23_core.overlay.shelf.shelf import Item

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


def _files_fit(given: Mapping[str, object], items: Sequence[Item] | None = None) -> None:
    """Whether the chosen files can be used, and bring what the nodes behind will ask for.

    Args:
        given: the node's values.
        items: what is in the folders, if it was looked at.

    Raises:
        Refusals, OverlayError: they do not.
    """
    if items is None:
        items = FILES.items(CHECK_SECONDS)
    told: list[tuple[str, str]] = []
    for key, name in _wanted(given).items():
        try:
            FILES.wanted({key: name}, items)
        except LTX23Error as error:
            told.append((key, str(error)))
    if told:
        raise Refusals(told)
    choice = FILES.choose(_wanted(given), items=items)
    if unread(items):  # the node itself will say it
        return
    variant = given.get("variant", AUTO)
    if variant == AUTO:
        variant = choice.variant
    told = refusals(needs_of(asked.own_id(), variant == "distilled"), choice, given, FILES.names)
    if told:
        raise Refusals(told)


def _known_files_fit(given: Mapping[str, object]) -> None:
    """The same by what the last look found, at once."""
    items = FILES.known()
    if items and not unread(items):
        _files_fit(given, items)


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
            node_id="LTX23Overlay", display_name="Overlay",
            aliases=["checkpoint", "materialize", "loader", "download"],
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

    validate_inputs = before_the_run("checkpoint", checks=[_files_fit], guess=_known_files_fit)

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
