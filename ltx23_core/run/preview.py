"""Previews: a linear map from latent to RGB, fitted once per VAE against its own decoder and kept."""
from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..atomic import sweep, write_whole
from ..config import VIDEO_SCALE
from ..ops.record import pinned

log = logging.getLogger("ltx23")

PROBES, PROBE_CELLS = 96, 5
_FORMAT = "ltx23-preview/1"


class LatentToRGB:
    """rgb = latent · matrix + bias for each latent cell.

    Args:
        matrix: float32 (C, 3).
        bias: float32 (3,).
    """

    def __init__(self, matrix: Tensor, bias: Tensor) -> None:
        self.matrix, self.bias = matrix, bias

    def __call__(self, latent: Tensor) -> Tensor:
        """(B, C, F', H', W') -> uint8 (F', H', W', 3) of the first sample, on the latent's device."""
        cells = latent[0].float().permute(1, 2, 3, 0)
        rgb = cells @ self.matrix.to(cells.device, non_blocking=True) + self.bias.to(cells.device, non_blocking=True)
        return (rgb.clamp(0, 1) * 255).round().to(torch.uint8)

    @classmethod
    @torch.no_grad()
    def fit(cls, decoder: Callable[[Tensor], Tensor], channels: int, device: torch.device,
            dtype: torch.dtype) -> LatentToRGB:
        """Least squares between probe latents and the decoder's mean colour of each cell.

        Probes are one latent frame each: one colour, a slow change over it and a little noise, about unit size.
        Cells at the border see the decoder's padding and are left out: 864 equations for C + 1 unknowns.
        """
        generator = torch.Generator().manual_seed(0)
        shape = (PROBES, channels, PROBE_CELLS, PROBE_CELLS)
        coarse = torch.randn(PROBES, channels, 2, 2, generator=generator)
        probes = torch.nn.functional.interpolate(coarse, shape[2:], mode="bilinear", align_corners=True)
        flat = torch.randn(PROBES, channels, 1, 1, generator=generator)
        probes = flat + 0.5 * probes + 0.1 * torch.randn(shape, generator=generator)
        colours = []
        for probe in probes:  # one by one: a batch would need a large clip's memory
            pixels = decoder(probe[None, :, None].to(device, dtype))[0, :, 0].float().clamp(-1, 1)
            cells = torch.nn.functional.avg_pool2d(pixels[None], VIDEO_SCALE[1:])[0, :, 1:-1, 1:-1]
            colours.append(((cells + 1) / 2).permute(1, 2, 0).reshape(-1, 3).cpu())
        latents = probes[:, :, 1:-1, 1:-1].permute(0, 2, 3, 1).reshape(-1, channels).double()
        design = torch.cat((latents, torch.ones(len(latents), 1, dtype=torch.float64)), dim=1)
        # A little ridge keeps the fit stable where channels outnumber what the probes show.
        gram = design.T @ design + 1e-3 * torch.eye(channels + 1, dtype=torch.float64)
        solution = torch.linalg.solve(gram, design.T @ torch.cat(colours).double()).float()
        return cls(solution[:-1], solution[-1])

    def save(self, path: Path, decoder: str) -> None:
        """Keep the map beside the overlay; a folder that cannot be written only costs the next fit."""
        content = {"format": _FORMAT, "decoder": decoder, "matrix": self.matrix.tolist(), "bias": self.bias.tolist()}
        for pattern in (f".{path.name}.*.tmp", f"{path.name}*.tmp"):  # of now, and of earlier versions
            sweep(path.parent, pattern)
        try:
            write_whole(path, json.dumps(content))
        except OSError as error:
            log.info("The preview map is not kept: %s", error)

    @classmethod
    def load(cls, path: Path, decoder: str) -> LatentToRGB | None:
        """The map kept for this decoder, or None."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != _FORMAT or content["decoder"] != decoder:
                return None
            matrix, bias = torch.tensor(content["matrix"]), torch.tensor(content["bias"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(matrix, bias) if matrix.ndim == 2 and matrix.shape[1:] == bias.shape == (3,) else None


class PreviewQueue:
    """Brings previews to the CPU without waiting for the device: a picture is handed out once its copy is done."""

    def __init__(self, to_rgb: LatentToRGB) -> None:
        self._to_rgb = to_rgb
        self._pending: list[tuple[Tensor, torch.cuda.Event | None]] = []

    def put(self, latent: Tensor) -> None:
        """Start the preview of an x0 prediction (B, C, F', H', W')."""
        picture = self._to_rgb(latent)
        if picture.device.type != "cuda":
            self._pending.append((picture.cpu(), None))
            return
        host = pinned(picture.shape, picture.dtype)
        host.copy_(picture, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending.append((host, event))

    def take(self) -> Tensor | None:
        """The newest finished picture, uint8 (F', H', W', 3) on the CPU, or None."""
        ready = None
        while self._pending and (self._pending[0][1] is None or self._pending[0][1].query()):
            ready = self._pending.pop(0)[0]
        return ready
