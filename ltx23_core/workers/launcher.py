"""Whether this process is one of several that a launcher such as ``torchrun`` started, from the environment alone."""
from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import RequestError


@dataclass(frozen=True)
class Launched:
    """One process of several.

    Attributes:
        rank, size: of all.
        local: number on this computer, which is the number of its device.
    """

    rank: int
    size: int
    local: int


def launched() -> Launched | None:
    """What the launcher says; None: this process was started alone.

    Raises:
        RequestError: it says what cannot be.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    try:
        rank, size, local = (int(os.environ[name]) for name in names)
    except (KeyError, ValueError) as error:
        raise RequestError("the launcher gave no usable RANK, WORLD_SIZE and LOCAL_RANK", "those of torchrun",
                           "Start it with torchrun --nproc-per-node N -m ltx23_core generate ...") from error
    if size < 2:
        return None
    return Launched(rank, size, local)


def speaks() -> bool:
    """Whether this process is to print: the only one, or the first."""
    return os.environ.get("TORCHELASTIC_RUN_ID") is None or os.environ.get("RANK", "0") == "0"
