"""A pipeline whose work is done by workers: the same methods, results and errors."""
from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ENHANCED_TOKENS
from ..errors import RequestError
from ..lora.opened import OpenLora
from ..media.audio import Audio, AudioSource
from ..overlay import Overlay
from ..pipeline import AUTO_TILING, Pipeline
from ..plan.decide import Decision
from ..plan.latents import Latents, PromptContext, PromptPair
from ..plan.recipes import SEED
from ..plan.settings import Settings
from ..run.plan import Plan
from ..run.preview import LatentToRGB
from ..run.progress import OnStep
from .pool import Ranks

log = logging.getLogger("ltx23")

Heard = Mapping[str, Callable[[Any], None]]  # kind of message -> what takes it
MOST = 64  # processes of one processor
NAME = re.compile(r"cpu|mps|cuda:\d+")


class WorkersPipeline(Pipeline):
    """`Pipeline` on several devices of this computer. What needs no weights, such as `plan`, is done here.

    Args:
        overlay, dtype, attention, lora_mode, memory: as of `Pipeline`.
        devices: how many ("2"), all ("auto"), or names ("cuda:0,cuda:2").
        residency: of this process, for its ``check``; None: `LocalResidency`. Nothing is loaded through it.
        make_room: called before work, so that this process lets go of the devices' memory.
        tell: told how a run is shared out, and what it takes; None: the log.
        count: told (done, about how many there are) while weights are loaded or something is encoded.
    """

    def __init__(self, overlay: Overlay | str | Path, *, devices: str = "auto",
                 make_room: Callable[[], None] | None = None, tell: Callable[[str], None] = log.info,
                 count: Callable[[int, int], None] | None = None, memory: str | float = "auto",
                 **options: Any) -> None:  # noqa: ANN401
        super().__init__(overlay, **options)
        names = device_names(devices, self.residency.device)
        given = {**options, "overlay": self.overlay, "dtype": _name_of(self.dtype)}
        for name in ("residency", "device", "weight_dtype"):
            given.pop(name, None)
        self.worker_options = given
        self.ranks = Ranks(names, given, memory)
        self._make_room, self._tell, self._count = make_room, tell, count

    def _view(self, loras: Sequence[OpenLora]) -> WorkersPipeline:
        view = super()._view(loras)
        view.ranks, view._make_room, view._tell, view._count = self.ranks, self._make_room, self._tell, self._count
        return view

    def _work(self, method: str, *arguments: object, heard: Heard | None = None,
              **options: Any) -> Any:  # noqa: ANN401
        """What the first rank gives."""
        if self._make_room is not None:
            self._make_room()
        heard = {**self._counted, **(heard or {})}
        return self.ranks.call(method, *arguments, loras=self.loras, check=self.residency.check, heard=heard, **options)

    @property
    def _counted(self) -> Heard:
        """What takes a worker's counts."""
        if self._count is None:
            return {}
        count = self._count
        return {"counted": lambda counts: count(*counts)}

    def plan(self, settings: Settings) -> Plan:
        """See `Pipeline.plan`."""
        plan = super().plan(settings)
        return WorkersPlan(plan.decision, self)

    def run(self, decision: Decision, context: PromptPair, on_step: OnStep | None, preview: bool,
            say: Callable[[str], None] | None) -> Latents:
        """Carry a decision out."""
        heard = {"plan": self._tell}
        if on_step is not None:
            heard["step"] = on_step
        if say is not None:
            heard["said"] = say
        return self._work("run", decision, context, preview, on_step is not None, heard=heard)

    def _encode(self, texts: Sequence[str]) -> list[PromptContext]:
        return self._work("_encode", list(texts))

    def enhance(self, prompt: str, image: Tensor | None = None, *, seed: int = SEED, instructions: str | None = None,
                max_new_tokens: int = ENHANCED_TOKENS, on_token: Callable[[], None] | None = None) -> str:
        """See `Pipeline.enhance`."""
        heard = {}
        if on_token is not None:
            heard["token"] = lambda _: on_token()
        return self._work("enhance", prompt, image, heard=heard, seed=seed, instructions=instructions,
                          max_new_tokens=max_new_tokens, tokens=on_token is not None)

    def encode_video(self, pixels: Tensor) -> Tensor:
        """See `Pipeline.encode_video`; the latent is on the CPU."""
        return self._work("encode_video", pixels)

    def encode_audio(self, audio: Audio) -> Tensor:
        """See `Pipeline.encode_audio`; the latent is on the CPU."""
        return self._work("encode_audio", audio)

    def upscale(self, latent: Tensor, kind: str = "x2") -> Tensor:
        """See `Pipeline.upscale`; the latent is on the CPU."""
        return self._work("upscale", latent, kind)

    def preview_map(self) -> LatentToRGB:
        """See `Pipeline.preview_map`."""
        return self._work("preview_map")

    def decode_video(self, latent: Tensor, tiling: object = AUTO_TILING, eight_bit: bool = False) -> Iterator[Tensor]:
        """See `Pipeline.decode_video`."""
        if self._make_room is not None:
            self._make_room()
        parts = self.ranks.stream("decode_video", latent, tiling, eight_bit, check=self.residency.check,
                                  heard=self._counted)
        for part in parts:
            if part is not None:  # the result, which has no value
                yield part

    def decode_audio(self, latent: Tensor) -> Audio:
        """See `Pipeline.decode_audio`."""
        return self._work("decode_audio", latent)

    def decode_clip(self, video: Tensor, audio: Tensor | Audio | None, tiling: object = AUTO_TILING) -> (
            tuple[Iterator[Tensor], AudioSource]):
        """See `Pipeline.decode_clip`: the sound first, since all workers share the tiles of the picture."""
        if isinstance(audio, Tensor):
            audio = self.decode_audio(audio)
        return self.decode_video(video, tiling, eight_bit=True), audio

    def close(self) -> None:
        """End the workers; the next call starts new ones."""
        self.ranks.close()


@dataclass(frozen=True)
class WorkersPlan(Plan):
    """A plan that workers run."""

    engine: WorkersPipeline

    def run(self, context: PromptPair, on_step: OnStep | None = None, *, preview: bool = False,
            say: Callable[[str], None] | None = None) -> Latents:
        """See `Plan.run`."""
        return self.engine.run(self.decision, context, on_step, preview, say)


def _name_of(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]


def device_names(devices: str, device: torch.device) -> tuple[str, ...]:
    """Names of the devices that a user means.

    Args:
        devices: "auto" (all of this kind), a number, or names separated by commas.
        device: whose kind is meant; on the CPU a number means so many processes.

    Raises:
        RequestError: no such devices.
    """
    text, there = devices.strip().lower(), 1
    if device.type == "cuda":
        there = torch.cuda.device_count()
    if text == "auto":
        return _numbered(device, there)
    if text.isdigit() and 0 < int(text) <= (MOST if device.type == "cpu" else there):
        return _numbered(device, int(text))
    names = tuple(name.strip() for name in text.split(","))
    if all(NAME.fullmatch(name) for name in names):
        return names
    raise RequestError(f"devices is {devices[:40]!r}",
                       f"auto, a number from 1 to {there}, or names such as cuda:0,cuda:1", "Use auto.")


def _numbered(device: torch.device, count: int) -> tuple[str, ...]:
    """The first devices of a kind."""
    if device.type != "cuda":
        return (device.type,) * count
    return tuple(f"cuda:{number}" for number in range(count))
