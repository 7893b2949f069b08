"""Golden cases of reading weights: every tensor of the checkpoint, and LoRA fusion."""
from __future__ import annotations

import torch

from ltx23_core.models.registry import build
from ltx23_core.overlay.header import read_header
from ltx23_core.weights import LoraUse, load_module, lora_pairs, read_tensors

from .cases_transformer import forward, plain_pass
from .harness import CHECKPOINT, Case, case, overlay


@case("state_digest")
def state_digest(run: Case) -> None:
    sums = {name: tensor.double().sum() for name, tensor in read_tensors(read_header(CHECKPOINT).tensors, "cpu", None)}
    run.check("sums", torch.stack([sums[name] for name in sorted(sums)]))
    assert len(sums) == run.settings.keys


@case("lora_fuse")
def lora_fuse(run: Case) -> None:
    entry = overlay().require("transformer")
    pairs = lora_pairs(overlay().require("distilled_lora").tensors)
    assert len(pairs) == run.settings.num_changed_weights
    use = LoraUse(pairs, run.settings.strength)
    models = {}
    for form, dtype in (("float32", torch.float32), ("official_bf16", torch.bfloat16)):
        models[form] = build("transformer", entry.config)
        load_module(models[form], entry.tensors, "cpu", dtype, loras=[use])
    # The official form fuses the stored bfloat16 weights, then upcasts; float32 tables stay as they are.
    exact, rounded = (models[form].state_dict() for form in models)
    models["official_bf16"].load_state_dict({name: rounded[name].float() if name in pairs else value
                                             for name, value in exact.items()}, assign=True)
    for form, model in models.items():
        state = model.state_dict()
        for name in run.entry["outputs"]:
            if name.startswith(form + "."):
                run.check(name, state[name.removeprefix(form + ".")])
        [(video, audio)] = forward(model, run.inputs, [plain_pass(run.inputs)])
        run.check(f"dit_{form}.video", video)
        run.check(f"dit_{form}.audio", audio)
