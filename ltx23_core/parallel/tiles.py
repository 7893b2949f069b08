"""Tiles of a video decoded by all ranks; one blends them, in the official order, so that the sums are the same."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor, nn

from ..config import VIDEO_SCALE
from ..decode.tiles import Tiling, plan_axes, tiled_decode
from ..models.video_vae.decoder import COLOURS
from .world import World

BLENDS = 0  # the rank that gets all tiles
BLENDING = 0.03  # of a tile's decoding: what putting it into the frames takes


def tile_shapes(latent_shape: Sequence[int], tiling: Tiling | None) -> list[tuple[slice, slice, slice]]:
    """Where the tiles of a latent (B, C, F', H', W') are, in the order in which `tiled_decode` takes them."""
    frames, height, width = plan_axes(latent_shape, tiling or Tiling())
    found = []
    for spans in product(frames.latent, height.latent, width.latent):
        found.append(tuple(slice(span.start, span.end) for span in spans))
    return found


def owners(tiles: Sequence[tuple[slice, slice, slice]], ranks: int) -> list[int]:
    """Which rank decodes each tile: in their order, whoever has least to do; one has the blending, too."""
    volumes = []
    for tile in tiles:
        frames, height, width = (span.stop - span.start for span in tile)
        volumes.append(frames * height * width)
    load = [0.0] * ranks
    load[BLENDS] = BLENDING * sum(volumes)
    found = []
    for volume in volumes:
        rank = min(range(ranks), key=load.__getitem__)
        load[rank] += volume
        found.append(rank)
    return found


def shared_decode(world: World, decoder: nn.Module, latent: Tensor, tiling: Tiling | None,
                  check: Callable[[], None] | None = None) -> Iterator[Tensor]:
    """`decode.tiles.tiled_decode` by all ranks, called by each with the same latent.

    Yields:
        On the rank that blends, the chunks of `tiled_decode`, bit for bit; on the others nothing.
    """
    tiles = tile_shapes(latent.shape, tiling)
    share = owners(tiles, world.size)
    if world.rank == BLENDS:
        yield from tiled_decode(_Fetching(world, decoder, share), latent, tiling, check)
        return
    sent: list[Callable[[], None]] = []
    for tile, owner in zip(tiles, share, strict=True):
        if check is not None:
            check()  # for each tile on every rank: an interrupt stops all before the same one
        if owner != world.rank:
            continue
        made = decoder(latent[(slice(None), slice(None), *tile)]).contiguous()
        if sent:
            sent.pop()()  # one tile waits at a time
        sent.append(world.send(made, BLENDS))
    for wait in sent:
        wait()


class _Fetching:
    """The decoder of the rank that blends: its own tiles are decoded, the others' come from them."""

    def __init__(self, world: World, decoder: nn.Module, share: Sequence[int]) -> None:
        self._world, self._decoder = world, decoder
        self._share = iter(share)

    def __call__(self, latent: Tensor) -> Tensor:
        owner = next(self._share)
        if owner == self._world.rank:
            return self._decoder(latent)
        batch, _, frames, height, width = latent.shape
        scale = VIDEO_SCALE
        shape = (batch, COLOURS, 1 + scale[0] * (frames - 1), scale[1] * height, scale[2] * width)
        return self._world.receive(torch.empty(shape, dtype=latent.dtype, device=latent.device), owner)
