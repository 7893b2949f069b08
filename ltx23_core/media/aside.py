"""Who work at the same time: one makes things, another uses each; or some make them ahead of the one who uses them."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from queue import Queue
from threading import Event, Thread
from typing import TypeVar

Thing = TypeVar("Thing")
Made = TypeVar("Made")


def made_ahead(others: Executor, make: Callable[[Thing], Made], things: Iterable[Thing], count: int) -> Iterator[Made]:
    """What is made of each thing, in order, while others make it of up to ``count`` of the next ones.

    Raises:
        what making raises, in its place.
    """
    waiting: deque[Future[Made]] = deque()
    for thing in things:
        waiting.append(others.submit(make, thing))
        if len(waiting) > count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def use_aside(things: Iterable[Thing], use: Callable[[Thing, Callable[[], bool]], None]) -> None:
    """Use each thing, in order, while the next one is being made; at most three exist at a time.

    Args:
        things: made in the calling thread.
        use: called in the other thread with a thing, and with what tells whether the rest is not wanted any more.

    Raises:
        what making or using raises; nothing runs any more then.
    """
    waiting: Queue[Thing | None] = Queue(maxsize=1)
    stop, failed = Event(), []

    def work() -> None:
        while (thing := waiting.get()) is not None:
            if stop.is_set():
                continue  # whoever puts must not wait for ever
            try:
                use(thing, stop.is_set)
            except BaseException as error:  # raised again by the one who waits
                failed.append(error)
                stop.set()

    thread = Thread(target=work, name="ltx23-aside", daemon=True)
    thread.start()
    try:
        for thing in things:
            waiting.put(thing)
            del thing
            if stop.is_set():
                break
    except BaseException:
        stop.set()
        raise
    finally:
        waiting.put(None)
        thread.join()
    if failed:
        raise failed[0]
