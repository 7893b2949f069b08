"""The pipeline: the stages of generation as methods. What nodes, the command line and Python users call."""
from __future__ import annotations

import copy
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from .conditioning.base import Condition
from .config import ENHANCED_TOKENS, AudioVAEConfig, TransformerConfig, UpsamplerConfig, VideoVAEConfig
from .decode.tiles import (
    Tiling,
    auto_tiling,
    encode_tile_size,
    tiled_decode,
    tiled_decode_bytes,
    tiled_encode,
)
from .errors import RequestError
from .geometry import VideoGrid, check_size, video_grid
from .lora.opened import TEXT, OpenLora, StagedLora, stage_uses
from .lora.plan import LoraUse, lora_pairs
from .lora.settings import Lora, check_mode
from .media.audio import Audio
from .memory.estimates import encode_bytes, generation_bytes, sampling_bytes, upsample_bytes
from .models.registry import STACKS, build
from .models.video_vae.encoder import crop_frames
from .ops.attention import AttentionFunction, attention_backend
from .ops.pick import prepare as prepare_kernels
from .overlay import Overlay
from .overlay.lora.dialects import LoraFile
from .overlay.lora.update import Update
from .plan.condition import Clip
from .plan.context import PromptContext, PromptPair
from .plan.guidance import Guidance
from .plan.latents import Latents
from .plan.recipes import DEFAULT_NEGATIVE_PROMPT, SEED, Recipe, choose_recipe
from .plan.refusals import check_audio_stage, check_start, check_streams, check_upscale
from .plan.stages import StagePlan, plan_stages
from .plan.together import check_conditions
from .plan.windows import Windows
from .run.batch import run_batch
from .run.preview import LatentToRGB
from .run.progress import OnStep
from .run.stage import Request
from .runtime.component import Component
from .runtime.device import choose_device, choose_dtype
from .runtime.residency import LocalResidency, Residency
from .sampling.solve import Solver
from .weights.reader import read_tensors

log = logging.getLogger("ltx23")

CONTEXTS_KEPT = 16  # 12.6 MB a prompt in bfloat16
AUTO_TILING = "auto"


def _build(name: str, config: dict[str, object], attention: AttentionFunction) -> torch.nn.Module:
    """Not a method: a component that held its pipeline would keep it, and all weights, alive until a collection."""
    module = build(name, config)
    if name == "transformer":
        module.set_attention(attention)
    return module


class Pipeline:
    """LTX-2.3 from an overlay. Making one reads no weights; each stage loads what it needs and keeps it.

    Args:
        overlay: of `materialize`, or the path of a manifest.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dtype: "auto" (bfloat16; float32 on the CPU), "bf16" or "fp32". The vocoder always runs in float32.
        attention: a name of `ops.attention.BACKENDS`.
        residency: decides what is on the device; None: `LocalResidency`.
        lora_mode: "auto", "fused" or "runtime" (`lora.Lora`), for the overlay's distilled LoRA.
        memory: how much of the device the weights may take, without a ``residency``: "auto" (what does not fit comes in
            block by block), "resident", "stream" (as little as possible), or a budget in GB.
    """

    def __init__(self, overlay: Overlay | str | Path, *, device: str | torch.device = "auto", dtype: str = "auto",
                 attention: str = "auto", residency: Residency | None = None, lora_mode: str = "auto",
                 memory: str | float = "auto") -> None:
        self.overlay = overlay if isinstance(overlay, Overlay) else Overlay.load(overlay)
        chosen = device if isinstance(device, torch.device) else choose_device(device)
        self.residency: Residency = residency or LocalResidency(chosen, memory=memory)
        self.dtype = choose_dtype(dtype, self.residency.device)
        self._attention = attention_backend(attention)
        self._components: dict[str, Component] = {}
        self._contexts: OrderedDict[tuple[object, ...], PromptContext] = OrderedDict()
        self._lora_mode = check_mode(lora_mode)
        self._loras: tuple[OpenLora, ...] = ()
        self._origin: Pipeline | None = None

    @classmethod
    def load(cls, overlay: Overlay | str | Path, **options: object) -> Pipeline:
        """Same as the constructor."""
        return cls(overlay, **options)

    # -- components ------------------------------------------------------------------------------------------------
    @cached_property
    def transformer_config(self) -> TransformerConfig:
        """Architecture of the transformer."""
        return TransformerConfig.from_dict(self.overlay.require("transformer").config)

    @property
    def audio_latent_channels(self) -> int:
        """Channels of an audio latent (B, channels, T, bins)."""
        return AudioVAEConfig.from_dict(self.overlay.require("audio_decoder").config).latent_channels

    def component(self, name: str) -> Component:
        """A component of the overlay, made on first use; its weights are still in the files.

        There is one of each, also for all views of `with_loras`: which LoRAs are on it is set before each use.

        Raises:
            OverlayError: the overlay lacks it; the message names the file that brings it.
        """
        if name not in self._components:
            entry = self.overlay.require(name)
            self._components[name] = Component(
                name, partial(_build, name, entry.config, self._attention), entry.tensors,
                torch.float32 if name == "vocoder" else self.dtype, stack=STACKS.get(name),
                verify=self.overlay.verify)
        return self._components[name]

    def _use(self, *names: str, activation_bytes: int = 0) -> list[torch.nn.Module]:
        components = [self.component(name) for name in names]
        for component in components:
            component.set_loras([use for each in self._loras for use in each.text_uses(component.name)]
                                if component.name in TEXT else ())
        self.residency.use(*components, activation_bytes=activation_bytes)
        return [component.module for component in components]

    def _digest(self, name: str) -> str:
        """Hash of where a component's bytes are and of the files' state: changes when its weights may have."""
        refs = self.overlay.require(name).tensors
        lines = [f"{key} {ref.dtype} {ref.shape} {ref.start} {ref.source}" for key, ref in sorted(refs.items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def components(self) -> tuple[Component, ...]:
        """The components made so far."""
        return tuple(self._components.values())

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and std of the video latents, (C,), read alone: the upscaler needs no encoder or decoder."""
        names = [f"per_channel_statistics.{kind}-of-means" for kind in ("mean", "std")]
        refs = self.overlay.require("video_decoder").tensors
        read = dict(read_tensors({name: refs[name] for name in names}, self.residency.device, self.dtype))
        return read[names[0]], read[names[1]]

    # -- LoRAs ------------------------------------------------------------------------------------------------------
    def with_loras(self, loras: Sequence[Lora]) -> Pipeline:
        """The same model with these LoRAs in the place of any that this one has, in the order in which they are added.

        A view: it shares components, residency and encoded prompts with this pipeline, so views may be used in any
        order, and what differs is changed when one is used. Only headers are read here. Recipes add the overlay's
        distilled LoRA after these.

        Raises:
            OverlayError: a file is no LoRA, or is made for another model.
        """
        view = copy.copy(self)
        view._origin = self._origin or self  # kept alive: who wants the same model again finds it and its weights
        known = {each.lora: each for each in self._loras}
        view._loras = tuple(known.get(lora) or OpenLora.open(lora, self.overlay) for lora in loras)
        return view

    @property
    def loras(self) -> tuple[Lora, ...]:
        """The LoRAs of this view."""
        return tuple(each.lora for each in self._loras)

    @property
    def lora_files(self) -> tuple[LoraFile, ...]:
        """What their files hold, in the same order; IC-LoRAs say there how they want their reference video."""
        return tuple(each.file for each in self._loras)

    @property
    def lora_state(self) -> tuple[object, ...]:
        """What of results depends on LoRAs: settings, and the state of their files. Equal where results are equal."""
        return self._lora_mode, *((each.lora, each.file.source) for each in self._loras)

    @property
    def lora_reports(self) -> tuple[str, ...]:
        """What each of them changes, and what of its file was left out and why."""
        return tuple(each.report() for each in self._loras)

    @cached_property
    def _distilled(self) -> dict[str, Update]:
        return lora_pairs(self.overlay.require("distilled_lora").tensors)

    def _set_transformer_loras(self, stage: StagePlan, activation_bytes: int) -> None:
        """Those of this view, then the distilled one (the official order), at their strengths in this stage."""
        component = self.component("transformer")
        numbers = range(1, max(len(stage.loras), 1) + 1)
        staged = [StagedLora(each.updates("transformer"), tuple(map(each.lora.strength_in, numbers)), each.lora.mode)
                  for each in self._loras]
        if self.overlay.variant == "dev" and any(stage.loras):
            staged.append(StagedLora({1.0: self._distilled}, stage.loras, self._lora_mode))

        def fits(uses: Sequence[LoraUse]) -> bool:
            return component.bytes_with(uses) + activation_bytes <= self.residency.capacity_bytes

        component.set_loras(stage_uses(staged, stage.number, fits))

    # -- prompt ----------------------------------------------------------------------------------------------------
    def encode(self, prompt: str, negative_prompt: str | None = None) -> PromptPair:
        """Encode a prompt and a negative prompt; equal texts are encoded once for equal LoRAs of the text connectors.

        Args:
            prompt: what is seen and heard; up to 1024 tokens, longer ones are cut with a warning.
            negative_prompt: what guidance moves away from; None: `recipes.DEFAULT_NEGATIVE_PROMPT`.
        """
        negative_prompt = DEFAULT_NEGATIVE_PROMPT if negative_prompt is None else negative_prompt
        loras = tuple(key for each in self._loras if (key := each.text_key) is not None)
        keys = (prompt, *loras), (negative_prompt, *loras)
        missing = [key[0] for key in dict.fromkeys(keys) if key not in self._contexts]
        for text, context in zip(missing, self._encode(missing) if missing else (), strict=True):
            self._contexts[(text, *loras)] = context
        pair = PromptPair(*(self._contexts[key] for key in keys), prompt, negative_prompt)
        for key in keys:
            self._contexts.move_to_end(key)
        while len(self._contexts) > CONTEXTS_KEPT:
            self._contexts.popitem(last=False)
        return pair

    @torch.no_grad()
    def _encode(self, texts: Sequence[str]) -> list[PromptContext]:
        """Gemma for all texts first, then projection and connectors: each half is on the device once."""
        from .models.text.gemma import hidden_states
        from .prompt.encode import contexts
        from .prompt.tokenizer import Tokenizer
        from .prompt.tokenizer_files import tokenizer_folder
        self.overlay.require("text_encoder")
        tokenizer = Tokenizer(tokenizer_folder(self.overlay))
        ids = [tokenizer.encode(text) for text in texts]
        [gemma] = self._use("text_encoder", activation_bytes=1 << 29)
        states = [hidden_states(gemma, tokens, self.residency.check) for tokens in ids]
        projection, connectors = self._use("text_projection", "connectors", activation_bytes=1 << 29)
        encoded = (contexts(projection, connectors, state, self.residency.check) for state in states)
        return [PromptContext(video.cpu(), audio.cpu()) for video, audio in encoded]

    @torch.no_grad()
    def enhance(self, prompt: str, image: Tensor | None = None, *, seed: int = SEED, instructions: str | None = None,
                max_new_tokens: int = ENHANCED_TOKENS, on_token: Callable[[], None] | None = None) -> str:
        """Let the text encoder write a fuller prompt (spec/03 §6). The same seed and inputs give the same text.

        Args:
            prompt: the user's words.
            image: first frame of the video, (H, W, 3), uint8 or float in [0, 1]; needs a Gemma with vision tower.
            seed: any integer.
            instructions: system text instead of the pack's own.
            max_new_tokens: most tokens to write, 1 to 1024.
            on_token: called before each new token.

        Returns:
            The new prompt; the old one, with a warning in the log, where the model writes nothing.

        Raises:
            RequestError, MediaError: an input that cannot be; OverlayError: no text encoder, or one that cannot see.
        """
        from .prompt.enhance import answer, ask, check_new_tokens
        from .prompt.tokenizer import Tokenizer
        from .prompt.tokenizer_files import tokenizer_folder
        check_new_tokens(max_new_tokens)
        config = self.overlay.require("text_encoder").config
        components = [self.component("text_encoder"), *([] if image is None else [self._vision_encoder()])]
        tokenizer = Tokenizer(tokenizer_folder(self.overlay))
        question = ask(tokenizer, config, prompt, image, instructions)
        need = generation_bytes(config, len(question.ids), max_new_tokens, self.dtype.itemsize, image is not None)
        self.residency.use(*components, activation_bytes=need)
        gemma, vision = components[0].module, components[1].module if components[1:] else None
        text = answer(gemma, vision, tokenizer, question, seed=seed, max_new_tokens=max_new_tokens,
                      check=self.residency.check, on_token=on_token)
        if not text:
            log.warning("The text encoder wrote nothing that can be used; the prompt stays as it is.")
        return text or prompt

    def _vision_encoder(self) -> Component:
        """The component that sees pictures. Its names are the file's own and its configuration the text encoder's."""
        name = "text_encoder_vision"
        if name not in self._components:
            from .models.text.vision import VisionEncoder, restore_positions, vision_tensors
            entry, config = self.overlay.require(name), self.overlay.require("text_encoder").config
            module = VisionEncoder(config)
            self._components[name] = Component(name, lambda: module, vision_tensors(module, entry.tensors), self.dtype,
                                               verify=self.overlay.verify, after_load=restore_positions)
        return self._components[name]

    # -- sampling --------------------------------------------------------------------------------------------------
    def recipe(self, name: str = "auto") -> Recipe:
        """The recipe that a name means for these weights; raises `RequestError` if they cannot serve it."""
        return choose_recipe(name, self.overlay.variant, tuple(self.overlay.components))

    @torch.no_grad()
    def sample(self, context: PromptPair, *, recipe: str = "auto", width: int | None = None,
               height: int | None = None, frames: int | None = None, fps: float | None = None,
               seed: int | None = None, steps: int | None = None, guidance: Guidance | None = None,
               conditions: Sequence[Condition] = (), sigmas: Sequence[float] | Tensor | None = None,
               solver: Solver | None = None, stages: str = "all", start: Latents | None = None,
               streams: str = "both", audio_stage: str | None = None, batch: int = 1, windows: Windows | None = None,
               on_step: OnStep | None = None, preview: bool = False, noise_device: str = "auto") -> Latents:
        """Sample video and audio latents. What is None is the recipe's default (`recipes.RECIPES`).

        Args:
            context: of `encode`.
            recipe: a name of `recipes.RECIPE_NAMES`.
            width, height: pixels of the result, multiples of 32 (64 where the first stage runs at half size).
            frames: 8 k + 1.
            fps: frames per second; sets the audio's length too.
            seed: any integer; the noise stream is the official one on the same kind of device.
            steps: of the first stage that runs.
            guidance: of the guided stages.
            conditions: of `conditioning`.
            sigmas: schedule of the first stage that runs, instead of ``steps``.
            solver: of all stages.
            stages: "all", "first" or "second": one stage of a recipe of two. width and height are always those of
                the whole recipe's result.
            start: latents that the first stage here begins from: needed for "second" (upscaled), and otherwise
                for schedules that begin below 1.
            streams: "both", "video" (no sound is made) or "audio" (no picture is made).
            audio_stage: "first" or "last": whose sound is the result.
            batch: samples with the seeds seed, seed + 1, …; each is exactly its single run.
            windows: samples a long video window by window; None: in one piece.
            on_step: called after each step with a `StepInfo`; what it raises ends the run.
            preview: fill `StepInfo.preview` (fits the preview map to the decoder once).
            noise_device: "auto" draws noise on the compute device as the official code does, "cpu" gives the same
                noise everywhere.

        Returns:
            Latents on the CPU in the pipeline's dtype.

        Raises:
            GeometryError, RequestError: settings that cannot be; OverlayError, WeightsError: files that cannot.
        """
        chosen = self.recipe(recipe)
        check_streams(streams)
        clip = Clip(chosen.width if width is None else width, chosen.height if height is None else height,
                    chosen.frames if frames is None else frames, chosen.fps if fps is None else fps,
                    streams != "audio", streams != "video", chosen.stages[0].shrink)
        check_size(clip.width, clip.height, clip.frames, clip.fps, chosen.size_step if clip.video else 32)
        ordered = check_conditions(conditions, clip)
        plan = plan_stages(chosen, clip, self.transformer_config.layers, stages=stages, steps=steps,
                           guidance=guidance, sigmas=sigmas, solver=solver)
        check_start(start, clip, plan[0], batch)
        first = (chosen.audio_stage if audio_stage is None else check_audio_stage(audio_stage)) == "first"
        request = Request(context, clip, chosen.seed if seed is None else seed, plan, len(chosen.stages),
                          ordered, start, first, noise_device, on_step,
                          self.preview_map() if preview and on_step and clip.video else None,
                          windows and windows.over(clip))
        return run_batch(self, request, batch)

    # -- what a stage of sampling asks for ---------------------------------------------------------------------------
    def use_transformer(self, stage: StagePlan, tokens: tuple[int, int], masked: bool = False) -> torch.nn.Module:
        """The transformer on the device with a stage's LoRAs, and room for a call over (video, audio) tokens.

        ``masked``: the video self attention has a mask.
        """
        component = self.component("transformer")
        nag = stage.guidance is not None and stage.guidance.nag_alone() is not None
        need = sampling_bytes(self.transformer_config, *tokens, stage.passes, 1, self.dtype.itemsize, nag=nag,
                              masked=masked, fused=prepare_kernels())
        self._set_transformer_loras(stage, need)
        self.residency.use(component, activation_bytes=need)
        return component.module

    @torch.no_grad()
    def encode_video(self, pixels: Tensor) -> Tensor:
        """Encode frames: a single one whole; a clip with the official tiles where a side is longer than 768 pixels or
        there are more than 80.

        Args:
            pixels: (1, 3, F, H, W) in [-1, 1]; H and W multiples of 32, F = 8 k + 1 (further frames are left out).
                They may stay on the CPU: only one tile at a time goes to the device.

        Returns:
            Normalised latent (1, C, k + 1, H / 32, W / 32) on the device, in the pipeline's dtype.
        """
        pixels = crop_frames(pixels)
        grid = video_grid(pixels.shape[4], pixels.shape[3], pixels.shape[2])
        shape = (grid.frames, grid.height, grid.width)
        tiling = None if grid.frames == 1 else auto_tiling(shape)
        frames, height, width = encode_tile_size(shape, tiling)
        [encoder] = self._use("video_encoder", activation_bytes=encode_bytes(width, height, frames,
                                                                             self.dtype.itemsize))
        return tiled_encode(lambda tile: encoder(tile.to(self.residency.device, self.dtype)), pixels, tiling,
                            self.residency.check)

    @torch.no_grad()
    def encode_audio(self, audio: Audio) -> Tensor:
        """Encode sound of any rate, mono or stereo: latent (B, C, T, bins) on the device, T = 25 a second."""
        from .models.audio.mel import waveform_to_mel
        config = AudioVAEConfig.from_dict(self.overlay.require("audio_encoder").config)
        [encoder] = self._use("audio_encoder", activation_bytes=1 << 29)
        mel = waveform_to_mel(audio.waveform.to(self.residency.device), audio.sample_rate, config)
        return encoder(mel.to(self.dtype))

    @torch.no_grad()
    def upscale(self, latent: Tensor, kind: str = "x2") -> Tensor:
        """Enlarge a video latent by a latent upscaler (spec/06), sample by sample: its norms span a whole clip.

        Args:
            latent: (B, C, F', H', W').
            kind: "x2" or "x1.5" (height and width), or "temporal_x2" (2 F' - 1 frames).

        Raises:
            RequestError: not a video latent, or another kind; OverlayError: the overlay lacks the upscaler.
        """
        from .models.latent_upsampler import upsample
        check_upscale(kind, latent, self.transformer_config.video.in_channels)
        name = f"upsampler_{kind}"
        config = UpsamplerConfig.from_dict(self.overlay.require(name).config)
        need = upsample_bytes(config.mid_channels, VideoGrid(*latent.shape[2:]), self.dtype.itemsize)
        [module] = self._use(name, activation_bytes=need)
        return torch.cat([upsample(module, one.to(self.residency.device, self.dtype), *self._statistics)
                          for one in latent.split(1)])

    def preview_map(self) -> LatentToRGB:
        """The latent-to-RGB map of this VAE: kept beside the overlay, fitted to its decoder where there is none."""
        if "_preview_map" not in self.__dict__:
            path, decoder = self.overlay.path.with_suffix(".preview.json"), self._digest("video_decoder")
            found = LatentToRGB.load(path, decoder)
            if found is None:
                [module] = self._use("video_decoder", activation_bytes=1 << 29)
                channels = VideoVAEConfig.from_dict(self.overlay.require("video_decoder").config).latent_channels
                found = LatentToRGB.fit(module, channels, self.residency.device, self.dtype)
                found.save(path, decoder)
            self._preview_map = found
        return self._preview_map

    # -- decoding --------------------------------------------------------------------------------------------------
    def decode_video(self, latent: Tensor, tiling: Tiling | str | None = AUTO_TILING) -> Iterator[Tensor]:
        """Decode a video latent, streaming.

        Args:
            latent: (1, C, F', H', W').
            tiling: "auto" (the official tiles), a `Tiling`, or None for one piece.

        Yields:
            (f, H, W, 3) float32 in [0, 1] on the CPU, in order, as soon as they cannot change.
        """
        config = VideoVAEConfig.from_dict(self.overlay.require("video_decoder").config)
        if latent.ndim != 5 or latent.shape[1] != config.latent_channels:
            raise RequestError(f"the video latent has shape {tuple(latent.shape)}",
                               f"(batch, {config.latent_channels}, frames, height, width)",
                               "Connect the video latent of the LTX-2.3 sampler.")
        tiles = auto_tiling(latent.shape) if tiling == AUTO_TILING else tiling
        need = tiled_decode_bytes(config, latent.shape, tiles, self.dtype)
        [decoder] = self._use("video_decoder", activation_bytes=need)
        with torch.no_grad():
            for chunk in tiled_decode(decoder, latent.to(self.residency.device, self.dtype), tiles,
                                      self.residency.check):
                yield ((chunk[0] + 1) * 0.5).clamp(0, 1).permute(1, 2, 3, 0).float().cpu()

    @torch.no_grad()
    def decode_audio(self, latent: Tensor) -> Audio:
        """Decode an audio latent (B, C, T, bins) to 48 kHz stereo, (B, 2, samples) float32 on the CPU."""
        config = AudioVAEConfig.from_dict(self.overlay.require("audio_decoder").config)
        if latent.ndim != 4 or latent.shape[1] != config.latent_channels or latent.shape[3] != config.latent_bins:
            raise RequestError(f"the audio latent has shape {tuple(latent.shape)}",
                               f"(batch, {config.latent_channels}, time, {config.latent_bins})",
                               "Connect the audio latent of the LTX-2.3 sampler.")
        decoder, vocoder = self._use("audio_decoder", "vocoder", activation_bytes=1 << 29)
        mel = decoder(latent.to(self.residency.device, self.dtype))
        self.residency.check()
        rate = self.overlay.require("vocoder").config["bwe"]["output_sampling_rate"]
        return Audio(vocoder(mel).float().cpu(), rate)

    def decode_to_file(self, latents: Latents, path: str | Path, tiling: Tiling | str | None = AUTO_TILING) -> Path:
        """Decode to an mp4 with sound; frames leave for the encoder as they are decoded. Returns the path.

        Where a condition gave the sound (`Latents.waveform`), the file gets that and not what the latents decode to.
        """
        from .media.video import check_output_path, write_video  # PyAV: only needed here
        check_output_path(path)
        audio = latents.waveform
        if audio is None and latents.audio is not None:
            audio = self.decode_audio(latents.audio)
        write_video(path, self.decode_video(latents.video, tiling), latents.fps, audio)
        return Path(path)
