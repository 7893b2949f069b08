"""Device memory and RAM while something runs, and a neighbour that holds the rest of a card."""
from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

CHUNK = 256 << 20
EVERY = 0.02  # seconds between two looks
# Reads bytes to hold from its input, one number a line, and answers when it holds them, or as many as it got.
NEIGHBOUR = """
import sys, torch
held = []
torch.ones(1, device="cuda")
print("ready", flush=True)
for line in sys.stdin:
    wanted = int(line) // (256 << 20)
    del held[max(wanted, 0):]
    torch.cuda.empty_cache()
    try:
        while len(held) < wanted:
            held.append(torch.empty(256 << 20, dtype=torch.uint8, device="cuda"))
    except torch.OutOfMemoryError:  # the server has more than it should: its peak will say so
        pass
    torch.cuda.synchronize()
    print(len(held), flush=True)
"""


class Card:
    """One GPU as its driver sees it, all processes together; without one everything is 0."""

    def __init__(self, cpu: bool) -> None:
        """Args: whether there shall be no GPU."""
        self._nvml = None
        if not cpu:
            import pynvml
            pynvml.nvmlInit()
            self._nvml, self._handle = pynvml, _handle(pynvml)

    def used(self) -> int:
        """Bytes in use."""
        return 0 if self._nvml is None else self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used

    def free(self) -> int:
        """Bytes that could be had."""
        return 0 if self._nvml is None else self._nvml.nvmlDeviceGetMemoryInfo(self._handle).free

    def name(self) -> str:
        """What it is called."""
        return "no GPU" if self._nvml is None else self._nvml.nvmlDeviceGetName(self._handle)


def _handle(nvml: ModuleType) -> object:
    """Of the card that CUDA's first device is."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if first.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(first))
    return nvml.nvmlDeviceGetHandleByUUID(first)


def anonymous(pid: int) -> int:
    """Bytes of a process's memory that are no file's; 0 where that is not known."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0


class Watch(threading.Thread):
    """Looks at the card and at one process all the time and keeps the peaks.

    Attributes:
        base: bytes of the card that are not the server's.
        pid: of the server.
    """

    def __init__(self, card: Card) -> None:
        """Args: the card."""
        super().__init__(daemon=True)
        self.card, self.base, self.pid = card, card.used(), 0
        self._peak = self._ram = 0
        self._over = False

    def run(self) -> None:
        """Look until `stop`."""
        while not self._over:
            self._peak = max(self._peak, self.card.used())
            self._ram = max(self._ram, anonymous(self.pid))
            time.sleep(EVERY)

    def stop(self) -> None:
        """End."""
        self._over = True

    def begin(self) -> None:
        """Forget the peaks."""
        self._peak, self._ram = self.card.used(), anonymous(self.pid)

    @property
    def now(self) -> float:
        """GB of the card that the server has."""
        return (self.card.used() - self.base) / 1e9

    @property
    def peak(self) -> float:
        """Most GB that the server had since `begin`."""
        return max(self._peak - self.base, 0) / 1e9

    @property
    def ram(self) -> float:
        """Most GB of memory of the server that are no file's since `begin`."""
        return self._ram / 1e9


class Neighbour:
    """Another process on the card."""

    def __init__(self, watch: Watch) -> None:
        """Start; its context counts to `watch.base`, so start before the server."""
        self._watch, self._process, self._held = watch, None, 0
        if watch.card.free():
            self._process = subprocess.Popen([sys.executable, "-c", NEIGHBOUR], stdin=subprocess.PIPE, text=True,
                                             stdout=subprocess.PIPE)
            self._process.stdout.readline()
            watch.base = watch.card.used()

    def leave(self, budget: float) -> None:
        """Hold so much that the server, with what it has now, can have ``budget`` GB."""
        if self._process is None:
            return
        more = self._watch.card.free() / 1e9 + self._watch.now - budget
        self._hold(self._held + int(more * 1e9))

    def let_go(self) -> None:
        """Hold nothing."""
        if self._process is not None:
            self._hold(0)

    def _hold(self, size: int) -> None:
        before = self._watch.card.used()
        self._process.stdin.write(f"{size}\n")
        self._process.stdin.flush()
        self._held = int(self._process.stdout.readline()) * CHUNK
        self._watch.base += self._watch.card.used() - before

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait(20)
