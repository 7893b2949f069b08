"""Workers on a Ray cluster: an actor for each device, in a placement group, starts a worker and passes bytes on.

An optional extra (``pip install ray``). The library travels to the cluster by itself; the model's files must lie under
the same paths there, as on a shared drive.
"""
from __future__ import annotations

import contextlib
import os
import queue
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import RequestError, WorkerError
from ..overlay import Overlay
from .messages import Pipe
from .pipeline import WorkersPipeline
from .pool import Process, Ranks

ADDRESS = re.compile(r"ray://(?P<host>[\w.\-]+(:\d+)?)(/(?P<count>\d+))?", re.ASCII)
PIECE = 4 << 20  # bytes that an actor hands out at once
ROOM_SECONDS = 60.0  # to get devices of the cluster
PATIENCE = 1.0  # seconds that an actor waits for the worker's words before it says that there are none yet


class Relay:
    """What an actor is: a worker process on its computer, and its bytes. Ends it with itself."""

    def __init__(self, command: str) -> None:
        # The library came with the actor; where it lies, only this process knows.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen([sys.executable, "-c", command], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, bufsize=0, env=environment)
        self._said: queue.Queue[bytes] = queue.Queue(16)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            data = self._process.stdout.read(PIECE)
            self._said.put(data)
            if not data:
                return

    def write(self, data: bytes) -> None:
        """Bytes for the worker."""
        self._process.stdin.write(data)

    def read(self) -> bytes | None:
        """Bytes of the worker; empty: it has ended; None: nothing yet."""
        try:
            return self._said.get(timeout=PATIENCE)
        except queue.Empty:
            return None

    def meeting(self) -> str:
        """An address on this computer where ranks can meet."""
        import ray.util

        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


class _Far:
    """A worker behind an actor: a process, and the two files of a `Pipe`."""

    pid = 0

    def __init__(self, ray: Any, actor: Any) -> None:  # noqa: ANN401
        self._ray, self.actor = ray, actor
        self._rest = b""
        self._code: int | None = None

    def poll(self) -> int | None:
        """1 once it has ended."""
        return self._code

    def wait(self, timeout: float) -> int | None:
        """Its end is known when its bytes end."""
        return self._code

    def kill(self) -> None:
        """End the actor, and with it the worker."""
        self._code = 1
        self._ray.kill(self.actor)

    def write(self, data: bytes) -> None:
        """See `Relay`."""
        self._asked(self.actor.write.remote(bytes(data)))

    def flush(self) -> None:
        """All is on its way."""

    def close(self) -> None:
        """Nothing to close."""

    def readinto(self, view: memoryview) -> int:
        """Some bytes; 0: no more will come."""
        while not self._rest:
            found = self._asked(self.actor.read.remote())
            if found is None:
                continue
            if not found:
                self._code = 1
                return 0
            self._rest = found
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _asked(self, reference: Any) -> Any:  # noqa: ANN401
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._code = 1
            raise OSError(str(error)) from error


class RayRanks(Ranks):
    """`Ranks` on a cluster.

    Args:
        address: "ray://HOST:PORT", "ray://HOST:PORT/N" for N devices, "ray://auto" or "ray://local".
        options, memory: as of `Ranks`.
    """

    def __init__(self, address: str, options: Mapping[str, Any], memory: str | float = "auto") -> None:
        found = ADDRESS.fullmatch(address.strip())
        if found is None:
            raise RequestError(f"devices is {address[:60]!r}", "ray://HOST:PORT, or ray://HOST:PORT/N for N devices",
                               "Use ray://auto for the cluster of this computer.")
        self._ray = _connected(found["host"])
        gpus = int(self._ray.cluster_resources().get("GPU", 0))
        kind = "cuda:0" if gpus else "cpu"  # each actor sees its own device alone
        super().__init__((kind,) * int(found["count"] or gpus or 1), options, memory)

    @contextlib.contextmanager
    def _launched(self) -> Iterator[tuple[Iterator[Process], Path | str]]:
        ray = self._ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        needs = {"CPU": 1} if self.devices[0] == "cpu" else {"CPU": 1, "GPU": 1}
        group = ray.util.placement_group([needs] * self.size, strategy="PACK")
        if not group.wait(ROOM_SECONDS):
            ray.util.remove_placement_group(group)
            raise WorkerError(f"the Ray cluster has no room for {self.size} workers with {needs} each",
                              "free devices", "Use fewer devices, or wait until others are done.")
        made = ray.remote(Relay).options(
            num_cpus=1,
            num_gpus=needs.get("GPU", 0),
            max_concurrency=4,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group),
        )
        actors = [made.remote(FAR_COMMAND) for _ in self.devices]
        self._group = group
        yield (_near(ray, actor) for actor in actors), ray.get(actors[0].meeting.remote())

    def close(self) -> None:
        """End all, and give the devices back to the cluster."""
        super().close()
        if getattr(self, "_group", None) is not None:
            self._ray.util.remove_placement_group(self._group)
            self._group = None


FAR_COMMAND = "from ltx23_core.workers.worker import main; main()"


def _near(ray: Any, actor: Any) -> Process:  # noqa: ANN401
    far = _Far(ray, actor)
    return Process(far, Pipe(far, far))


def _connected(host: str) -> Any:  # noqa: ANN401
    """Ray, connected to a cluster that has this library.

    Raises:
        RequestError: Ray is not installed. WorkerError: no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise RequestError("devices names a Ray cluster, and Ray is not installed", "the package ray",
                           "Install it into ComfyUI's Python: pip install ray.") from error
    if ray.is_initialized():
        return ray
    address = {"auto": "auto", "local": "local"}.get(host, f"ray://{host}")
    library = str(Path(__file__).resolve().parents[1])
    try:
        ray.init(address, runtime_env={"py_modules": [library]}, log_to_driver=True, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise WorkerError(f"no Ray cluster answers at {host} ({type(error).__name__})", "a running cluster",
                          "Start one (ray start --head), or correct the address.") from error
    # This module's name may be one that only this process knows.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return ray


class RayPipeline(WorkersPipeline):
    """`WorkersPipeline` whose workers are on a Ray cluster; ``devices`` is its address (`RayRanks`)."""

    def __init__(self, overlay: Overlay | str | Path, *, devices: str, memory: str | float = "auto",
                 **options: Any) -> None:  # noqa: ANN401
        super().__init__(overlay, devices="1", memory=memory, **options)
        self.ranks = RayRanks(devices, self.worker_options, memory)
