"""Which device and which dtypes to run in."""
from __future__ import annotations

import torch

from ..errors import RequestError

DTYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}


def choose_device(name: str = "auto") -> torch.device:
    """"auto": cuda, else mps, else cpu; or any name that torch knows and has.

    Raises:
        RequestError: torch cannot use the device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"device is {name!r} ({reason})", "auto, cpu, cuda, cuda:N or mps, if this computer has it",
                           "Choose auto.") from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """"auto": bfloat16 as in the official pipelines; float32 on the CPU, where bfloat16 is slow. Or bf16, fp32.

    float16 is not offered: activations of this model leave its range.
    """
    if name == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16
    if name not in DTYPES:
        raise RequestError(f"precision is {name!r}", f"auto, {' or '.join(DTYPES)}", "Choose auto.")
    return DTYPES[name]
