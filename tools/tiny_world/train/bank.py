"""Latents of many clips with their prompts, kept on the device and renewed while training goes on."""
from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tools.tiny_world.captions import caption
from tools.tiny_world.scene import Scenes, sample_scenes
from tools.tiny_world.train import audio, gemma, video_vae
from tools.tiny_world.train.common import generator_of
from tools.tiny_world.train.configs import FPS, Size
from tools.tiny_world.train.library import DEFAULT_NEGATIVE_PROMPT, Tokenizer, audio_latent_length
from tools.tiny_world.train.tokenizer import TOKENIZER

PROMPT_TOKENS = 32                # longest caption
CHUNK = 200                       # clips made at a time


@dataclass
class Models:
    """What turns scenes and prompts into what the transformer takes; nothing of it is trained here."""

    encoder: nn.Module
    audio_encoder: nn.Module
    gemma: nn.Module
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> Models:
        """From the files of the earlier components."""
        return cls(video_vae.load(folder, "encoder", device, dtype), audio.load(folder, device, dtype)[0],
                   gemma.load(folder, device), device, dtype)

    @torch.no_grad()
    def latents(self, scenes: Scenes, size: Size) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalised tokens of clips: video (B, Nv, 128) and audio (B, Na, 128); of one frame, and its number (B,)."""
        clip = video_vae.pixels(scenes, size.width, size.height, size.frames, self.device, self.dtype)
        video = self.encoder(clip).flatten(2).transpose(1, 2)
        length = audio_latent_length(size.frames, FPS)
        mel, _, _ = audio.sounds(scenes, length, self.device)
        sound = self.audio_encoder(mel.to(self.dtype))
        moments = torch.randint(size.frames, (len(scenes),), device=self.device)
        frame = clip[torch.arange(len(scenes), device=self.device), :, moments][:, :, None]
        return (video, sound.transpose(1, 2).flatten(2), self.encoder(frame).flatten(2).transpose(1, 2), moments)

    def features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states of prompts, see `gemma.features`."""
        return gemma.features(self.gemma, ids.to(self.device), mask.to(self.device)).to(self.dtype)


_tokenizer: Tokenizer | None = None


def _start() -> None:
    global _tokenizer
    _tokenizer = Tokenizer(TOKENIZER)


def _scenes(seed: int, number: int, size: Size, count: int) -> tuple[Scenes, list[list[int]]]:
    """One chunk of scenes and the token ids of their captions; runs in another process."""
    rng = generator_of(seed, number)
    scenes = sample_scenes(rng, count, size.aspect, size.seconds)
    assert _tokenizer is not None
    return scenes, [_tokenizer.encode(caption(rng, scenes, index)) for index in range(count)]


@dataclass
class Shelf:
    """The clips of one size; ``key`` is one frame of each as an image, ``moment`` its number."""

    size: Size
    video: Tensor
    audio: Tensor
    key: Tensor
    moment: Tensor
    text: Tensor
    mask: Tensor
    filled: int = 0
    written: int = 0

    def put(self, *chunk: Tensor) -> None:
        """Write a chunk (video, audio, key, moment, text, mask) over the oldest one."""
        start = self.written % len(self.video)
        end = min(start + len(chunk[0]), len(self.video))
        targets = (self.video, self.audio, self.key, self.moment, self.text, self.mask)
        for target, value in zip(targets, chunk, strict=True):
            target[start:end] = value[:end - start]
        self.written = end % len(self.video)
        self.filled = max(self.filled, end)


class Bank:
    """Shelves of clips by size.

    Args:
        models: what makes latents.
        sizes: what clips there are; ``weight`` shares out ``clips``.
        clips: in all.
        workers: processes that draw scenes and captions; 0: this one does.
        chunk: clips made at a time.
    """

    def __init__(self, models: Models, sizes: tuple[Size, ...], clips: int, seed: int, workers: int,
                 chunk: int = CHUNK) -> None:
        self.models, self.sizes, self.seed, self._chunk = models, sizes, seed, chunk
        self.weights = np.array([size.weight for size in sizes]) / sum(size.weight for size in sizes)
        self.shelves = [self._shelf(size, max(chunk, int(clips * weight))) for size, weight in
                        zip(sizes, self.weights, strict=True)]
        self._pool = None
        if workers:
            self._pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start)
        else:
            _start()
        self._chunks = self._stream(2 * workers)

    def _shelf(self, size: Size, count: int) -> Shelf:
        device, dtype = self.models.device, self.models.dtype
        tokens = (size.frames // 8 + 1) * (size.height // 32) * (size.width // 32)

        def empty(*shape: int) -> Tensor:
            return torch.empty(count, *shape, device=device, dtype=dtype)

        width = self.models.gemma.config.hidden_size * (self.models.gemma.config.num_hidden_layers + 1)
        return Shelf(size, empty(tokens, 128), empty(audio_latent_length(size.frames, FPS), 128),
                     empty(size.height * size.width // 1024, 128), torch.zeros(count, device=device, dtype=torch.long),
                     empty(PROMPT_TOKENS, width), empty(PROMPT_TOKENS))

    def _stream(self, depth: int) -> Iterator[tuple[int, Scenes, list[list[int]]]]:
        """Chunks of scenes without end, each for the shelf that has least of its share."""
        rng = generator_of(self.seed, 1 << 30)
        waiting: list[tuple[int, Future[tuple[Scenes, list[list[int]]]]]] = []
        for number in range(1 << 60):
            pressure = [shelf.filled / len(shelf.video) for shelf in self.shelves]
            asked = [sum(other == k for other, _ in waiting) * self._chunk / len(shelf.video)
                     for k, shelf in enumerate(self.shelves)]
            kind = int(np.argmin(np.add(pressure, asked)))
            if min(pressure) >= 1:
                kind = int(rng.choice(len(self.sizes), p=self.weights))
            if self._pool is None:
                yield kind, *_scenes(self.seed, number, self.sizes[kind], self._chunk)
                continue
            waiting.append((kind, self._pool.submit(_scenes, self.seed, number, self.sizes[kind], self._chunk)))
            if len(waiting) > depth:
                kind, future = waiting.pop(0)
                yield kind, *future.result()

    def renew(self) -> None:
        """Add one chunk."""
        kind, scenes, rows = next(self._chunks)
        ids, mask = gemma.padded(rows, PROMPT_TOKENS)
        shelf = self.shelves[kind]
        shelf.put(*self.models.latents(scenes, shelf.size), self.models.features(ids, mask),
                  mask.to(self.models.device))

    def fill(self) -> None:
        """Add chunks until every shelf is full."""
        while any(shelf.filled < len(shelf.video) for shelf in self.shelves):
            self.renew()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def negatives(models: Models) -> tuple[Tensor, Tensor]:
    """Features (3, T, width) and mask (3, T) of what stands for no prompt: nothing, the default negative prompt twice.

    The second copy has its terms in another order.
    """
    tokenizer = Tokenizer(TOKENIZER)
    terms = DEFAULT_NEGATIVE_PROMPT.split(", ")
    rows = [tokenizer.encode(text) for text in ("", DEFAULT_NEGATIVE_PROMPT, ", ".join(reversed(terms)))]
    ids, mask = gemma.padded(rows, max(map(len, rows)))
    return models.features(ids, mask), mask.to(models.device)
