"""Enhance Prompt's writing alone: tokens a second of Gemma 3 12B with random weights, beside what the weights allow.

    python -m bench generate [--tokens 96] [--prompt 700] [--layers 48] [--profile] [--tiny]

Random weights are made on the device. The floor reads every weight once a token at the rate of a copy in this run.
"""
from __future__ import annotations

import argparse
import time

import torch
from torch import nn

from ltx23_core.models.registry import build
from ltx23_core.prompt.generate import Sampling, generate

from .generate_weights import GEMMA_12B, random_tensor
from .measure import profiled, seconds, table

TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 512}


def random_gemma(layers: int, tiny: bool, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Gemma 3 with random weights where it runs."""
    text = GEMMA_12B["text_config"] | {"num_hidden_layers": layers} | (TINY if tiny else {})
    gemma = build("text_encoder", GEMMA_12B | {"text_config": text})
    for name, value in gemma.state_dict().items():
        path, _, last = name.rpartition(".")
        tensor = random_tensor("language_model." + name, tuple(value.shape), dtype, device)
        setattr(gemma.get_submodule(path), last, nn.Parameter(tensor, requires_grad=False))
    return gemma


@torch.no_grad()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=96, help="to write")
    parser.add_argument("--prompt", type=int, default=700, help="tokens of the question")
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--profile", action="store_true", help="kernels of 32 tokens by class, the question included")
    parser.add_argument("--tiny", action="store_true", help="small widths: a smoke run")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    gemma = random_gemma(args.layers, args.tiny, device, dtype)
    size = sum(value.numel() * value.element_size() for value in gemma.parameters())
    probe = torch.empty(1 << 28 if device.type == "cuda" else 1 << 20, dtype=torch.uint8, device=device)
    rate = 2 * probe.numel() / seconds(lambda: probe.clone(), repeats=7)
    ids = torch.randint(1, gemma.config.vocab_size, (args.prompt,)).tolist()
    rows = []
    for run in ("first", "second"):  # a run's first token comes after the whole question
        stamps: list[float] = []
        sampling = Sampling(stop=(-1,), seed=1, max_new_tokens=args.tokens, temperature=0.7)
        begin = time.perf_counter()
        made = generate(gemma, ids, sampling, on_token=lambda s=stamps: s.append(time.perf_counter()))
        if device.type == "cuda":
            torch.cuda.synchronize()
        total = time.perf_counter() - begin
        steps = sorted(b - a for a, b in zip(stamps, stamps[1:], strict=False))
        rows.append([run, len(made), total, 1e3 * steps[len(steps) // 2], 1e3 * steps[-1], len(steps) / sum(steps),
                     rate / size])
    print(table(("run", "tokens", "seconds", "ms a token, median", "slowest", "tokens/s", "floor, tokens/s"), rows))
    if args.profile and device.type == "cuda":
        few = Sampling(stop=(-1,), seed=1, max_new_tokens=32, temperature=0.7)
        classes, longest = profiled(lambda: generate(gemma, ids, few))
        print(f"# kernels: {classes}")
        for name, ms, launches in longest:
            print(f"# {ms:.2f} ms, {launches} of {name}")


if __name__ == "__main__":
    main()
