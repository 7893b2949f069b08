"""Masks laid over pictures of other proportions, soft masks in few levels, references' masks as factors."""
from __future__ import annotations

import pytest
import torch

from ltx23_core.conditioning.mask import latent_mask, visible
from ltx23_core.conditioning.reference import mask_weights
from ltx23_core.geometry import VideoGrid
from ltx23_core.models.transformer.masked import attend_rows
from ltx23_core.ops.attention import attention, mask_bias
from ltx23_core.sampling.seen import ALL, Seen
from ltx23_core.sampling.state import MASK_LEVELS, StreamState

GRID = VideoGrid(2, 2, 3)  # 64 x 96 pixels


@pytest.mark.parametrize("mask_size", [(64, 96), (8, 8), (300, 20), (1, 1), (7, 500)])
def test_a_mask_is_stretched_over_the_picture(mask_size: tuple[int, int]) -> None:
    """The left half of a mask is the left half of the clip, whatever the mask's proportions."""
    rows, columns = mask_size
    mask = torch.zeros(1, rows, columns)
    mask[..., :max(1, columns // 2)] = 1
    seen = visible(mask, 64, 96, (64, 96))
    share = float((seen.mean() * seen.shape[2]) / seen.shape[2])
    assert share == pytest.approx(max(1, columns // 2) / columns, abs=0.02)
    cells = latent_mask(mask, range(9), GRID, (64, 96)).view(2, 2, 3)
    assert cells[..., 0].eq(1).all() and (columns == 1 or cells[..., 2].eq(0).all())


def test_what_is_cropped_of_the_picture_is_cropped_of_the_mask() -> None:
    """A square picture loses its top and bottom sixth in 64 x 96, and so does a tall mask over it."""
    mask = torch.zeros(1, 600, 10)
    mask[:, :95] = 1  # the part that is cropped
    assert latent_mask(mask, range(9), GRID, (512, 512)).eq(0).all()
    mask[:, 100:110] = 1  # the first rows that are seen
    assert latent_mask(mask, range(9), GRID, (512, 512)).view(2, 2, 3)[:, 0].eq(1).all()
    weights = mask_weights(mask, tuple(range(9)), (2, 2, 3), (64, 96), (512, 512)).view(2, 2, 3)
    assert weights[:, 0].gt(0).all() and weights[:, 1].eq(0).all(), "a reference's mask lies the same way"


@pytest.mark.parametrize("size", [(64, 96), (128, 192), (32, 48)])
def test_equal_proportions_are_untouched(size: tuple[int, int]) -> None:
    mask = torch.rand(1, *size)
    assert torch.equal(visible(mask, 64, 96, (640, 960)), visible(mask, 64, 96))


def state(values: torch.Tensor) -> StreamState:
    tokens = torch.zeros(1, len(values), 2)
    return StreamState(tokens, tokens, values.view(1, -1, 1), torch.zeros(1, 1, len(values), 2))


def test_soft_masks_have_sixteen_levels_at_most() -> None:
    soft = torch.linspace(0, 1, 1000)
    few = state(soft).with_few_levels()
    assert len(few.mask.unique()) == MASK_LEVELS == 16
    assert (few.mask[0, :, 0] - soft).abs().max() <= 1 / 30 + 1e-6
    assert few.mask[0, 0] == 0 and few.mask[0, -1] == 1, "held stays held, new stays new"


def test_few_values_stay_as_they_are() -> None:
    hard = state(torch.tensor([0.0, 0.3, 1.0, 0.123456]))
    assert hard.with_few_levels() is hard


def reference_matrix(groups: list[int], weights: list[float]) -> torch.Tensor:
    """The rule of `Seen`, pair by pair."""
    made = torch.zeros(len(groups), len(groups))
    for i, a in enumerate(groups):
        for j, b in enumerate(groups):
            pair = {a, b}
            if a == b or ALL in pair or pair == {0, 1}:
                made[i, j] = 1
            elif 0 in pair:
                made[i, j] = weights[i] if a > 1 else weights[j]
    return made


def test_factors_stand_for_the_matrix() -> None:
    seen = Seen.of_clip(6, 4, torch.device("cpu"))
    seen = seen.with_reference(torch.tensor([0.25, 0.5])).with_others(1).with_reference(torch.tensor([0.75]))
    want = reference_matrix(seen.groups.tolist(), seen.weights.tolist())
    assert torch.equal(seen.dense()[0], want) and seen.shape == (1, 10, 10)
    index = torch.tensor([1, 3, 5, 7, 9])
    assert torch.equal(seen.take(index).dense()[0], want[index][:, index]), "a window's matrix is a part of the whole's"
    assert torch.equal(seen.dense(torch.bfloat16)[0], want.to(torch.bfloat16))


def test_factors_take_eight_bytes_a_token() -> None:
    seen = Seen.of_clip(100_000, 60_000, torch.device("cpu")).with_reference(torch.rand(20_000))
    assert sum(part.numel() * part.element_size() for part in (seen.groups, seen.weights)) == 8 * 120_000
    assert seen.shape == (1, 120_000, 120_000), "58 GB as a matrix in float32"


CHAINS = {
    "one": lambda seen: seen.with_reference(torch.rand(300)),
    "hidden": lambda seen: seen.with_reference(torch.zeros(200)),
    "two and a keyframe":
        lambda seen: seen.with_reference(torch.rand(100)).with_others(20).with_reference(torch.rand(30)),
    "behind": lambda seen: seen.with_reference(torch.full((100,), 0.5)).with_others(30),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_attention_over_factors_is_that_over_the_matrix(chain: str) -> None:
    """More queries than are taken at once, and a last piece that is shorter."""
    seen = CHAINS[chain](Seen.of_clip(1100, 1080, torch.device("cpu")))
    count = seen.shape[1]
    query, key, value = torch.randn(3, 2, 4, count, 16, generator=torch.Generator().manual_seed(1))
    want = attention(query, key, value, mask_bias(seen.dense(), torch.float32)[:, None])
    rows = seen.rows(torch.float32)
    assert [part.start for part in rows[1:]] == [part.end for part in rows[:-1]] and rows[-1].end == count
    assert torch.allclose(attend_rows(attention, query, key, value, rows), want, atol=1e-6)
    assert sum(part.bias.numel() for part in rows if part.bias is not None) <= len(rows) * count, "factors, no matrix"
