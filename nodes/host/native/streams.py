"""Video and sound in one latent, as ComfyUI's own samplers of LTX-2.3 have them."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import refuse_old

if TYPE_CHECKING:
    from torch import Tensor


def together(video: Tensor, audio: Tensor) -> Any:  # noqa: ANN401 (ComfyUI's own)
    """Both as one thing that stands where a tensor stands.

    Args:
        video: (B, C, F', H', W').
        audio: (B, C, T, bins).

    Raises:
        RequestError: this ComfyUI is too old.
    """
    refuse_old()
    from comfy.nested_tensor import NestedTensor

    return NestedTensor((video, audio))
