"""The peer: diffusers' transformer over the same file, blocks offloaded one by one, with a stream and pinned memory."""
from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from bench.generate_weights import PREFIX
from bench.models import Work, config_22b, diffusers_peer
from ltx23_core.config import TransformerConfig

from .rows import Rows, ram_gb, timed

CPU = torch.device("cpu")
ALL, BLOCKS = 48, "transformer_blocks."
BUS = 53e9  # bytes a second: what is outside the blocks comes in once a call


class _Stored:
    """Weights as a model holds them, mapped from a file."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = state

    def state_dict(self) -> Mapping[str, Tensor]:
        """As of `nn.Module`."""
        return self._state


def stored(path: Path, layers: int) -> dict[str, Tensor]:
    """The transformer's tensors of the first blocks, mapped, under the module's names; all in bfloat16."""
    found = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():
            if not name.startswith(PREFIX) or "_connector." in name:
                continue
            short = name.removeprefix(PREFIX)
            if not short.startswith(BLOCKS) or int(short.split(".")[1]) < layers:
                found[short] = file.get_tensor(name).to(torch.bfloat16)  # one dtype, as diffusers loads it
    return found


def run(rows: Rows, path: Path, sizes: Mapping[str, str], repeats: int = 2, layers: int = ALL) -> None:
    """One row a size and number of passes, and ours within 8 GB beside it.

    Args:
        rows: with ours of the same run.
        path: of the bf16 transformer.
        sizes: name of ours -> name in `bench.models.SIZES`.
        repeats: timed calls.
        layers: how many of its 48 blocks; with fewer, figures for all are computed: each takes what the others take.
    """
    start = time.perf_counter()
    config = config_22b() | {"num_layers": layers}
    state = stored(path, layers)
    outside = sum(tensor.nbytes for name, tensor in state.items() if not name.startswith(BLOCKS)) / BUS
    peer = diffusers_peer(_Stored(state), config, compiled=False)
    peer.enable_group_offload(onload_device=rows.device, offload_device=CPU, offload_type="block_level",
                              num_blocks_per_group=1, use_stream=True)
    peer.set_attention_backend("_native_cudnn")  # its fastest
    del state
    rows.say("peer", "diffusers group offload, block level, stream, pinned",
             f"prepared in {time.perf_counter() - start:.1f} s", f"RAM {ram_gb()[0] - rows.before:+.2f} GB")
    for size, name in sizes.items():
        work = Work.make(name, TransformerConfig.from_dict(config), rows.device, torch.bfloat16)
        for guided, passes in ((False, 1), (True, 4)):
            call = work.diffusers(peer, guided)
            with torch.no_grad():
                if not guided:  # four passes are four of these calls
                    call()
                torch.cuda.reset_peak_memory_stats()
                seconds, _ = timed(call, repeats)
            seconds = seconds * ALL / layers - (ALL / layers - 1) * outside * (4 if guided else 1)
            peak = torch.cuda.max_memory_allocated() / 1e9
            beside = []
            for (weights, whose, count, budget), ours in rows.within.items():
                if (weights, whose, count) == ("bf16", size, passes) and budget is not None and budget <= 8:
                    beside.append(f"ours within {budget:g} GB x{seconds / ours:.2f}")
            computed = "" if layers == ALL else f"computed from {layers} of {ALL} blocks"
            rows.say("peer", size, f"{passes} passes", f"{seconds:.3f} s", computed, f"peak {peak:.2f} GB", *beside)
