"""Prompts -> contexts, and prompts -> fuller prompts: what a pipeline does with its text encoder."""
from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .memory.estimates import generation_bytes
from .plan.latents import PromptContext
from .shared import Shared

log = logging.getLogger("ltx23")

TEXT_BYTES = 1 << 29  # beside the weights, for a prompt of 1024 tokens


@torch.no_grad()
def encode(shared: Shared, use: Callable[..., list[nn.Module]], texts: Sequence[str]) -> list[PromptContext]:
    """Gemma for all texts first, then projection and connectors: each half is on the device once.

    Args:
        shared: of the pipeline.
        use: brings components to the device, with the LoRAs of a view.
        texts: as a user wrote them.
    """
    from .models.text.gemma import hidden_states
    from .prompt.encode import contexts
    from .prompt.tokenizer import Tokenizer
    from .prompt.tokenizer_files import tokenizer_folder
    check = shared.residency.check
    shared.overlay.require("text_encoder")
    tokenizer = Tokenizer(tokenizer_folder(shared.overlay))
    ids = list(map(tokenizer.encode, texts))
    [gemma] = use("text_encoder", activation_bytes=TEXT_BYTES)
    states = [hidden_states(gemma, tokens, check) for tokens in ids]
    projection, connectors = use("text_projection", "connectors", activation_bytes=TEXT_BYTES)
    made = []
    for state in states:
        video, audio = contexts(projection, connectors, state, check)
        made.append(PromptContext(video.cpu(), audio.cpu()))
    return made


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
