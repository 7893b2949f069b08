"""Golden cases: text."""
from __future__ import annotations

import torch

from ltx23_core.models.text.gemma import hidden_states
from ltx23_core.prompt.encode import contexts, features
from ltx23_core.prompt.tokenizer import Tokenizer

from .harness import GEMMA, Case, case, module


@case("connectors")
def connectors(run: Case) -> None:
    mask = run.inputs["mask"]
    projection, both = module("text_projection"), module("connectors")
    assert both.video_embeddings_connector.learnable_registers.shape[0] == run.settings.registers
    video, audio = projection(run.inputs["hidden_states"], mask)
    run.check("video_features", video)
    run.check("audio_features", audio)
    video, audio = both(video, audio, mask, length=mask.shape[1])
    run.check("video_embeddings", video)
    run.check("audio_embeddings", audio)
    # The library has no such mask: every position holds a token or a register (checked by the embeddings above).
    run.check("embeddings_mask", torch.ones(video.shape[:2], dtype=torch.int64))


@case("text_encode")
def text_encode(run: Case) -> None:
    tokenizer = Tokenizer(GEMMA)
    for index, prompt in enumerate(run.settings.prompts):
        ids, padded = tokenizer.encode(prompt), run.inputs[f"{index}.input_ids"]
        assert len(padded) == run.settings.max_length and run.settings.padding_side == "left"
        assert padded.tolist() == [padded[0].item()] * (len(padded) - len(ids)) + ids, "other token ids"
        run.check(f"{index}.num_tokens", torch.tensor([len(ids)]))
        states = hidden_states(module("text_encoder"), ids)
        run.check(f"{index}.hidden_states", torch.cat(states))
        video, audio = contexts(module("connectors"), *features(module("text_projection"), states))
        for name, context in (("video", video[0]), ("audio", audio[0])):
            assert len(context) == run.settings.max_length
            run.check(f"{index}.{name}_embeddings_head", context[:len(ids) + 24])
            run.check(f"{index}.{name}_embeddings_strided", context[len(ids) + 24::16])
