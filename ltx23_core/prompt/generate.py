"""Gemma 3 writes text with the language model that is already loaded.

The weights of the head are those of the embedding, so nothing is loaded for it. transformers' model class is built on
the meta device and gets the loaded modules put in. It reads the question, picture and all; then each token is a step
over fixed memory (`models.text.step`). Where layers are streamed, transformers' own `generate` does everything: it
brings the KV cache and the masks that fit the installed release (before 4.53 a sliding window needs another cache
than since). The text is the same.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..models.text._transformers import transformers_class
from ..models.text.gemma import check_ids, checked, restore_buffers
from ..models.text.step import Step, heard, steppable
from ..models.text.vision import VisionEncoder, seeing_model

TOP_K, TOP_P = 64, 0.95  # Gemma 3's generation_config.json; single files do not bring it


class TiedHead(nn.Module):
    """Scores of all tokens by the embedding's own weights, quantised or not."""

    def __init__(self, embedding: nn.Module, on_token: Callable[[], None] | None) -> None:
        """``on_token`` is called before each new token."""
        super().__init__()
        self._embedding = (embedding,)  # in a tuple: not a child, or the weights would count twice
        self._on_token = on_token

    @property
    def weight(self) -> Tensor:
        """Empty, in the dtype of the numbers, which is all that transformers 4.50 asks it for."""
        [embedding] = self._embedding
        return torch.empty(0, dtype=getattr(embedding, "dtype", embedding.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, vocabulary)."""
        if self._on_token is not None:
            self._on_token()
        [embedding] = self._embedding
        if hasattr(embedding, "scores"):  # `weights.quant_modules.QuantEmbedding`
            return embedding.scores(x)
        return functional.linear(x, embedding.weight)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        stop: ids that end the text.
        seed: any integer.
        max_new_tokens: most tokens to write.
        temperature: 0 takes the likeliest token each time, without a draw.
    """

    stop: tuple[int, ...]
    seed: int
    max_new_tokens: int
    temperature: float

    def draw(self, scores: Tensor) -> Tensor:
        """The next token, int64 (1, 1), from the scores of all, (1, vocabulary); as transformers draws it."""
        scores = scores.float()
        if self.temperature <= 0:
            return scores.argmax(-1, keepdim=True)
        for name, value in (("Temperature", self.temperature), ("TopK", TOP_K), ("TopP", TOP_P)):
            scores = transformers_class(f"{name}LogitsWarper")(value)(None, scores)
        return torch.multinomial(scores.softmax(-1), num_samples=1)

    def config(self, model: nn.Module) -> object:
        """transformers' GenerationConfig. Never compiled: that would take minutes and a C compiler.

        The kind of cache is what this release takes for the model: old ones get sliding windows wrong with any other.
        """
        options: dict[str, Any] = {"do_sample": False}
        if self.temperature > 0:
            options = {"do_sample": True, "temperature": self.temperature, "top_k": TOP_K, "top_p": TOP_P}
        return transformers_class("GenerationConfig")(
            **options, max_new_tokens=self.max_new_tokens, eos_token_id=list(self.stop), pad_token_id=0, use_cache=True,
            disable_compile=True, cache_implementation=getattr(model.generation_config, "cache_implementation", None))


@dataclass(frozen=True)
class Sight:
    """A picture in the question.

    Attributes:
        encoder: with weights.
        config: the text encoder's config.json.
        pixels: (1, 3, S, S) of `image_pixels`.
        place: id of the tokens whose place the picture's features take.
    """

    encoder: VisionEncoder
    config: Mapping[str, Any]
    pixels: Tensor
    place: int


@contextmanager
def forked_rng(seed: int) -> Iterator[None]:
    """Seed torch's generators for a while; afterwards they are where they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed % 2**64)
        yield


def _model(gemma: nn.Module, head: TiedHead, sight: Sight | None) -> nn.Module:
    """transformers' model with the loaded modules in it."""
    if sight is None:
        with torch.device("meta"):
            model = transformers_class("Gemma3ForCausalLM")(gemma.config)
        model.model, model.lm_head = gemma, head
        return model.eval()
    model = seeing_model(sight.config)
    inner = getattr(model, "model", model)  # since transformers 4.52
    inner.vision_tower, inner.multi_modal_projector = sight.encoder.vision_tower, sight.encoder.multi_modal_projector
    if inner is model:
        model.language_model.model, model.language_model.lm_head = gemma, head
    else:
        inner.language_model, model.lm_head = gemma, head
    return model


@torch.no_grad()
def generate(gemma: nn.Module, ids: Sequence[int], sampling: Sampling, sight: Sight | None = None,
             check: Callable[[], None] | None = None, on_token: Callable[[], None] | None = None) -> list[int]:
    """Continue a sequence of tokens.

    Officially the sequence is padded on the left to a multiple of 8 and the padding is masked: equal up to rounding,
    as in `gemma.hidden_states`, so there is none here.

    Args:
        gemma: from `build_gemma`, with weights.
        ids: n token ids.
        sampling: how to draw.
        sight: the picture, if the sequence has places for one.
        check: called before every layer, on a GPU before every token; what it raises ends the run.
        on_token: called before each new token.

    Returns:
        The new ids, at most ``max_new_tokens``; the one that ended the text is the last.

    Raises:
        OverlayError: an id that the model has no embedding for.
    """
    check_ids(gemma, ids)
    device = gemma.norm.weight.device
    restore_buffers(gemma, device)
    head, steps = TiedHead(gemma.embed_tokens, on_token), steppable(gemma)
    model = _model(gemma, head, sight)
    tokens = torch.tensor([list(ids)], device=device)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if sight is not None:
        inputs |= {"pixel_values": sight.pixels.to(device, gemma.norm.weight.dtype),
                   "token_type_ids": (tokens == sight.place).long()}
    with checked(gemma, check), forked_rng(sampling.seed):
        if steps:
            return _write(model, gemma, head, inputs, sampling, check)
        model.generation_config = config = sampling.config(model)
        return model.generate(**inputs, generation_config=config)[0, len(ids):].tolist()


def _write(model: nn.Module, gemma: nn.Module, head: TiedHead, inputs: dict[str, Tensor], sampling: Sampling,
           check: Callable[[], None] | None) -> list[int]:
    """Read the question once, then write token by token."""
    ids = inputs["input_ids"]
    positions = torch.arange(ids.shape[1], device=ids.device)[None]
    with heard(gemma) as question:
        scores = model(**inputs, position_ids=positions, use_cache=False, logits_to_keep=1).logits[:, -1]
    step = Step(gemma, question, sampling.max_new_tokens, check)
    question.clear()  # its steps have their own
    made: list[int] = []
    while True:
        token = sampling.draw(scores)
        made.append(token.item())
        if made[-1] in sampling.stop or len(made) >= sampling.max_new_tokens:
            return made
        if check is not None:
            check()
        scores = head(step(token))[:, -1]
