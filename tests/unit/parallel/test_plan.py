"""Who does what, and what it takes: operations of the specification's table, shared prefixes, balanced groups."""
from __future__ import annotations

import pytest
import torch

from bench.models import config_22b
from ltx23_core.config import TransformerConfig
from ltx23_core.geometry import audio_latent_length, video_grid
from ltx23_core.models.transformer.inputs import Pass, Perturbation
from ltx23_core.parallel.assign import Arranger, compositions, partitions
from ltx23_core.parallel.cost import Forward, branches_by_block, forward_work, works_by_block
from tests.unit.parallel.programs import H100

CONFIG = TransformerConfig.from_dict(config_22b())
V, A, NV, NA = (torch.empty(1, 1, 1) for _ in range(4))
STG = frozenset((28,))
COND, UNCOND = Pass(V, A), Pass(NV, NA)
PERTURBED, APART = Pass(V, A, Perturbation(STG, STG)), Pass(V, A, Perturbation(cross=True))
ALL = [COND, UNCOND, PERTURBED, APART]


def tokens(width, height, frames=121):
    return video_grid(width, height, frames).tokens, audio_latent_length(frames, 24.0)


def tera(passes, size, ranks=1):
    video, audio = tokens(*size)
    work = forward_work(Forward(CONFIG, video, audio, 1024, ranks), passes)
    return (work.product + work.attention) / 1e12


# spec/08 §4: a forward, the pass whose streams are apart, four passes one by one, and with the shared prefix.
@pytest.mark.parametrize(("size", "one", "apart"), [((768, 512), 198.7, 178.1), ((1280, 704), 536.6, 489.6),
                                                     ((1920, 1088), 1713.6, 1605.0), ((640, 352), 108.7, 96.8)])
def test_operations_are_those_of_the_specification(size, one, apart):
    assert tera([COND], size) == pytest.approx(one, rel=0.005)
    assert tera([APART], size) == pytest.approx(apart, rel=0.005)
    alone = sum(tera([given], size) for given in ALL)
    shared = tera(ALL, size)
    assert shared < 0.87 * alone, "the perturbed pass costs 20 of 48 blocks"
    assert tera([COND, PERTURBED], size) == pytest.approx(one * (1 + 20 / 48), rel=0.02)
    assert tera([UNCOND, PERTURBED], size) > 1.9 * one, "nothing to share but the first self attention"


def test_ranks_divide_what_is_divided():
    size = (1280, 704)
    assert tera([COND], size) / 4 < tera([COND], size, 4) < 1.05 * tera([COND], size) / 4


def test_branches_are_counted_as_the_model_checks():
    counts = branches_by_block(ALL, 48)
    assert counts[:28] == [3] * 28 and counts[28:] == [4] * 20


def arranged(ranks, size=(1280, 704), passes=ALL, **options):
    return Arranger(CONFIG, ranks, H100, **options)(passes, tokens(*size), 1024)


def finished(found, ranks, layers=48):
    """When each rank is done, by the estimates of its parts; every block of every pass is computed, once, in order."""
    done, at = dict.fromkeys(range(4), 0), [0.0] * ranks
    for phase in found.phases:
        busy = [rank for part in phase for rank in part.ranks]
        assert len(busy) == len(set(busy))
        start = list(at)
        for part in phase:
            first, last = part.blocks or (0, layers)
            for number in part.passes:
                assert done[number] == first
                done[number] = last
            begin = max(start[rank] for rank in (*part.ranks, *part.given_by))
            for rank in part.ranks:
                at[rank] = begin + part.seconds
    assert set(done.values()) == {layers}
    return at


@pytest.mark.parametrize("size", [(640, 352), (1280, 704), (1920, 1088)])
@pytest.mark.parametrize("ranks", [2, 3, 4, 8, 16])
def test_every_pass_and_rank_once_and_nobody_waits_long(ranks, size):
    found = arranged(ranks, size)
    at = finished(found, ranks)
    assert max(at) <= found.seconds < 1.1 * max(at), str(found)
    assert min(at) > 0.93 * max(at) or ranks == 3 or size == (640, 352), str(found)
    assert found.alone / found.seconds > 0.65 * ranks or size == (640, 352), str(found)
    assert f"{found.seconds:.3f} s a forward" in str(found)


def test_a_pass_is_handed_over_where_whole_ones_do_not_come_out_even():
    """22B's four passes: 159 blocks of 48 are shared out as 80 and 79, and nothing is exchanged but one state."""
    found = arranged(2)
    assert found.alone / found.seconds > 1.95
    assert arranged(2, handing=False).seconds > 1.07 * found.seconds
    given = next(part for part in found.parts if part.given_by)
    assert given.ranks == (1,) and given.given_by == (0,) and f"blocks {given.blocks[0] + 1}-48" in str(found)
    assert arranged(8).seconds < arranged(8, handing=False).seconds
    for passes in ([COND], [COND, PERTURBED]):
        finished_one = arranged(2, passes=passes)
        assert finished_one.seconds <= arranged(2, passes=passes, handing=False).seconds


def test_blocks_add_up_to_the_forward():
    forward = Forward(CONFIG, *tokens(768, 512), 1024, 2)
    parts = works_by_block(forward, ALL)
    assert len(parts) == 48 and sum(part.product for part in parts) == pytest.approx(forward_work(forward, ALL).product)
    assert parts[0].attention < parts[1].attention < parts[28].attention, "what is shared in the first, forks in 28"


def test_passes_alone_keep_what_shares_a_prefix_together():
    found = arranged(2, share=False, phases=1)
    together = next(part for part in found.parts if 2 in part.passes)
    assert 0 in together.passes, "the perturbed pass goes where its prefix is"
    assert found.alone / found.seconds == pytest.approx(3.33 / 1.92, rel=0.03)
    assert len(arranged(4, share=False).parts) <= 4


@pytest.mark.parametrize("size", [(1280, 704), (1920, 1088)])
def test_what_is_even_stays_whole_and_the_rest_is_cut(size):
    """On two ranks: a rank for each of two passes, which costs no exchange, then the other two together."""
    found, tokens_alone = arranged(2, size, handing=False), arranged(2, size, groups=1, phases=1)
    assert [len(phase) for phase in sorted(found.phases, key=len)] == [1, 2]
    together = next(phase[0] for phase in found.phases if len(phase) == 1)
    assert set(together.passes) == {0, 2}, "the perturbed pass and its prefix"
    assert found.seconds < 0.99 * tokens_alone.seconds


def test_few_tokens_are_not_cut_where_waiting_would_cost_more():
    small = video_grid(128, 128, 9).tokens, audio_latent_length(9, 24.0)
    found = Arranger(CONFIG, 8, H100)(ALL, small, 1024)
    assert found.seconds <= min(found.alone, arranged(8).seconds)


def test_the_same_kind_of_passes_is_decided_once():
    arranger = Arranger(CONFIG, 4, H100)
    again = [Pass(torch.empty(1, 1, 1), A), UNCOND, PERTURBED, APART]
    assert arranger(ALL, (100, 10), 32) is arranger(list(ALL), (100, 10), 32)
    assert arranger(again, (100, 10), 32) is not arranger(ALL, (100, 10), 32), "another prompt shares less"


def test_ways_to_share_out():
    assert len(list(partitions(4, 4))) == 15 and len(list(partitions(4, 2))) == 8
    assert list(compositions(4, 2)) == [(1, 3), (2, 2), (3, 1)]
    assert sum(1 for _ in compositions(8, 4)) == 35
