"""Whether this ComfyUI has LTX-2.3 of its own."""
from __future__ import annotations

import inspect
from collections.abc import Iterable

from ....ltx23_core.errors import RequestError

SINCE = "0.33.0"  # the oldest that was tried


def refuse_old() -> None:
    """Refuse a ComfyUI that has no LTX-2.3 of its own.

    Raises:
        RequestError: with what to do.
    """
    from comfyui_version import __version__

    known: Iterable[str] = ()
    try:
        from comfy.ldm.lightricks.av_model import LTXAVModel
        from comfy.nested_tensor import NestedTensor  # noqa: F401 (latents of video and sound together)
    except ImportError:
        pass
    else:
        known = inspect.signature(LTXAVModel.__init__).parameters
    if "caption_proj_before_connector" not in known:  # LTX-2.3; LTX-2 has none
        raise RequestError(f"this ComfyUI is {__version__} and has no LTX-2.3 of its own",
                           f"ComfyUI {SINCE} or newer, for the nodes that hand on to ComfyUI's own",
                           f"Update ComfyUI to {SINCE} or newer; all other nodes of this pack work without.")
