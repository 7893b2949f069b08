"""Prompt enhancement: the question that Gemma 3 is asked, and what becomes of its answer (spec/03 §6)."""
from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..config import ENHANCED_TOKENS, TEXT_TOKENS
from ..errors import RequestError
from ..models.text.vision import VisionConfig, VisionEncoder
from .generate import Sampling, Sight, generate
from .instructions import IMAGE_TO_VIDEO, TEXT_TO_VIDEO
from .picture import image_pixels
from .tokenizer import Tokenizer

log = logging.getLogger("ltx23")

TEMPERATURE = 0.7
_END_OF_TURN = "<end_of_turn>"
# Written out in a prompt, these would end the user's turn or stand for a picture.
_MARKERS = re.compile(r"<(bos|eos|pad|unk|mask|start_of_turn|end_of_turn|start_of_image|end_of_image|"
                      r"image_soft_token)>")
_SPACES = re.compile(r"[^\S\n]+")
_ASCII = str.maketrans({**dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'"),
                        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033", '"'),
                        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"), "\u2026": "...",
                        "\ufffd": None})


@dataclass(frozen=True)
class Question:
    """What the model reads.

    Attributes:
        ids: token ids, the model's turn begun.
        stop: ids that end the answer.
        config: the text encoder's config.json.
        image: (H, W, 3) or None.
    """

    ids: list[int]
    stop: tuple[int, ...]
    config: Mapping[str, Any]
    image: Tensor | None


def ask(tokenizer: Tokenizer, config: Mapping[str, Any], prompt: str, image: Tensor | None = None,
        instructions: str | None = None) -> Question:
    """Put prompt, picture and instructions into Gemma's turns; its system text stands at the head of the user's turn.

    Args:
        tokenizer: Gemma's.
        config: the text encoder's config.json.
        prompt: the user's; behind its token 1024 it is cut, with a warning, as for encoding.
        image: (H, W, 3), uint8 or float in [0, 1].
        instructions: the system text; None or blank: the pack's own for text or for a picture.

    Raises:
        RequestError: the prompt is not text, or there is nothing to go by.
    """
    kept = tokenizer.encode(prompt)
    if len(kept) == TEXT_TOKENS:
        prompt = tokenizer.decode(kept)
    words = _MARKERS.sub(" ", prompt).strip()
    if not words and image is None:
        raise RequestError("there is no prompt to enhance", "a few words about the video",
                           "Write a prompt, or leave out the enhancement.")
    own = IMAGE_TO_VIDEO
    if image is None:
        own = TEXT_TO_VIDEO
    system = (instructions or "").strip() or own
    head = f"<start_of_turn>user\n{_MARKERS.sub(' ', system)}\n\n"
    tail = f"{_END_OF_TURN}\n<start_of_turn>model\n"
    if image is None:
        ids = tokenizer.split(f"{head}user prompt: {words}{tail}")
    else:
        vision = VisionConfig.from_dict(config)
        ids = [*tokenizer.split(head + "\n\n"), vision.begin, *[vision.place] * vision.features, vision.end,
               *tokenizer.split(f"\n\nUser Raw Input Prompt: {words}.{tail}")]
    stop = (tokenizer.special("<eos>"), tokenizer.special(_END_OF_TURN))
    return Question([tokenizer.bos, *ids], stop, config, image)


def answer(gemma: nn.Module, encoder: VisionEncoder | None, tokenizer: Tokenizer, question: Question, *,
           seed: int, max_new_tokens: int = ENHANCED_TOKENS, check: Callable[[], None] | None = None,
           on_token: Callable[[], None] | None = None) -> str:
    """Let the model answer; returns the tidied text, which may be empty.

    Args:
        gemma: the language model, with weights.
        encoder: the vision tower, with weights; None where the question has no image.
        seed: the same seed and question give the same text on the same device.
        check, on_token: as for `generate`.
    """
    sight = None
    if encoder is not None and question.image is not None:
        vision = VisionConfig.from_dict(question.config)
        sight = Sight(encoder, question.config, image_pixels(question.image, vision), vision.place)
    sampling = Sampling(question.stop, seed, max_new_tokens, TEMPERATURE)
    ids = generate(gemma, question.ids, sampling, sight, check, on_token)
    if ids[-1] not in question.stop:
        log.warning("The enhanced prompt was stopped at %d tokens and may end in the middle of a "
                    "sentence.", len(ids))
    return tidy(tokenizer.decode(ids))


def tidy(text: str) -> str:
    """Typographic quotes, dashes and dots to ASCII, nothing that cannot be seen, beginning with a letter."""
    text = _SPACES.sub(" ", text.translate(_ASCII))
    text = "".join(c for c in text if c == "\n" or c.isprintable())
    for start, character in enumerate(text):
        if character.isalpha():
            return text[start:].strip()
    return ""


def check_new_tokens(count: int) -> None:
    """Refuse a number of new tokens that cannot be (`RequestError`)."""
    if not 1 <= count <= TEXT_TOKENS:
        raise RequestError(
            f"max_new_tokens is {count}",
            f"1 to {TEXT_TOKENS}, all that a prompt has room for",
            f"Use {ENHANCED_TOKENS}.",
        )
