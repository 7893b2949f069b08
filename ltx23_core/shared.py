"""What all LoRA views of a pipeline share: components, encoded prompts, statistics, the preview map."""
from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from .config import TransformerConfig, VideoVAEConfig
from .lora.plan import lora_pairs
from .models.registry import STACKS, build
from .ops.attention import AttentionFunction
from .overlay import Overlay
from .overlay.lora.update import Update
from .plan.decide import ModelFacts
from .plan.latents import PromptContext
from .run.preview import LatentToRGB
from .runtime.component import Component
from .runtime.residency import Residency
from .weights.reader import read_tensors

CONTEXTS_KEPT = 16  # 12.6 MB a prompt in bfloat16
PREVIEW_BYTES = 1 << 29
ContextKey = tuple[object, ...]


def _build(name: str, config: dict[str, object], attention: AttentionFunction) -> torch.nn.Module:
    """Not a method: a component that held its pipeline would keep it, and all weights, alive until a collection."""
    module = build(name, config)
    if name == "transformer":
        module.set_attention(attention)
    return module


class Shared:
    """One of each thing that a model has once, whatever LoRAs a view of it has.

    Args:
        overlay: the files.
        residency: decides what is on the device.
        dtype: of weights and activations; the vocoder's is float32.
        attention: what the transformer attends with.
    """

    def __init__(self, overlay: Overlay, residency: Residency, dtype: torch.dtype,
                 attention: AttentionFunction) -> None:
        self.overlay, self.residency, self.dtype = overlay, residency, dtype
        self._attention = attention
        self.components: dict[str, Component] = {}
        self.contexts: OrderedDict[ContextKey, PromptContext] = OrderedDict()
        self._preview_map: LatentToRGB | None = None

    @cached_property
    def transformer_config(self) -> TransformerConfig:
        """Architecture of the transformer."""
        return TransformerConfig.from_dict(self.overlay.require("transformer").config)

    @cached_property
    def facts(self) -> ModelFacts:
        """What plans depend on."""
        return ModelFacts(
            variant=self.overlay.variant,
            components=tuple(self.overlay.components),
            config=self.transformer_config,
            bytes_per_value=self.dtype.itemsize,
        )

    def component(self, name: str) -> Component:
        """A component of the overlay, made on first use; see `Pipeline.component`."""
        if name not in self.components:
            self.components[name] = self._made(name)
        return self.components[name]

    def use(self, *names: str, activation_bytes: int = 0) -> list[torch.nn.Module]:
        """Components without LoRAs on their device, with room beside them."""
        components = list(map(self.component, names))
        self.residency.use(*components, activation_bytes=activation_bytes)
        return [component.module for component in components]

    def _made(self, name: str) -> Component:
        if name == "text_encoder_vision":
            return self._vision_encoder()
        entry = self.overlay.require(name)
        make = partial(_build, name, entry.config, self._attention)
        dtype = torch.float32 if name == "vocoder" else self.dtype
        return Component(name, make, entry.tensors, dtype, stack=STACKS.get(name), verify=self.overlay.verify)

    def _vision_encoder(self) -> Component:
        """The component that sees pictures. Its names are the file's own and its configuration the text encoder's."""
        from .models.text.vision import VisionEncoder, restore_positions, vision_tensors
        entry = self.overlay.require("text_encoder_vision")
        module = VisionEncoder(self.overlay.require("text_encoder").config)
        tensors = vision_tensors(module, entry.tensors)
        return Component("text_encoder_vision", lambda: module, tensors, self.dtype,
                         verify=self.overlay.verify, after_load=restore_positions)

    def encoded(self, keys: Sequence[ContextKey], encode: Callable[[list[str]], list[PromptContext]]) -> (
            list[PromptContext]):
        """The contexts of some keys, whose first entry is the text; equal keys are encoded once."""
        missing = [key for key in dict.fromkeys(keys) if key not in self.contexts]
        if missing:
            texts = [key[0] for key in missing]
            self.contexts.update(zip(missing, encode(texts), strict=True))
        for key in keys:
            self.contexts.move_to_end(key)
        found = list(map(self.contexts.get, keys))
        while len(self.contexts) > CONTEXTS_KEPT:
            self.contexts.popitem(last=False)
        return found

    @cached_property
    def distilled(self) -> dict[str, Update]:
        """Updates of the overlay's distilled LoRA."""
        return lora_pairs(self.overlay.require("distilled_lora").tensors)

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and std of the video latents, (C,), read alone: the upscaler needs no encoder or decoder."""
        mean, std = "per_channel_statistics.mean-of-means", "per_channel_statistics.std-of-means"
        refs = self.overlay.require("video_decoder").tensors
        read = dict(read_tensors({mean: refs[mean], std: refs[std]}, self.residency.device, self.dtype))
        return read[mean], read[std]

    def preview_map(self) -> LatentToRGB:
        """The latent-to-RGB map of this VAE: kept beside the overlay, fitted to its decoder where there is none."""
        if self._preview_map is None:
            path, digest = self.overlay.path.with_suffix(".preview.json"), self._digest("video_decoder")
            self._preview_map = LatentToRGB.load(path, digest)
            if self._preview_map is None:
                self._preview_map = self._fitted_map()
                self._preview_map.save(path, digest)
        return self._preview_map

    def _fitted_map(self) -> LatentToRGB:
        [decoder] = self.use("video_decoder", activation_bytes=PREVIEW_BYTES)
        channels = VideoVAEConfig.from_dict(self.overlay.require("video_decoder").config).latent_channels
        return LatentToRGB.fit(decoder, channels, self.residency.device, self.dtype)

    def _digest(self, name: str) -> str:
        """Hash of where a component's bytes are and of the files' state: changes when its weights may have."""
        refs = self.overlay.require(name).tensors
        lines = []
        for key, ref in sorted(refs.items()):
            lines.append(f"{key} {ref.dtype} {ref.shape} {ref.start} {ref.source}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
