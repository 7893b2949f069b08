"""LTX23Fetch: download a model file into its folder, only where the box says so."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..checks import guarded
from ..host import access, folders, places, progress
from ..sockets import schema
from ..validation import before_the_run

if TYPE_CHECKING:
    from pathlib import Path

    from ...ltx23_core.hub.request import Request


def _look(file: str) -> tuple[Request, Path, Path | None]:
    """The request, the models folder it belongs in, and where it lies already, if it does."""
    from ...ltx23_core.hub.fetch import present
    from ...ltx23_core.hub.request import parse

    request = parse(file)
    roots = folders.model_folders(request.folder)
    for root in roots:
        path = present(request, root)
        if path:
            return request, root, path
    return request, roots[0], None


class FetchNode(io.ComfyNode):
    """Download one of the known files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The names are those of `python -m ltx23_core fetch --list`."""
        from ...ltx23_core.hub.catalogue import CATALOGUE

        return schema(
            node_id="LTX23Fetch", display_name="Fetch (download files)", aliases=["download", "hugging face", "hub"],
            description="Downloads a model file from Hugging Face into its models folder. Does nothing until "
                        "download is on.",
            is_output_node=True,
            inputs=[
                io.Combo.Input("file", options=[entry.name for entry in CATALOGUE], default=CATALOGUE[0].name, tooltip=(
                    "What to download. dev: the checkpoint (46 GB); gemma: its text encoder (24 GB, log in "
                    "and accept the terms first); upscaler-x2 and distilled-lora: for the distilled recipes. "
                    "The help page lists all. Default dev.")),
                io.Boolean.Input("download", default=False, tooltip=(
                    "Off (default): only says whether the file is there, without a connection. On: downloads "
                    "what is missing, continues what was interrupted and checks the hash. Press R "
                    "afterwards.")),
            ],
            outputs=[
                io.String.Output(display_name="path", tooltip="Where the file or folder is; empty while it "
                                                              "is not."),
                io.String.Output(display_name="report", tooltip="What was done. Link it to Preview as Text."),
            ],
        )

    validate_inputs = before_the_run("download", checks=[
        lambda given: access.check_may_download() if given.get("download") else None])

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, download: bool | None = None) -> str:
        """Whether the file is there: the node runs again when it was deleted, or put there by other means."""
        from ...ltx23_core.hub.catalogue import ENTRIES

        if not isinstance(file, str) or file not in ENTRIES:
            return ""
        return f"{_look(file)[2] is not None}"

    @classmethod
    @guarded
    def execute(cls, file: str, download: bool) -> io.NodeOutput:
        """Look, and download if that is asked for."""
        from ...ltx23_core.hub.fetch import fetch

        request, root, path = _look(file)
        if download:
            access.check_may_download()
            [result] = fetch([(request, root)], progress.byte_progress())
            path, report = result.path, result.line
        else:
            report = (f"{request.name} is there: {path}" if path else
                      f"{request.name} is not in {root}. Turn on download to get it from {request.repo}.")
        report = places.for_clients(report)
        return io.NodeOutput(str(path or ""), report, ui={"text": [report]})
