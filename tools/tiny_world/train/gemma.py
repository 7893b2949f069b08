"""Train the tiny Gemma as a language model of the world's captions and of plain English; minutes on a CPU.

Its hidden states are what the text projection and the connectors are then trained on; it stays as it is.
"""
from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from tools.tiny_world.train.common import Run, generator_of, write_tensors
from tools.tiny_world.train.configs import GEMMA_TEXT, GEMMA_WIDTH
from tools.tiny_world.train.library import TEXT_TOKENS, Tokenizer, build, normalize_and_concat, restore_buffers
from tools.tiny_world.train.optimiser import Optimiser
from tools.tiny_world.train.tokenizer import CAPTIONS, TOKENIZER, captions, english, make_tokenizer

LEARNING_RATE, LONGEST, ENGLISH_SHARE = 3e-3, 48, 0.2
PREFIX = "language_model.model."
_TEMPLATE = Path(__file__).parents[3] / "tests" / "goldens" / "tiny" / "gemma" / "model.safetensors"
_PROJECTOR = "multi_modal_projector.mm_input_projection_weight"


def fresh(device: torch.device, seed: int = 3) -> nn.Module:
    """The language model with random weights."""
    module = build("text_encoder", {"model_type": "gemma3", "text_config": GEMMA_TEXT})
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(p.shape, generator=generator) / p.shape[-1] ** 0.5 if p.ndim > 1
               else torch.zeros(p.shape) for name, p in module.named_parameters()}  # Gemma's norms scale by 1 + weight
    return _filled(module, weights, device)


def _filled(module: nn.Module, weights: dict[str, Tensor], device: torch.device) -> nn.Module:
    module.load_state_dict(weights, strict=False, assign=True)
    module.to(device).float()
    restore_buffers(module, device)
    return module


def load(folder: Path, device: torch.device) -> nn.Module:
    """The trained language model from a training folder, float32 copies of bfloat16 weights as the export has them."""
    module = build("text_encoder", {"model_type": "gemma3", "text_config": GEMMA_TEXT})
    weights = {name.removeprefix("gemma."): value.bfloat16().float()
               for name, value in load_file(folder / "gemma.safetensors").items()}
    return _filled(module, weights, device).requires_grad_(False)


def padded(rows: Sequence[Sequence[int]], length: int) -> tuple[Tensor, Tensor]:
    """Ids (B, length), cut or padded on the right, and their mask."""
    ids, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.long)
    for row, tokens in enumerate(rows):
        kept = list(tokens)[:length]
        ids[row, :len(kept)], mask[row, :len(kept)] = torch.tensor(kept), 1
    return ids, mask


@torch.no_grad()
def features(gemma: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Normalised hidden states of all layers, (B, T, width * (layers + 1)), 0 where there is no token.

    Tokens are padded on the right here and on the left officially; attention is causal and positions are relative,
    so tokens get the same states.
    """
    positions = torch.arange(ids.shape[1], device=ids.device)[None].expand_as(ids) + TEXT_TOKENS - ids.shape[1]
    states = gemma(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False,
                   output_hidden_states=True, return_dict=True).hidden_states
    return normalize_and_concat(states) * mask[..., None]


def _loss(gemma: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy of every next token; the embedding is also the output layer, as in Gemma."""
    states = gemma(input_ids=ids, attention_mask=mask, use_cache=False, return_dict=True).last_hidden_state
    logits = states[:, :-1] @ gemma.embed_tokens.weight.T
    return F.cross_entropy(logits[mask[:, 1:] != 0], ids[:, 1:][mask[:, 1:] != 0])


def train(folder: Path, minutes: float, device: torch.device, dtype: torch.dtype, batch: int = 48, seed: int = 3,
          steps: int | None = None) -> None:
    """Make the tokenizer where there is none, train, and write the Gemma folder. Always float32."""
    if not (TOKENIZER / "tokenizer.json").is_file():
        make_tokenizer(TOKENIZER)
    tokenizer = Tokenizer(TOKENIZER)
    texts = [tokenizer.encode(text) for text in captions(seed, CAPTIONS // 2)]
    lines = [tokenizer.encode(text) for text in english()]
    longest = max(len(tokens) for tokens in texts)
    print(f"gemma: captions have up to {longest} tokens", flush=True)
    gemma = fresh(device, seed).train().requires_grad_(True)
    run = Run(folder, "gemma", minutes, steps)
    optimiser = Optimiser({"gemma": gemma}, LEARNING_RATE, torch.float32)
    run.resume(optimiser)
    while True:
        rng = generator_of(seed, optimiser.steps)
        chosen = [lines[rng.integers(len(lines))] if rng.random() < ENGLISH_SHARE else texts[rng.integers(len(texts))]
                  for _ in range(batch)]
        ids, mask = (part.to(device) for part in padded(chosen, LONGEST))
        loss = _loss(gemma, ids, mask)
        loss.backward()
        optimiser.step(run.done)
        if not run.after(optimiser, {"loss": loss}):
            break


def write_folder(folder: Path, target: Path) -> None:
    """Write a Gemma folder: its small files, and model.safetensors in bfloat16.

    Gemma 3 has a vision tower, which LTX-2.3 uses only to enhance a prompt to a picture; ours is the random one of the
    golden model, so that the folder has every tensor of a real one.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in TOKENIZER.iterdir():
        if path.suffix != ".safetensors" and not (target / path.name).exists():
            shutil.copy(path, target)
    tensors = {PREFIX + name.removeprefix("gemma."): value.bfloat16()
               for name, value in load_file(folder / "gemma.safetensors").items()}
    vision = {name: value for name, value in load_file(_TEMPLATE).items() if not name.startswith("language_model.")}
    old = vision[_PROJECTOR]
    generator = torch.Generator().manual_seed(0)
    vision[_PROJECTOR] = (torch.randn(old.shape[0], GEMMA_WIDTH, generator=generator) / old.shape[0] ** 0.5).bfloat16()
    write_tensors({**tensors, **vision}, target / "model.safetensors", {"format": "pt"})
