"""Prompts -> contexts, and prompts -> fuller prompts: what a pipeline does with its text encoder."""
from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .config import TEXT_TOKENS, ConnectorConfig, TextProjectionConfig
from .memory.estimates import generation_bytes
from .memory.memory_plan import Stage
from .memory.text import connector_bytes, gemma_bytes, projection_bytes
from .plan.latents import PromptContext
from .shared import TEXT, Shared

log = logging.getLogger("ltx23")


@torch.no_grad()
def encode(shared: Shared, use: Callable[..., list[nn.Module]], texts: Sequence[str]) -> list[PromptContext]:
    """Gemma for all texts first, then the projection, then the connectors: each is on the device once.

    In between all rests in RAM: hidden states of 1024 tokens are 385 MB in bfloat16, until their features are made.

    Args:
        shared: of the pipeline.
        use: brings components to the device, with the LoRAs of a view.
        texts: as a user wrote them.
    """
    from .models.text.gemma import hidden_states
    from .prompt.encode import contexts, features
    from .prompt.tokenizer import Tokenizer
    from .prompt.tokenizer_files import tokenizer_folder
    check = shared.residency.check
    shared.overlay.require("text_encoder")
    tokenizer = Tokenizer(tokenizer_folder(shared.overlay))
    ids = list(map(tokenizer.encode, texts))
    need = text_bytes(shared, max(map(len, ids)))
    [gemma] = use("text_encoder", activation_bytes=need["text_encoder"])
    states, seen, made = [], [], []
    with shared.residency.counting(len(ids) * len(gemma.layers)):
        for tokens in ids:
            states.append(_in_ram(hidden_states(gemma, tokens, check)))
    states.reverse()  # so that the first one can be taken away
    [projection] = use("text_projection", activation_bytes=need["text_projection"])
    while states:
        seen.append(tuple(map(Tensor.cpu, features(projection, states.pop()))))
    [connectors] = use("connectors", activation_bytes=need["connectors"])
    for pair in seen:
        made.append(PromptContext(*map(Tensor.cpu, contexts(connectors, *pair, check))))
    return made


def _in_ram(states: Sequence[Tensor]) -> Sequence[Tensor]:
    """The states of a prompt on the CPU, those of a device in one piece of RAM (L, 1, n, width).

    A piece of that size goes back to the system as soon as nobody needs it; 49 of 8 MB stay with the process: 0.77 GB
    after two prompts of 1024 tokens (measured, glibc 2.36).
    """
    first = states[0]
    if first.device.type == "cpu":
        return states
    whole = torch.empty((len(states), *first.shape), dtype=first.dtype)
    for place, state in zip(whole, states, strict=True):
        place.copy_(state)
    return whole


def text_bytes(shared: Shared, tokens: int = TEXT_TOKENS) -> dict[str, int]:
    """Activations beside each component that a prompt of so many tokens goes through."""
    require, size = shared.overlay.require, shared.dtype.itemsize
    both = require("connectors").config
    widest = ConnectorConfig.from_dict(both, audio=False).width  # the video's is the wider one
    return {
        "text_encoder": gemma_bytes(require("text_encoder").config, tokens, size),
        "text_projection": projection_bytes(TextProjectionConfig(**require("text_projection").config), tokens, size),
        "connectors": connector_bytes(widest, size),
    }


def stages(shared: Shared) -> list[Stage]:
    """What the longest prompt has on the device, for the line about a whole run; nothing where a part is missing."""
    if set(TEXT).difference(shared.overlay.components):
        return []
    found = []
    for name, size in text_bytes(shared).items():
        found.append(shared.stage(name, activations=(size,)))
    return found


@torch.no_grad()
def enhance(shared: Shared, prompt: str, image: Tensor | None, *, seed: int, instructions: str | None,
            max_new_tokens: int, on_token: Callable[[], None] | None) -> str:
    """See `Pipeline.enhance`."""
    from .prompt.enhance import answer, ask, check_new_tokens
    from .prompt.tokenizer import Tokenizer
    from .prompt.tokenizer_files import tokenizer_folder
    check_new_tokens(max_new_tokens)
    config = shared.overlay.require("text_encoder").config
    components = [shared.component("text_encoder")]
    if image is not None:
        components.append(shared.component("text_encoder_vision"))
    tokenizer = Tokenizer(tokenizer_folder(shared.overlay))
    question = ask(tokenizer, config, prompt, image, instructions)
    need = generation_bytes(config, len(question.ids), max_new_tokens, shared.dtype.itemsize, image is not None)
    shared.residency.use(*components, activation_bytes=need)
    modules = [component.module for component in components]
    text = answer(
        modules[0],
        modules[1] if image is not None else None,
        tokenizer,
        question,
        seed=seed,
        max_new_tokens=max_new_tokens,
        check=shared.residency.check,
        on_token=on_token,
    )
    if not text:
        log.warning("The text encoder wrote nothing that can be used; the prompt stays as it is.")
    return text or prompt
