"""One idea a line: folded lines in the rooms that have been unfolded, counted as `tools/density.py` counts them."""
from __future__ import annotations

import pytest

from tools.density import LIMITS, UNFOLDED, Count, count_of, room_counts


@pytest.mark.parametrize("room", UNFOLDED)
def test_an_unfolded_room_stays_so(room: str) -> None:
    count = room_counts()[room]
    assert count.code > 50
    assert count.rates() <= LIMITS, f"{room}: {count}"


def test_what_is_counted() -> None:
    text = '"""Doc."""\n\nx = 1 if y else 2  # one\n# comment\nz = [a for a in b]\n' + "w = " + "1 + " * 40 + "1\n"
    assert count_of(text) == Count(code=3, conditionals=1, comprehensions=1, long=1)


def test_the_whole_is_told() -> None:
    """Per 1,000 code lines; the goal for the whole is that of the rooms."""
    total = sum(room_counts().values(), Count())
    print(f"the whole: {total.rates()} (conditionals, comprehensions, lines over 110) per 1,000 of {total.code} lines")
    assert total.code > 10_000
