"""Kills writers of a manifest again and again: `python -m tests.support.kill random|lines MANIFEST OTHER`.

A process of its own, since forking a small one takes a millisecond and forking that of the
tests, with torch, half a second. Prints what it saw as JSON.
"""
from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType

from ltx23_core.overlay import manifest

KILLS = 200


def child(work: Callable[[], object]) -> int:
    """Run in a process of its own -> its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_at_random(path: Path, texts: list[str]) -> dict[str, object]:
    """Writers of both texts in turn, killed within three writes after their first; then the manifest is loaded."""
    def loop(first: int, begun: int) -> None:
        for number in count(first):
            manifest.save(path, texts[number % 2])
            if number == first:
                os.write(begun, b".")  # it may be long before the processor is given to a new process

    start = time.perf_counter()
    for text in texts * 5:  # how long a write takes depends on the disk, and on who else uses it
        manifest.save(path, text)
    write = (time.perf_counter() - start) / 10
    rng, seen = random.Random(5), dict.fromkeys(("kills", "temporary"), 0)
    ids: dict[str, int] = {}
    for number in range(KILLS):
        before = set(os.listdir(path.parent))
        heard, begun = os.pipe()
        pid = child(partial(loop, number, begun))
        os.read(heard, 1)
        os.close(heard)
        os.close(begun)
        time.sleep(rng.uniform(0, 3 * write))
        os.kill(pid, signal.SIGKILL)
        seen["kills"] += wait(pid) == -signal.SIGKILL
        seen["temporary"] += any(name.endswith(".tmp") for name in set(os.listdir(path.parent)) - before)
        id = manifest.Overlay.load(path).id
        ids[id] = ids.get(id, 0) + 1
    return {**seen, "ids": ids}


def kill_at_lines(path: Path, texts: list[str], there: bool) -> dict[str, object]:
    """Killed before the first, second, … line of `save` and the lock until it gets through -> states seen."""
    line, ended, states = 0, False, {"old": 0, "new": 0, "none": 0, "wrong": 0}
    while not ended:
        line += 1
        for name in os.listdir(path.parent):  # else each kill adds lines to the next run, which looks at what is left
            if name == path.name or name.startswith("."):
                (path.parent / name).unlink()
        if there:
            path.write_text(texts[0])
        lines = 0

        def trace(frame: FrameType, event: str, _: object, line: int = line) -> object:
            nonlocal lines
            if not frame.f_code.co_filename.endswith(("manifest.py", "locks.py", "filelock/_unix.py")):
                return None
            lines += event == "line"
            if lines == line:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        def work(trace: Callable[..., object] = trace) -> None:
            sys.settrace(trace)
            manifest.save(path, texts[1])

        ended = wait(child(work)) == 0
        found = path.read_text() if path.exists() else None
        known = {None: "none", texts[0]: "old", texts[1]: "new"}
        states[known.get(found, "wrong")] += 1
    return {"lines": line, **states}


def main() -> None:
    path, other = map(Path, sys.argv[2:4])
    texts = [path.read_text(), other.read_text()]
    if sys.argv[1] == "random":
        result = kill_at_random(path, texts)
    else:
        result = {"replaced": kill_at_lines(path, texts, True), "first": kill_at_lines(path, texts, False)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
