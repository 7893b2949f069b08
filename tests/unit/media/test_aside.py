"""Making and using side by side: in order, at the same time, and every way in which one of the two can fail."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, current_thread
from threading import enumerate as threads

import pytest

from ltx23_core.media.aside import made_ahead, use_aside


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    assert not [thread for thread in threads() if thread.name == "ltx23-aside"]


def test_in_order_and_elsewhere():
    seen = []
    use_aside(iter(range(7)), lambda thing, unwanted: seen.append((thing, current_thread().name, unwanted())))
    assert seen == [(number, "ltx23-aside", False) for number in range(7)]


def test_the_next_is_made_while_one_is_used():
    second = Event()

    def things():
        yield 1
        second.set()
        yield 2

    use_aside(things(), lambda thing, unwanted: second.wait(20) or pytest.fail("the second was not made meanwhile"))


def test_at_most_three_exist():
    used, most = [], []

    def things():
        for number in range(9):
            most.append(number - len(used))
            yield number

    def use(thing, unwanted):
        Event().wait(0.02)
        used.append(thing)

    use_aside(things(), use)
    assert max(most) <= 3 and len(used) == 9


def test_what_using_raises_ends_the_making():
    made = []

    def things():
        for number in range(1000):
            made.append(number)
            yield number

    def use(thing, unwanted):
        if thing == 2:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        use_aside(things(), use)
    assert len(made) < 10


def test_an_interrupt_of_the_making_stops_the_using():
    used, begun = [], Event()

    def things():
        yield "long"
        begun.wait(20)
        raise KeyboardInterrupt

    def use(thing, unwanted):
        begun.set()
        while not unwanted():
            used.append(1)

    with pytest.raises(KeyboardInterrupt):
        use_aside(things(), use)


def test_what_is_made_ahead_comes_in_order_and_not_without_bound():
    begun, used = [], []

    def make(number):
        begun.append(number)
        assert number <= len(used) + 3
        Event().wait(0.01 * (number % 3))
        return -number

    with ThreadPoolExecutor(4) as others:
        for made in made_ahead(others, make, range(20), 3):
            used.append(made)
    assert used == [-number for number in range(20)] and sorted(begun) == list(range(20))


def test_things_are_made_at_the_same_time():
    both = Barrier(2)
    with ThreadPoolExecutor(2) as others:
        assert list(made_ahead(others, lambda _: both.wait(20), range(2), 1)) in ([0, 1], [1, 0])


def test_what_making_ahead_raises_comes_in_its_place():
    def make(number):
        return 6 // (3 - number)

    with ThreadPoolExecutor(2) as others:
        found = made_ahead(others, make, range(9), 4)
        assert [next(found) for _ in range(3)] == [2, 3, 6]
        with pytest.raises(ZeroDivisionError):
            next(found)
