"""The pipeline: the stages of generation as methods. What nodes, the command line and Python users call."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from . import coding, words
from .arithmetic import DEFAULT, with_dtypes
from .config import ENHANCED_TOKENS, AudioVAEConfig, TransformerConfig
from .decode.tiles import Tiling
from .decode.ways import AUTO_TILING
from .lora.opened import TEXT, OpenLora, StagedLora, stage_uses
from .lora.plan import LoraUse
from .lora.settings import Lora, check_mode
from .media.audio import Audio, AudioSource
from .memory.advice import smaller_weights
from .memory.estimates import Tokens
from .memory.memory_plan import Stage, resident, run_line
from .memory.ram import available_ram
from .memory.room import Need, refusal
from .ops.attention import attention_backend, check_backend
from .overlay import Overlay
from .overlay.lora.dialects import LoraFile
from .overlay.weight_dtype import AS_STORED, smaller
from .parallel.team import Team
from .plan.decide import Decision, decide, stage_bytes
from .plan.latents import Latents, PromptContext, PromptPair
from .plan.recipes import DEFAULT_NEGATIVE_PROMPT, SEED, Recipe, choose_recipe
from .plan.settings import Settings
from .plan.stages import StagePlan
from .prompt.kept import KeptPrompts
from .run.plan import Plan
from .run.preview import LatentToRGB
from .run.progress import OnStep
from .runtime.component import Component
from .runtime.device import choose_device, choose_dtype
from .runtime.residency import LocalResidency, Residency
from .runtime.second_try import SecondTry
from .shared import Shared

Made = TypeVar("Made")


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
        prompt_cache: folder where encoded prompts are kept, up to 2 GB of them; None: in RAM alone.
        team: where this is one of several ranks that compute the same run (`parallel`).
    """

    def __init__(self, overlay: Overlay | str | Path, *, device: str | torch.device = "auto",
                 dtype: str = "auto", attention: str = "auto", residency: Residency | None = None,
                 lora_mode: str = "auto", memory: str | float = "auto",
                 weight_dtype: str = AS_STORED, matmul_dtype: str = DEFAULT, prompt_cache: str | Path | None = None,
                 team: Team | None = None) -> None:
        if not isinstance(overlay, Overlay):
            overlay = Overlay.load(overlay)
        if not isinstance(device, torch.device):
            device = choose_device(device)
        self.residency: Residency = residency or LocalResidency(device, memory=memory)
        self.overlay = with_dtypes(overlay, weight_dtype, matmul_dtype, self.residency.device)
        self.dtype = choose_dtype(dtype, self.residency.device)
        check_backend(attention, self.residency.device, self.dtype)
        self._shared = Shared(self.overlay, self.residency, self.dtype, attention_backend(attention), team,
                              codes=matmul_dtype != DEFAULT, kept_prompts=_kept(prompt_cache))
        self._lora_mode = check_mode(lora_mode)
        self._loras: tuple[OpenLora, ...] = ()
        self._origin: Pipeline | None = None

    @classmethod
    def load(cls, overlay: Overlay | str | Path, **options: object) -> Pipeline:
        """Same as the constructor."""
        return cls(overlay, **options)

    @property
    def leads(self) -> bool:
        """Whether results are to be taken from this process: always, but for all ranks of a launcher except one."""
        return self._shared.team is None or self._shared.team.leads

    # -- components ------------------------------------------------------------------------------------------------
    @property
    def transformer_config(self) -> TransformerConfig:
        """Architecture of the transformer."""
        return self._shared.transformer_config

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
        return self._shared.component(name)

    def _use(self, *names: str, activation_bytes: int = 0) -> list[torch.nn.Module]:
        components = list(map(self.component, names))
        for component in components:
            uses: list[LoraUse] = []
            if component.name in TEXT:
                for each in self._loras:
                    uses += each.text_uses(component.name)
            component.set_loras(uses)
        self.residency.use(*components, activation_bytes=activation_bytes)
        return [component.module for component in components]

    @property
    def components(self) -> tuple[Component, ...]:
        """The components made so far."""
        return tuple(self._shared.components.values())

    # -- LoRAs ------------------------------------------------------------------------------------------------------
    def with_loras(self, loras: Sequence[Lora]) -> Pipeline:
        """The same model with these LoRAs in the place of any that this one has, in the order in which they are added.

        A view: it shares components, residency and encoded prompts with this pipeline, so views may be used in any
        order, and what differs is changed when one is used. Of files little more than headers is read here. Recipes add
        the overlay's distilled LoRA after these.

        Raises:
            OverlayError: a file is no LoRA, or is made for another model.
        """
        known = {each.lora: each for each in self._loras}
        opened = [known.get(lora) or OpenLora.open(lora, self.overlay) for lora in loras]
        return self._view(opened)

    def _view(self, loras: Sequence[OpenLora]) -> Pipeline:
        """Another pipeline over the same `Shared`."""
        view = type(self).__new__(type(self))
        view.overlay, view.residency, view.dtype = self.overlay, self.residency, self.dtype
        view._shared, view._lora_mode, view._loras = self._shared, self._lora_mode, tuple(loras)
        # Kept alive: who wants the same model again finds it and its weights.
        view._origin = self._origin or self
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

    @property
    def idle_loras(self) -> tuple[bool, ...]:
        """Whether each of them changes nothing at all, because all its factors are 0."""
        return tuple(each.idle for each in self._loras)

    # -- prompt ----------------------------------------------------------------------------------------------------
    def encode(self, prompt: str, negative_prompt: str | None = None, *,
               prompt_cache: str | Path | None = None) -> PromptPair:
        """Encode a prompt and a negative prompt; equal texts are encoded once for equal LoRAs of the text connectors.

        Args:
            prompt: what is seen and heard; up to 1024 tokens, longer ones are cut with a warning.
            negative_prompt: what guidance moves away from; None: `recipes.DEFAULT_NEGATIVE_PROMPT`.
            prompt_cache: folder for these prompts, as of the pipeline; None: the pipeline's.
        """
        if negative_prompt is None:
            negative_prompt = DEFAULT_NEGATIVE_PROMPT
        loras = [each.text_key for each in self._loras if each.text_key is not None]
        keys = ((prompt, *loras), (negative_prompt, *loras))
        positive, negative = self._shared.encoded(keys, self._encode, _kept(prompt_cache))
        return PromptPair(positive, negative, prompt, negative_prompt)

    def _encode(self, texts: Sequence[str]) -> list[PromptContext]:
        team = self._shared.team
        if team is not None:
            return team.alone(lambda: words.encode(self._shared, self._use, texts))
        return words.encode(self._shared, self._use, texts)

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
        return words.enhance(
            self._shared,
            prompt,
            image,
            seed=seed,
            instructions=instructions,
            max_new_tokens=max_new_tokens,
            on_token=on_token,
        )

    def once(self, work: Callable[[], Made]) -> Made:
        """What one process makes for all ranks of a launcher, such as an enhanced prompt; elsewhere simply made."""
        if self._shared.team is None:
            return work()
        return self._shared.team.alone(work)

    # -- sampling --------------------------------------------------------------------------------------------------
    def recipe(self, name: str = "auto") -> Recipe:
        """The recipe that a name means for these weights; raises `RequestError` if they cannot serve it."""
        return choose_recipe(name, self.overlay.variant, tuple(self.overlay.components))

    def plan(self, settings: Settings) -> Plan:
        """What settings mean for this model: every refusal is made here, before anything is loaded; `str` says it.

        Raises:
            GeometryError, RequestError, MediaError: settings that cannot be. OverlayError: the overlay lacks a part.
        """
        decision = decide(settings, self._shared.facts)
        for name in decision.needs:
            self.overlay.require(name)
        return Plan(decision, self)

    def memory_line(self, decision: Decision) -> str:
        """One line: what of a run will be streamed, how its clip will be decoded, and the peak; reads no weights."""
        residency = self.residency
        stages = self._memory_stages(decision)
        line = run_line(stages, residency.capacity_bytes, residency.wish, available_ram())
        advice = self._smaller_weights(decision.activation_bytes)
        if advice:
            line += f". {advice}"
        return line

    def resident_blocks(self, decision: Decision) -> tuple[int, int] | None:
        """How many of the transformer's blocks stay on the device in a run, and how many it has; None: it has no room.
        """
        residency = self.residency
        return resident(self._memory_stages(decision), residency.capacity_bytes, residency.wish)

    def _memory_stages(self, decision: Decision) -> tuple[Stage, ...]:
        shared = self._shared
        sampling = shared.stage("transformer", activations=(decision.activation_bytes,))
        return (*words.stages(shared), sampling, *coding.stages(shared, decision))

    def _smaller_weights(self, activation_bytes: int) -> str:
        """What would keep more of the transformer on the device, if it has to be streamed."""
        transformer, wish = self.component("transformer"), self.residency.wish

        def others() -> dict[str, Need]:
            return {form: transformer.need_as(tensors) for form, tensors in smaller(transformer.refs).items()}

        room = wish.capacity(self.residency.capacity_bytes) - activation_bytes
        return smaller_weights(transformer.need(), others, room, wish)

    def sample(self, context: PromptPair, *, on_step: OnStep | None = None, preview: bool = False,
               **settings: Any) -> Latents:  # noqa: ANN401 (the fields of `Settings`)
        """`plan` and run in one call: ``settings`` are the fields of `Settings`, the rest is `Plan.run`'s."""
        return self.plan(Settings(**settings)).run(context, on_step, preview=preview)

    # -- what a stage of sampling asks for ---------------------------------------------------------------------------
    def use_transformer(self, stage: StagePlan, call: Tokens) -> torch.nn.Module:
        """The transformer on the device with a stage's LoRAs, and room for a call."""
        need = stage_bytes(self._shared.facts, stage, call)
        component = self.component("transformer")
        component.set_loras(self._transformer_loras(stage, component, need))
        team = self._shared.team
        if team is not None:
            # No second try: the others are in the middle of an exchange by then.
            team.place(self.residency, component, need)
            return team.transformer(component.module, self.transformer_config, self.dtype)
        self.residency.use(component, activation_bytes=need)
        return SecondTry(component.module, partial(self.residency.use_less, component, need),
                         lambda: refusal([component.need()], self.residency.capacity_bytes, need))

    def _transformer_loras(self, stage: StagePlan, component: Component, need: int) -> list[LoraUse]:
        """Those of this view, then the distilled one (the official order), at their strengths in this stage."""
        staged = [each.staged(max(len(stage.loras), 1)) for each in self._loras]
        if self.overlay.variant == "dev" and any(stage.loras):
            staged.append(StagedLora({1.0: self._shared.distilled}, stage.loras, self._lora_mode))

        def fits(uses: Sequence[LoraUse]) -> bool:
            return component.bytes_with(uses) + need <= self.residency.capacity_bytes

        return stage_uses(staged, stage.number, fits)

    def encode_video(self, pixels: Tensor) -> Tensor:
        """Encode frames: a single one whole; a clip with the official tiles where a side is longer than 768 pixels or
        there are more than 80.

        Args:
            pixels: (1, 3, F, H, W) in [-1, 1]; H and W multiples of 32, F = 8 k + 1 (further frames are left out).
                They may stay on the CPU: only one tile at a time goes to the device.

        Returns:
            Normalised latent (1, C, k + 1, H / 32, W / 32) on the device, in the pipeline's dtype.
        """
        return coding.encode_video(self._shared, pixels)

    def encode_audio(self, audio: Audio) -> Tensor:
        """Encode sound of any rate and layout, in pieces: latent (B, C, T, bins) on the device, T = 25 a second."""
        return coding.encode_audio(self._shared, audio)

    def upscale(self, latent: Tensor, kind: str = "x2") -> Tensor:
        """Enlarge a video latent by a latent upscaler (spec/06), sample by sample: its norms span a whole clip.

        Args:
            latent: (B, C, F', H', W').
            kind: "x2" or "x1.5" (height and width), or "temporal_x2" (2 F' - 1 frames).

        Raises:
            RequestError: not a video latent, or another kind; OverlayError: the overlay lacks the upscaler.
        """
        return coding.upscale(self._shared, latent, kind)

    def preview_map(self) -> LatentToRGB:
        """The latent-to-RGB map of this VAE: kept beside the overlay, fitted to its decoder where there is none."""
        return self._shared.preview_map()

    # -- decoding --------------------------------------------------------------------------------------------------
    def decode_video(self, latent: Tensor, tiling: Tiling | str | None = AUTO_TILING,
                     eight_bit: bool = False) -> Iterator[Tensor]:
        """Decode a video latent, streaming.

        Args:
            latent: (1, C, F', H', W').
            tiling: "auto" (the whole clip with a few of its frames at a time; tiles where even that has no room), a
                `Tiling`, or None for all frames at once.
            eight_bit: round on the device, as a file will: a quarter of the bytes.

        Yields:
            (f, H, W, 3) on the CPU, float32 in [0, 1] or uint8, in order, as soon as they cannot change.
        """
        return coding.decode_video(self._shared, latent, tiling, eight_bit)

    def decode_audio(self, latent: Tensor) -> Audio:
        """Decode an audio latent (B, C, T, bins) to 48 kHz stereo, (B, 2, samples) float32 on the CPU."""
        return coding.decode_audio(self._shared, latent)

    def decode_clip(self, video: Tensor, audio: Tensor | Audio | None, tiling: Tiling | str | None = AUTO_TILING) -> (
            tuple[Iterator[Tensor], AudioSource]):
        """Decode picture and sound for a file: the sound beside the picture where that gains, else before it.

        Args:
            video, tiling: as of `decode_video`.
            audio: a latent of the same clip; a sound, or None, is handed on.

        Returns:
            Frames of 8 bit, as of `decode_video`, and the sound: itself, or what gives it once the first frames are
            there, in any thread.
        """
        if isinstance(audio, Tensor):
            return coding.decode_clip(self._shared, video, audio, tiling)
        return self.decode_video(video, tiling, eight_bit=True), audio

    def decode_to_file(self, latents: Latents, path: str | Path,
                       tiling: Tiling | str | None = AUTO_TILING) -> Path:
        """Decode to an mp4 with sound; frames leave for the encoder as they are decoded. Returns the path.

        Where a condition gave the sound (`Latents.waveform`), the file gets that and not what the latents decode to.
        """
        from .media.video import check_output_path, write_video  # PyAV: only needed here
        check_output_path(path)
        frames, sound = self.decode_clip(latents.video, latents.waveform or latents.audio, tiling)
        write_video(path, frames, latents.fps, sound)
        return Path(path)


def _kept(folder: str | Path | None) -> KeptPrompts | None:
    """Encoded prompts in a folder."""
    if folder is None:
        return None
    return KeptPrompts(Path(folder))
