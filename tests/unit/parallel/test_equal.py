"""Several ranks give what one process gives: every exchange, size and arrangement, float32, gloo."""
from __future__ import annotations

import pytest
import torch

from tests.support.ranks import run_ranks

ROUNDING = 3e-6  # of the largest value


def compare(name, want, got):
    for index, (one, other) in enumerate(zip(want, got, strict=True)):
        for stream, a, b in zip(("video", "audio"), one, other, strict=True):
            if b is None:  # a stream that the pass does not read
                assert index == 2 and stream == "video" or a is None
                continue
            error = (a - b).abs().max() / a.abs().max()
            assert torch.isfinite(b).all() and error < ROUNDING, f"{name}, pass {index}, {stream}: {error:.1e}"


def test_eight_ranks(tmp_path):
    results = run_ranks("tests.unit.parallel.programs:eight", 8, tmp_path)
    assert len(results[0]) == 4 and any(name.startswith("ranks 0-3: passes 1, 3") for name in results[0])
    for found in results:
        for name, (want, got) in found.items():
            compare(name, want, got)


def test_an_interrupt_while_a_pass_is_handed_over(tmp_path):
    """It ends both ranks, none of which waits for the other, and the next forward gets no state of the one before."""
    results = run_ranks("tests.unit.parallel.programs:interrupted", 2, tmp_path)
    for one, other in zip(*results, strict=True):
        for last, came, want, got in (one, other):
            assert came == (last < 4000), last
            compare(f"after {last}", want, got)


def test_a_rank_without_room_is_an_error_of_all(tiny_overlay, tmp_path):
    results = run_ranks("tests.unit.parallel.programs:one_rank_too_small", 2, tmp_path, str(tiny_overlay.path))
    for raised, got, want in results:
        assert raised is not None and raised == results[0][0] and "GB" in raised
        assert (got - want).abs().max() < 2e-5 * want.abs().max(), "and the next run is right"


def test_blocks_that_fit_nowhere_are_held_in_turn(tiny_overlay, tmp_path):
    results = run_ranks("tests.unit.parallel.programs:sharded", 4, tmp_path, str(tiny_overlay.path))
    for want, got, facts in results:
        for run in got:
            for one, other in zip(want[0], run, strict=True):
                assert (one - other).abs().max() < 2e-5 * one.abs().max()
        assert facts["streamed"] == 4 and facts["reads"] == facts["loads"] == 1, "each read its own block, once"
        assert facts["held"] and facts["bytes"] < facts["whole"]
    assert any("4 of 4 blocks are held by 4 devices in turn" in line for line in results[0][2]["said"])


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_give_what_one_process_gives(size, tmp_path):
    """Three ranks do not divide the four heads: keys and values go round."""
    results = run_ranks("tests.unit.parallel.programs:everything", size, tmp_path)
    assert len(results) == size
    for found in results:
        for name, (want, got) in found.items():
            compare(name, want, got)
            if size == 2 and name.startswith(("handed over", "passes")):  # nothing is cut: the very bytes
                assert all(b is None or torch.equal(a, b) for one, two in zip(want, got, strict=True)
                           for a, b in zip(one, two, strict=True)), name
    assert size == 3 or any(name.startswith("handed over") for name in results[0])
    for name in results[0]:
        for other in results[1:]:
            for one, two in zip(results[0][name][1], other[name][1], strict=True):
                assert all(a is b is None or torch.equal(a, b) for a, b in zip(one, two, strict=True)), name
