"""Does it fit, and how: by bytes alone."""
from __future__ import annotations

import pytest

from ltx23_core.errors import OutOfMemoryError, RequestError
from ltx23_core.memory.memory_plan import Stage, plan_line, resident, run_line
from ltx23_core.memory.room import (
    Memory,
    Need,
    first_fitting,
    fitting,
    freeing,
    place,
    streamed_blocks,
    streaming_order,
)

GB = 10**9
BIG = Need("transformer", 38 * GB, (GB * 3 // 4,) * 48, GB * 3 // 4)  # 2 GB outside its blocks
SMALL = Need("connectors", 4 * GB)


@pytest.mark.parametrize("blocks", [1, 2, 4, 7, 48, 60])
def test_any_share_of_blocks_lies_about_evenly_apart(blocks: int) -> None:
    order = streaming_order(blocks)
    assert sorted(order) == list(range(blocks))
    for count in range(1, blocks + 1):
        chosen = sorted(streamed_blocks(blocks, count))
        assert streamed_blocks(blocks, count - 1) < set(chosen), "one more moves one block only"
        gaps = [b - a for a, b in zip(chosen, [*chosen[1:], chosen[0] + blocks], strict=True)]
        assert max(gaps) <= 3 * blocks / count + 1


@pytest.mark.parametrize(("capacity", "streamed"), [(40, 0), (38, 0), (37.9, 3), (20, 26), (6, 45), (3.5, 48)])
def test_as_many_blocks_stay_as_fit(capacity: float, streamed: int) -> None:
    [placed] = place([BIG], capacity * GB)
    assert placed.streamed == streamed and placed.peak <= capacity * GB
    if streamed > 3:
        assert placed.weights + BIG.blocks[0] > capacity * GB, "one more would not fit"


def test_activations_and_others_come_first() -> None:
    alone, = place([BIG], 20 * GB)
    beside = place([BIG, SMALL], 20 * GB, 3 * GB)
    assert beside[1].streamed == 0 and beside[0].streamed > alone.streamed
    assert sum(placed.peak for placed in beside) + 3 * GB <= 20 * GB


@pytest.mark.parametrize(("needs", "capacity", "memory", "words"), [
    ([BIG], 3.4, "auto", "smaller size"), ([SMALL], 3.9, "auto", "smaller size"), ([BIG, SMALL], 7.4, "auto", "7.5 GB"),
    ([BIG], 37, "resident", "auto or stream"), ([BIG], 40, 3.0, "the budget allows")])
def test_what_does_not_fit_is_refused_with_numbers(needs: list[Need], capacity: float, memory: object,
                                                   words: str) -> None:
    with pytest.raises(OutOfMemoryError, match=words):
        place(needs, capacity * GB, 0, Memory.parse(memory))


def test_wishes() -> None:
    assert place([BIG], 40 * GB, memory=Memory.parse("stream"))[0].streamed == 48
    assert place([SMALL], 40 * GB, memory=Memory.parse("stream"))[0].streamed == 0
    assert place([BIG], 40 * GB, memory=Memory.parse("12"))[0] == place([BIG], 12 * GB)[0]
    assert place([BIG], 8 * GB, memory=Memory.parse(12))[0] == place([BIG], 8 * GB)[0]


@pytest.mark.parametrize("value", ["", "much", 0, -1, "nan", "inf", None, [12]])
def test_other_wishes_are_refused(value: object) -> None:
    with pytest.raises(RequestError, match="budget in GB"):
        Memory.parse(value)


def test_a_little_more_room_moves_nothing() -> None:
    now = place([BIG], 20 * GB)[0]
    assert fitting(BIG, 21 * GB, now=now.streamed) == now
    assert fitting(BIG, 19 * GB, now=now.streamed).streamed > now.streamed
    assert fitting(BIG, 30 * GB, now=now.streamed).streamed < now.streamed - 2


@pytest.mark.parametrize("now", [0, 10, 40])
def test_giving_back(now: int) -> None:
    placed = freeing(BIG, now, 3 * GB)
    before = 38 * GB if not now else 38 * GB - now * BIG.blocks[0] + 2 * BIG.slot
    assert placed.streamed > now and 3 * GB <= before - placed.weights < 4 * GB
    assert freeing(BIG, now, 37 * GB) is None and freeing(SMALL, 0, 1) is None


def test_the_line() -> None:
    needs = [BIG, SMALL]
    assert plan_line(needs, place(needs, 12 * GB, GB), 12 * GB, GB) == (
        "12.0 GB free: transformer streamed 44 of 48 blocks, connectors resident; peak 11.5 GB")
    assert plan_line([SMALL], place([SMALL], float("inf")), float("inf"), 0) == (
        "memory managed by the system: connectors resident; peak 4.0 GB")


STAGES = [
    Stage((Need("text_encoder", 24 * GB, blocks=(GB // 2,) * 48, slot=GB // 2),), (GB // 2,)),
    Stage((BIG,), (GB,)),
    Stage((Need("video_decoder", 800_000_000),), (5 * GB, 3 * GB), ("decode 32 frames at a time", "decode in 9 tiles")),
]


def test_the_line_of_a_run() -> None:
    line = run_line(STAGES, 12 * GB, Memory())
    assert line == ("12.0 GB free: text encoder streamed 27 of 48 blocks, transformer streamed 38 of 48 blocks, "
                    "decode 32 frames at a time; peak 12.0 GB")
    assert "decode in 9 tiles" in run_line(STAGES, 5 * GB, Memory())
    assert run_line(STAGES[:2], 80 * GB, Memory()) == "80.0 GB free: everything resident; peak 39.0 GB"
    assert run_line(STAGES[1:], 30 * GB, Memory("auto", 12 * GB)).startswith("11.8 GB free: transformer streamed 39")


def test_the_line_of_a_run_says_what_will_be_refused() -> None:
    line = run_line(STAGES, 3 * GB, Memory())
    assert "video_decoder with 3.0 GB of activations need 3.8 GB, 3.0 GB are free" in line


@pytest.mark.parametrize(("ram", "said"), [(64, ""), (16, " from the disk (28.5 GB, 16.0 GB of RAM free)"), (None, "")])
def test_short_ram_is_said(ram: int | None, said: str) -> None:
    bytes_of_ram = None if ram is None else ram * GB
    placed = place([BIG], 12 * GB, GB)
    assert f"streamed 38 of 48 blocks{said};" in plan_line([BIG], placed, 12 * GB, GB, ram=bytes_of_ram)


def test_ways_are_tried_in_order() -> None:
    assert first_fitting([SMALL], 10 * GB, [6 * GB, 5 * GB, GB]) == 1
    assert first_fitting([SMALL], 10 * GB, [7 * GB, 6 * GB]) == 1, "the last one, which is then refused in words"
    assert first_fitting([SMALL], float("inf"), [10**18, 1]) == 0
    assert first_fitting([SMALL], 50 * GB, [7 * GB, 5 * GB], Memory("auto", 10 * GB)) == 1


def test_how_many_blocks_stay() -> None:
    assert resident(STAGES, 80 * GB, Memory()) == (48, 48)
    kept, blocks = resident(STAGES, 12 * GB, Memory())
    assert f"transformer streamed {blocks - kept} of {blocks} blocks" in run_line(STAGES, 12 * GB, Memory())
    assert resident(STAGES, 1 * GB, Memory()) is None
