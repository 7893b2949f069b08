"""LoRAs on a GPU with 22B weights: what a switch and a step cost, fused and at run time, and how far they differ.

    python -m bench generate_weights --monolith FILE --gemma DIR --lora LORA
    python -m bench lora --checkpoint FILE --lora LORA [--steps 4]

The prompt is random numbers, so no text encoder is needed. A switch is what the first step after it takes longer.
"""
from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from ltx23_core import Lora, Pipeline, materialize
from ltx23_core.plan.latents import PromptContext, PromptPair

from .one_stage import relative

VIEWS = (("base", None), ("fused 1.0", ("fused", 1.0)), ("fused 0.5", ("fused", 0.5)), ("base again", None),
         ("runtime 1.0", ("runtime", 1.0)), ("runtime 0.5", ("runtime", 0.5)), ("base at the end", None))


def prompt(pipe: Pipeline) -> PromptPair:
    """Random contexts of the true shapes, (1, 1024, width)."""
    generator, config = torch.Generator().manual_seed(1), pipe.transformer_config
    contexts = [PromptContext(*(torch.randn(1, 1024, stream.width, generator=generator).to(pipe.dtype)
                                for stream in (config.video, config.audio))) for _ in range(2)]
    return PromptPair(*contexts, "", "")


def run(args: argparse.Namespace) -> dict[str, object]:
    """All measurements."""
    overlay = materialize(args.checkpoint, variant="dev", output=args.manifest)
    pipe = Pipeline(overlay, device=args.device, dtype="bf16")
    component, pair = pipe.component("transformer"), prompt(pipe)
    size = {"width": args.width, "height": args.height, "frames": args.frames, "recipe": "one_stage"}
    rows, latents, cuda = [], {}, pipe.residency.device.type == "cuda"

    def sampled(view: Pipeline, steps: int) -> tuple[float, torch.Tensor]:
        start = time.perf_counter()
        video = view.sample(pair, steps=steps, **size).video  # on the CPU: waits for the device
        return time.perf_counter() - start, video

    for name, lora in VIEWS:
        view = pipe.with_loras([Lora(args.lora, lora[1], mode=lora[0])] if lora else [])
        before = component.bytes_read
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        first, _ = sampled(view, 1)
        warm, _ = sampled(view, 1)
        seconds, latents[name] = sampled(view, args.steps)
        rows.append({"view": name, "switch_s": round(first - warm, 3), "read_gb": round(
            (component.bytes_read - before) / 1e9, 2), "step_s": round((seconds - warm) / (args.steps - 1), 4),
            "weights_gb": round(component.loaded_bytes / 1e9, 2),
            "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if cuda else None})
        print(rows[-1], flush=True)
    assert component.loads == 1
    assert all(torch.equal(latents["base"], latents[name]) for name in ("base again", "base at the end"))
    against = {strength: relative(latents[f"runtime {strength}"], latents[f"fused {strength}"])
               for strength in ("1.0", "0.5")}
    return {"gpu": torch.cuda.get_device_name() if cuda else None, "size": size, "rows": rows,
            "runtime_against_fused": against, "fused_against_base": relative(latents["fused 1.0"], latents["base"])}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--lora", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, default=Path(tempfile.gettempdir()) / "bench-lora.ltx23.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--frames", type=int, default=121)
    parser.add_argument("--steps", type=int, default=4)
    print(json.dumps(run(parser.parse_args()), indent=1))


if __name__ == "__main__":
    main()
