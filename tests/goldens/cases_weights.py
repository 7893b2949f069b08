"""Golden cases of reading weights: every tensor of the checkpoint, and LoRA fusion."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import nn

from ltx23_core.lora.plan import LoraUse, lora_pairs
from ltx23_core.models.registry import build
from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.overlay.lora.dialects import LoraFile, read_lora
from ltx23_core.overlay.names.architecture import expected_tensors
from ltx23_core.runtime.load import load_module
from ltx23_core.weights.reader import read_tensors

from .cases_transformer import forward, plain_pass
from .harness import CHECKPOINT, Case, case, companion, module, overlay


@case("state_digest")
def state_digest(run: Case) -> None:
    sums = {name: tensor.double().sum() for name, tensor in read_tensors(read_header(CHECKPOINT).tensors, "cpu", None)}
    run.check("sums", torch.stack([sums[name] for name in sorted(sums)]))
    assert len(sums) == run.settings.keys


def _fused(uses: Sequence[LoraUse]) -> dict[str, nn.Module]:
    """The transformer in both forms. The official one fuses the stored bfloat16 weights, then upcasts the result;
    float32 tables stay as they are."""
    entry, models = overlay().require("transformer"), {}
    for form, dtype in (("float32", torch.float32), ("official_bf16", torch.bfloat16)):
        models[form] = build("transformer", entry.config)
        load_module(models[form], entry.tensors, "cpu", dtype, loras=uses)
    changed = {name for use in uses for name in use.updates}
    exact, rounded = (model.state_dict() for model in models.values())
    models["official_bf16"].load_state_dict({name: rounded[name].float() if name in changed else value
                                             for name, value in exact.items()}, assign=True)
    return models


@case("lora_fuse")
def lora_fuse(run: Case) -> None:
    pairs = lora_pairs(overlay().require("distilled_lora").tensors)
    assert len(pairs) == run.settings.num_changed_weights
    models = _fused([LoraUse(pairs, run.settings.strength)])
    for form, model in models.items():
        state = model.state_dict()
        for name in run.entry["outputs"]:
            if name.startswith(form + "."):
                run.check(name, state[name.removeprefix(form + ".")])
        [(video, audio)] = forward(model, run.inputs, [plain_pass(run.inputs)])
        run.check(f"dit_{form}.video", video)
        run.check(f"dit_{form}.audio", audio)


@case("lora_edge")
def lora_edge(run: Case) -> None:
    """The official reading of LoRA files (`official=True`): odd keys, alpha and connectors change nothing."""
    base = forward(module("transformer"), run.inputs, [plain_pass(run.inputs)])[0]
    for kind, value in zip(("video", "audio"), base, strict=True):
        run.check(f"without.{kind}", value)
    with TemporaryDirectory() as folder:
        for name, parts in run.settings.combinations.items():
            uses = [LoraUse(_official(run, part["lora"], Path(folder)).updates["transformer"], part["strength"])
                    for part in parts]
            changed = {parameter for use in uses if use.strength for parameter in use.updates}
            want = run.settings.changed_weights[name]
            assert want == len(changed) if isinstance(want, int) else set(want) == changed, name
            for form, model in _fused(uses).items():
                state = model.state_dict()
                for output in run.entry["outputs"]:
                    start, _, parameter = output.partition(f"{form}.")
                    if start == name + "." and parameter in state:
                        run.check(output, state[parameter])
                [(video, audio)] = forward(model, run.inputs, [plain_pass(run.inputs)])
                run.check(f"{name}.{form}.video", video)
                run.check(f"{name}.{form}.audio", audio)
            model = build("transformer", overlay().require("transformer").config)
            load_module(model, overlay().require("transformer").tensors, "cpu", torch.float32,
                        loras=[replace(use, runtime=True) for use in uses])
            [(video, audio)] = forward(model, run.inputs, [plain_pass(run.inputs)])  # beside the weights: the same
            run.check(f"{name}.float32.video", video)
            run.check(f"{name}.float32.audio", audio)


def _official(run: Case, name: str, folder: Path) -> LoraFile:
    """One of the case's LoRAs as a file, or the data set's distilled LoRA, read as the official code does."""
    path, prefix = folder / f"{name}.safetensors", f"in.lora_{name}."
    if not any(key.startswith(prefix) for key in run.tensors):
        path = companion(f"{name}-lora")
    elif not path.exists():
        save_file({key.removeprefix(prefix): value for key, value in run.tensors.items() if key.startswith(prefix)},
                  path)
    expected = {part: expected_tensors(part, overlay().require(part).config) for part in ("transformer", "connectors")}
    return read_lora(path, expected, official=True)
