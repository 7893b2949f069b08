"""The pipeline that stands behind LTX23_MODEL inside ComfyUI: what caches of node outputs ask it when RAM is short.

ComfyUI 0.3.75 asks `get_ram_usage`; since its models are paged, 0.33 asks `is_dynamic`, and later ones
`_comfy_cache_tensors`. Imported when a Load node runs: it needs torch's share of the library.
"""
from __future__ import annotations

from torch import Tensor

from ...ltx23_core.pipeline import Pipeline


class HostedPipeline(Pipeline):
    """A pipeline whose weights are in files, so that dropping it frees its prompts and what runs on the CPU."""

    def get_ram_usage(self) -> int:
        """Bytes of RAM that dropping it frees. Registered pages are not among them: they are the page cache."""
        count = 0
        for tensor in self._comfy_cache_tensors():
            count += tensor.nbytes
        return count

    def is_dynamic(self) -> bool:
        """Its weights come and go by themselves: dropping it in the run that uses it frees next to nothing."""
        return True

    def _comfy_cache_tensors(self) -> list[Tensor]:
        """Its tensors in RAM: encoded prompts, and weights of components that run on the CPU."""
        found = []
        for context in self._shared.contexts.values():
            for prompt in (context.video, context.audio):
                if prompt is not None and prompt.device.type == "cpu":
                    found.append(prompt)
        for component in self.components:
            if component.device.type == "cpu":
                found += component.module.state_dict().values()
        return found
