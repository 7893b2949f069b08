"""Quantising while a bf16 file is read: seconds, bytes, errors of each form, and that a saved file is the same.

    python -m bench quantise --folder /dev/shm/w [--checkpoint FILE] [--sizes a] [--run preview] [--save Q4_K]

Without a checkpoint one of random weights in the true 22B layout is written first (46 GB). Errors are relative L2 of
the picture's stream against the bf16 model: one forward, and the latents at the end of a guided run.
"""
from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bench.generate_weights import Layout, manifest_22b, write
from bench.lora import prompt
from bench.measure import relative, seconds, table
from bench.models import SIZES, TEXT, Work
from ltx23_core import Overlay, Pipeline, export, materialize
from ltx23_core.overlay.weight_dtype import AS_STORED, WEIGHT_DTYPES
from ltx23_core.runtime.component import Component

GB = 1e9
# Most bytes of the 22B transformer on the device (issue 9, point 1).
LIMITS = {"fp8_e4m3fn": 19.5, "fp8_scaled": 19.5, "int8": 19.5, "Q8_0": 20.5, "Q4_K": 11.0}
HEAD = ("weight_dtype", "load s", "GB/s of the file", "x of as stored", "device GB", "at most", "forward s",
        "error, forward", "error, run")


def waited(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the device waited for."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def load_seconds(component: Component, device: torch.device) -> float:
    """Of the best of two warm loads; the first one registers the pages."""
    taken = []
    for _ in range(3):
        component.release()
        taken.append(waited(lambda: component.load(device), device))
    return min(taken[1:])


def layout_of(layers: int) -> tuple[Layout, dict[str, str]]:
    """The official layout; of fewer blocks, and without what takes the prompt, where that is asked for."""
    tensors, metadata = manifest_22b()
    if not layers:
        return tensors, metadata
    kept = {}
    for name, spec in tensors.items():
        block = name.partition("transformer_blocks.")[2].partition(".")[0]
        if "connector" not in name and "text_embedding" not in name and int(block or 0) < layers:
            kept[name] = spec
    config = json.loads(metadata["config"])
    config["transformer"]["num_layers"] = layers
    return kept, metadata | {"config": json.dumps(config)}


class Errors:
    """Results of the bf16 model, and how far others are from them."""

    def __init__(self, steps: int, run: str) -> None:
        self.steps, self.size, self.want = steps, run, {}

    def sampled(self, pipe: Pipeline) -> Tensor:
        """Latents at the end of a guided run."""
        width, height, frames = SIZES[self.size]
        made = pipe.sample(prompt(pipe), width=width, height=height, frames=frames, steps=self.steps,
                           recipe="one_stage")
        return made.video.float().cpu()

    def of(self, what: str, got: Tensor) -> float:
        """Relative L2; the first one of a kind is the truth."""
        return relative(got, self.want.setdefault(what, got))


def measured(args: argparse.Namespace, overlay: Overlay, form: str, errors: Errors, first: list[float]) -> list[object]:
    """One row of the table."""
    pipe = Pipeline(overlay, device=args.device, dtype="bf16", weight_dtype=form)
    component, device = pipe.component("transformer"), pipe.residency.device
    loading, read = load_seconds(component, device), component.bytes_read / 3
    first.append(loading)
    size = component.size_bytes / GB
    work = Work.make(args.size, pipe.transformer_config, device, pipe.dtype, args.text)
    with torch.no_grad():
        call = work.ours(component.module)
        error = errors.of("forward", call()[0][0].float().cpu())
        taken = seconds(call, args.repeats)
    row = [form, loading, read / GB / loading, loading / first[0], size, LIMITS.get(form, "-"), taken, error,
           errors.of("run", errors.sampled(pipe))]
    component.release(pages=True)
    assert args.checkpoint or args.layers or form == AS_STORED or size <= LIMITS[form], row
    return row


def saved(args: argparse.Namespace, overlay: Overlay, form: str) -> str:
    """Write a file, load it, and compare with what quantising on load makes."""
    folder = args.folder / f"export-{form}"
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    report = export(overlay, "transformer", folder, weight_dtype=form, device=args.device, verify=False)
    writing = time.perf_counter() - start
    again = materialize(overlay.sources[0].path, components=[report.files[0].path], variant="dev",
                        output=args.folder / f"{form}.json")
    made, read = (Pipeline(each, device=args.device, dtype="bf16", weight_dtype=dtype)
                  for each, dtype in ((overlay, form), (again, AS_STORED)))
    device = made.residency.device
    loading = load_seconds(read.component("transformer"), device)
    made.component("transformer").load(device)
    want, got = (each.component("transformer").module.state_dict() for each in (made, read))
    same = want.keys() == got.keys() and all(
        torch.equal(got[name].reshape(-1).view(torch.uint8), part.reshape(-1).view(torch.uint8))
        for name, part in want.items())
    del want, got
    for pipe in (made, read):
        pipe.component("transformer").release(pages=True)
    shutil.rmtree(folder)
    size = report.bytes / GB
    return (f"saved {form}: {size:.2f} GB in {writing:.1f} s ({size / writing:.2f} GB/s); loads in {loading:.2f} s; "
            f"{'bits equal' if same else 'BITS DIFFER'}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, help="a bf16 monolith; its limits are not asserted")
    parser.add_argument("--layers", type=int, default=0, help="blocks of the random checkpoint, where not all 48")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--forms", default=",".join(WEIGHT_DTYPES[1:]))
    parser.add_argument("--size", default="a", choices=SIZES, help="of the forward")
    parser.add_argument("--run", default="preview", choices=SIZES, help="size of the whole run")
    parser.add_argument("--steps", type=int, default=8, help="of the whole run")
    parser.add_argument("--text", type=int, default=TEXT, help="tokens of the forward's prompt")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", default="fp8_e4m3fn,Q4_K", help="forms that are also written and compared")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.checkpoint
    if path is None:
        torch.manual_seed(0)
        path = args.folder / "ltx-2.3-22b-dev.safetensors"
        start = time.perf_counter()
        size = write(path, *layout_of(args.layers), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        print(f"# wrote {size / GB:.1f} GB in {time.perf_counter() - start:.0f} s", flush=True)
    overlay = materialize(path, variant="dev", output=args.folder / "bf16.json")
    if torch.cuda.is_available():
        print(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    errors, rows, first = Errors(args.steps, args.run), [], []
    for form in (AS_STORED, *filter(None, args.forms.split(","))):
        rows.append(measured(args, overlay, form, errors, first))
        print(f"# {rows[-1]}", flush=True)
    lines = []
    for form in filter(None, args.save.split(",")):
        lines.append(saved(args, overlay, form))
        print(f"# {lines[-1]}", flush=True)
    print(table(HEAD, rows), *lines, sep="\n")


if __name__ == "__main__":
    main()
