"""The socket types of the pack, what each carries, and two helpers that keep schemas equal on old and new hosts."""
from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

CATEGORY = "LTX-2.3"
PREFIX = "LTX-2.3 "  # of every name on the page: front ends before search_aliases look at nothing else
ALIASES = ["ltx", "ltx2", "ltx 2.3", "ltxv", "lightricks", "video with sound"]

Overlay = io.Custom("LTX23_OVERLAY")        # ltx23_core.overlay.Overlay: what the files hold, no weights
Model = io.Custom("LTX23_MODEL")            # ltx23_core.pipeline.Pipeline: the stages; holds weights
Context = io.Custom("LTX23_CONTEXT")        # ltx23_core.plan.latents.PromptPair: encoded, with its negative
Conditions = io.Custom("LTX23_CONDITIONS")  # tuple of ltx23_core.conditioning.base.Condition, in order
Guidance = io.Custom("LTX23_GUIDANCE")      # ltx23_core.plan.guidance.Guidance: strengths for video and audio
Solver = io.Custom("LTX23_SOLVER")          # ltx23_core.plan.solver.Solver: which solver, with its options
Windows = io.Custom("LTX23_WINDOWS")        # ltx23_core.plan.windows.Windows: cuts of a long video, prompts


def advanced(widget: io.Input) -> io.Input:
    """Mark a rarely used input; hosts whose inputs have no `advanced=` argument understand it this way too."""
    widget.extra_dict["advanced"] = True
    return widget


def schema(aliases: list[str] | None = None, **fields: Any) -> io.Schema:  # noqa: ANN401
    """Build a schema in the pack's category, without the fields that this host does not have yet.

    Args:
        aliases: further words to find the node by.
        fields: of `io.Schema`; ``display_name`` is the node's name in texts, without `PREFIX`.
    """
    fields |= {"category": CATEGORY, "search_aliases": [*ALIASES, fields["display_name"], *(aliases or [])],
               "display_name": PREFIX + fields["display_name"]}
    known = {field.name for field in dataclasses.fields(io.Schema)}
    for name in fields.keys() - known:
        del fields[name]
    return io.Schema(**fields)
