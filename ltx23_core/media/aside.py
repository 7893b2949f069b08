"""Two who work at the same time: one makes things, the other uses each in a thread of its own."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from queue import Queue
from threading import Event, Thread
from typing import TypeVar

Thing = TypeVar("Thing")


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
