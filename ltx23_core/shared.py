"""What all LoRA views of a pipeline share: components, encoded prompts, statistics, the preview map."""
from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from operator import attrgetter

import torch
from torch import Tensor

from .config import TransformerConfig, VideoVAEConfig
from .lora.plan import lora_pairs
from .memory.memory_plan import Stage
from .models.registry import STACKS, build
from .models.transformer.graphs import most_tokens
from .models.transformer.model import BLOCKS
from .ops.attention import AttentionFunction
from .ops.pick import prepare as prepare_kernels
from .overlay import Overlay
from .overlay.lora.update import Update
from .parallel.team import Team
from .plan.decide import ModelFacts
from .plan.latents import PromptContext
from .prompt.kept import KeptPrompts
from .run.preview import LatentToRGB
from .runtime.component import Component
from .runtime.residency import Residency
from .weights.reader import read_tensors

TEXT = ("text_encoder", "text_projection", "connectors")
CONTEXTS_KEPT = 16  # 12.6 MB a prompt in bfloat16
PREVIEW_BYTES = 1 << 29
ContextKey = tuple[object, ...]


def _build(name: str, config: dict[str, object], attention: AttentionFunction, codes: bool) -> torch.nn.Module:
    """Not a method: a component that held its pipeline would keep it, and all weights, alive until a collection."""
    module = build(name, config)
    if name == "transformer":
        module.set_attention(attention)
        if codes:
            module.codes_inside = BLOCKS
    return module


class Shared:
    """One of each thing that a model has once, whatever LoRAs a view of it has.

    Args:
        overlay: the files.
        residency: decides what is on the device.
        dtype: of weights and activations; the vocoder's is float32.
        attention: what the transformer attends with.
        team: the other ranks that compute the same run; None: there are none.
        kept_prompts: encoded prompts on the disk; None: they are kept in RAM alone.
        codes: whether the transformer multiplies 8-bit codes (`quant.arithmetic`).
    """

    def __init__(self, overlay: Overlay, residency: Residency, dtype: torch.dtype, attention: AttentionFunction,
                 team: Team | None = None, codes: bool = False, kept_prompts: KeptPrompts | None = None) -> None:
        self.overlay, self.residency, self.dtype, self.team = overlay, residency, dtype, team
        self._attention, self._codes = attention, codes
        self.components: dict[str, Component] = {}
        self.contexts: OrderedDict[ContextKey, PromptContext] = OrderedDict()
        self.kept_prompts = kept_prompts
        self._preview_map: LatentToRGB | None = None
        self._digests: dict[str, str] = {}  # of the overlay, which does not change

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
            fused=prepare_kernels(),
            recorded=most_tokens(self.residency.device),
        )

    def component(self, name: str) -> Component:
        """A component of the overlay, made on first use; see `Pipeline.component`."""
        if name not in self.components:
            self.components[name] = self._made(name)
        return self.components[name]

    def use(self, *names: str, activation_bytes: int = 0, how: str = "") -> list[torch.nn.Module]:
        """Components without LoRAs on their device, with room beside them; see `Residency.use`."""
        components = list(map(self.component, names))
        self.residency.use(*components, activation_bytes=activation_bytes, how=how)
        return [component.module for component in components]

    def stage(self, *names: str, activations: Sequence[int], ways: Sequence[str] = ()) -> Stage:
        """These components together, with what is needed beside them, for the line about a whole run."""
        needs = tuple(map(Component.need, map(self.component, names)))
        return Stage(needs, tuple(activations), tuple(ways))

    def home(self, name: str) -> tuple[torch.device, torch.dtype]:
        """Where a component computes, and in which dtype: in float32 where it is on the CPU and the transformer not."""
        device, dtype = self.residency.device_of(name), self.dtype
        if name == "vocoder" or device != self.residency.device:
            dtype = torch.float32
        return device, dtype

    def _made(self, name: str) -> Component:
        if name == "text_encoder_vision":
            return self._vision_encoder()
        entry = self.overlay.require(name)
        make = partial(_build, name, entry.config, self._attention, self._codes)
        return Component(name, make, entry.tensors, self.home(name)[1], stack=STACKS.get(name),
                         verify=self.overlay.verify)

    def _vision_encoder(self) -> Component:
        """The component that sees pictures. Its names are the file's own and its configuration the text encoder's."""
        from .models.text.vision import VisionEncoder, restore_positions, vision_tensors
        entry = self.overlay.require("text_encoder_vision")
        module = VisionEncoder(self.overlay.require("text_encoder").config)
        tensors = vision_tensors(module, entry.tensors)
        return Component("text_encoder_vision", lambda: module, tensors, self.home("text_encoder_vision")[1],
                         verify=self.overlay.verify, after_load=restore_positions)

    def encoded(self, keys: Sequence[ContextKey], encode: Callable[[list[str]], list[PromptContext]],
                kept: KeptPrompts | None = None) -> list[PromptContext]:
        """The contexts of some keys, whose first entry is the text; equal keys are encoded once.

        Args:
            keys: what differs between contexts of this model.
            encode: makes those that are nowhere.
            kept: on the disk, this time; None: as the pipeline was made.
        """
        kept = kept or self.kept_prompts
        missing = [key for key in dict.fromkeys(keys) if key not in self.contexts]
        if missing and kept is not None:
            missing = self._not_kept(missing, kept)
        if missing:
            texts = [key[0] for key in missing]
            self.contexts.update(zip(missing, encode(texts), strict=True))
        if kept is not None:
            self._keep(dict.fromkeys(keys), kept)
        for key in keys:
            self.contexts.move_to_end(key)
        found = list(map(self.contexts.get, keys))
        while len(self.contexts) > CONTEXTS_KEPT:
            self.contexts.popitem(last=False)
        return found

    def _not_kept(self, keys: Sequence[ContextKey], kept: KeptPrompts) -> list[ContextKey]:
        """The keys whose contexts are not on the disk; those of the others are taken from there."""
        paths = set()
        for name in TEXT:
            paths.update(map(attrgetter("path"), self.overlay.require(name).tensors.values()))
        self.overlay.verify(paths)
        left = []
        for key in keys:
            found = kept.find(self._depends_on(key))
            if found is None:
                left.append(key)
            else:
                self.contexts[key] = PromptContext(*found)
        return left

    def _keep(self, keys: Iterable[ContextKey], kept: KeptPrompts) -> None:
        """Have these contexts on the disk, those too that were encoded before that was wanted."""
        for key in keys:
            context = self.contexts[key]
            kept.keep(self._depends_on(key), context.video, context.audio)

    def _depends_on(self, key: ContextKey) -> tuple[str, ...]:
        """All that the numbers of a context depend on: text, LoRAs, files, dtype and kind of device."""
        device, dtype = self.home("text_encoder")
        parts = [repr(key), str(self.dtype), str(dtype), device.type, self.residency.device.type]
        parts += map(self.digest, TEXT)
        if self.overlay.tokenizer is None:
            parts.append(self.digest("tokenizer"))
        else:
            for path in sorted(self.overlay.tokenizer.glob("*token*")):
                info = path.stat()
                parts.append(f"{path} {info.st_size} {info.st_mtime_ns}")
        return tuple(parts)

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
            path, digest = self.overlay.path.with_suffix(".preview.json"), self.digest("video_decoder")
            self._preview_map = LatentToRGB.load(path, digest)
            if self._preview_map is None:
                self._preview_map = self._fitted_map()
                self._preview_map.save(path, digest)
        return self._preview_map

    def _fitted_map(self) -> LatentToRGB:
        [decoder] = self.use("video_decoder", activation_bytes=PREVIEW_BYTES)
        channels = VideoVAEConfig.from_dict(self.overlay.require("video_decoder").config).latent_channels
        return LatentToRGB.fit(decoder, channels, *self.home("video_decoder"))

    def digest(self, name: str) -> str:
        """Hash of where a component's bytes are and of the files' state: changes when its weights may have."""
        if name not in self._digests:
            lines = []
            for key, ref in sorted(self.overlay.require(name).tensors.items()):
                lines.append(f"{key} {ref.dtype} {ref.shape} {ref.start} {ref.source}")
            self._digests[name] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return self._digests[name]
