"""The pipeline that ``devices`` means: one device, workers on several, ranks of a launcher, or a Ray cluster."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import RequestError
from ..overlay import Overlay
from ..parallel.team import Team
from ..parallel.world import World
from ..pipeline import Pipeline
from ..runtime.device import choose_device
from .launcher import Launched, launched
from .pipeline import WorkersPipeline, device_names

RAY = "ray://"


def open_pipeline(overlay: Overlay | str | Path, devices: str = "1", single: type[Pipeline] = Pipeline,
                  **options: Any) -> Pipeline:  # noqa: ANN401
    """A pipeline on one device or several; see `WorkersPipeline` for ``devices`` and `Pipeline` for the rest.

    ``single`` is what one device gets: a host has its own, which answers its questions.

    Raises:
        RequestError: devices that are not there, or that do not go together with a launcher.
    """
    rank = launched()
    if rank is not None:
        _without_workers(options)
        if devices.strip() not in ("1", "auto"):
            raise RequestError(f"devices is {devices} in a process of torchrun", "1: the launcher decides",
                               "Leave --devices out.")
        return _of_launcher(overlay, rank, options)
    if devices.strip().lower().startswith(RAY):
        from .ray import RayPipeline
        return RayPipeline(overlay, devices=devices, **options)
    if devices.strip() == "1" or _is_this_one(_names(devices, options), options):
        _without_workers(options)
        return single(overlay, **options)
    return WorkersPipeline(overlay, devices=devices, **options)


def _without_workers(options: dict[str, Any]) -> None:
    """Drop what only workers need."""
    for name in ("make_room", "tell", "count"):
        options.pop(name, None)


def _is_this_one(names: tuple[str, ...], options: dict[str, Any]) -> bool:
    """Whether the device that this process computes on anyway is meant, and no other."""
    own = _own_device(options)
    return len(names) == 1 and torch.device(names[0]) in (own, torch.device(own.type, own.index or 0))


def _own_device(options: dict[str, Any]) -> torch.device:
    residency = options.get("residency")
    if residency is not None:
        return residency.device
    return choose_device(options.get("device", "auto"))


def _names(devices: str, options: dict[str, Any]) -> tuple[str, ...]:
    return device_names(devices, _own_device(options))


def _of_launcher(overlay: Overlay | str | Path, rank: Launched, options: dict[str, Any]) -> Pipeline:
    """One rank's pipeline: all of them call the same methods in the same order."""
    device = torch.device("cpu")
    if options.pop("device", "auto") != "cpu" and torch.cuda.is_available():
        device = torch.device("cuda", rank.local)
    world = World.join(rank.rank, rank.size, device)
    return Pipeline(overlay, device=device, team=Team(world), **options)
