"""The ranks of one run and what they send each other, by torch.distributed: NCCL on CUDA, gloo elsewhere."""
from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import LTX23Error, RequestError

Value = TypeVar("Value")

# Between two collectives of a step lie milliseconds; a first call also builds kernels. Whoever starts the ranks ends
# them when one dies (`workers.pool`, torch's launcher), so this is the last resort against a device that hangs.
DEVICE_TIMEOUT = timedelta(seconds=120)
# One rank may read 24 GB of text encoder from a slow disk while the others wait.
HOST_TIMEOUT = timedelta(hours=6)
# Its name since torch 2.13; the old one warns there.
_gather = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)
LOOPBACK = {"linux": "lo", "darwin": "lo0"}


class Group:
    """Some of the ranks, which exchange tensors; every method is called by all of them in the same order.

    Args:
        ranks: of the world, in order.
        own: this process's rank.
        handle: of torch; None: one rank alone.
    """

    def __init__(self, ranks: Sequence[int], own: int, handle: dist.ProcessGroup | None) -> None:
        self.ranks, self.size = tuple(ranks), len(ranks)
        self.index = -1
        if own in self.ranks:
            self.index = self.ranks.index(own)
        self._handle = handle

    def all_to_all(self, send: Tensor) -> Callable[[], Tensor]:
        """Part i of (size, …), contiguous, goes to member i. Starts; the result waits for (size, …), by sender."""
        received = torch.empty_like(send)
        work = dist.all_to_all_single(received, send, group=self._handle, async_op=True)

        def arrived() -> Tensor:
            work.wait()
            return received

        return arrived

    def gather(self, part: Tensor) -> Tensor:
        """(size, …): a contiguous tensor of one shape from each member."""
        whole = part.new_empty(self.size, *part.shape)
        _gather(whole.view(-1), part.reshape(-1), group=self._handle)
        return whole

    def shift(self, send: Tensor) -> Callable[[], Tensor]:
        """Hand a contiguous tensor to the next member. Starts; the result waits for that of the one before."""
        received = torch.empty_like(send)
        after, before = self.ranks[(self.index + 1) % self.size], self.ranks[self.index - 1]
        both = [dist.P2POp(dist.isend, send, after, self._handle),
                dist.P2POp(dist.irecv, received, before, self._handle)]
        works = dist.batch_isend_irecv(both)

        def arrived() -> Tensor:
            for work in works:
                work.wait()
            return received

        return arrived

    def hand_out(self, tensor: Tensor, member: int) -> Callable[[], Tensor]:
        """Start to give all members one member's contiguous tensor, in place; the result waits for it."""
        work = dist.broadcast(tensor, self.ranks[member], group=self._handle, async_op=True)

        def arrived() -> Tensor:
            work.wait()
            return tensor

        return arrived

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """A contiguous tensor of one rank of the world, in place in all of the group."""
        dist.broadcast(tensor, source, group=self._handle)
        return tensor


class World:
    """All ranks of a run.

    Args:
        rank, size: of this process.
        device: where it computes.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device
        everybody = tuple(range(size))
        self.all = Group(everybody, rank, dist.group.WORLD)
        # Words, and waiting for each other, go between the processors: a device that waits looks like one that hangs.
        self._host = dist.new_group(backend="gloo", timeout=HOST_TIMEOUT)
        self._groups = {(everybody, ""): self.all}

    @classmethod
    def join(cls, rank: int, size: int, device: torch.device, meeting: Path | str | None = None) -> World:
        """Meet the other ranks.

        Args:
            meeting: a file that does not exist yet, the same for all ranks, on this computer; "tcp://HOST:PORT" of
                the first one's, for several computers; None: where the environment says (``torchrun``).

        Raises:
            RequestError: this torch cannot do it.
        """
        if not dist.is_available():
            raise RequestError("this torch is built without torch.distributed", "a torch that has it",
                               "Set devices to 1.")
        backend = "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
            backend = "nccl"
        where = {"init_method": "env://"}
        if isinstance(meeting, str):
            where = {"init_method": meeting}
        elif meeting is not None:
            stay_at_home()
            where = {"store": dist.FileStore(str(meeting), size)}
        dist.init_process_group(backend, rank=rank, world_size=size, timeout=DEVICE_TIMEOUT, **where)
        return cls(rank, size, device)

    def group(self, ranks: Sequence[int], purpose: str = "") -> Group:
        """Some ranks as a group; asked for by all ranks of the world in the same order.

        ``purpose``: what another group of the same ranks is for; groups do not wait for each other.
        """
        key = tuple(ranks), purpose
        if key not in self._groups:
            handle = None
            if len(ranks) > 1:
                handle = dist.new_group(list(ranks), timeout=DEVICE_TIMEOUT)
            self._groups[key] = Group(ranks, self.rank, handle)
        return self._groups[key]

    def send(self, tensor: Tensor, rank: int) -> Callable[[], None]:
        """Start to send a contiguous tensor; the result waits until it has left."""
        works = dist.batch_isend_irecv([dist.P2POp(dist.isend, tensor, rank)])

        def left() -> None:
            works[0].wait()
            if tensor.is_cuda:  # where waiting is the device's matter: who sends must not run far ahead
                torch.cuda.current_stream().synchronize()

        return left

    def hand_over(self, tensors: Sequence[Tensor], rank: int) -> Callable[[], None]:
        """Start to send contiguous tensors to a rank that takes them when it is ready (`take_over`); the result waits
        until they have left, and until then they must stay."""
        works = dist.batch_isend_irecv([dist.P2POp(dist.isend, tensor, rank) for tensor in tensors])

        def left() -> None:
            for work in works:
                work.wait()

        return left

    def take_over(self, rooms: Sequence[Tensor], rank: int) -> None:
        """Tensors of another rank, in the memory that is given."""
        for work in dist.batch_isend_irecv([dist.P2POp(dist.irecv, room, rank) for room in rooms]):
            work.wait()

    def receive(self, room: Tensor, rank: int) -> Tensor:
        """A tensor of another rank, in the memory that is given."""
        for work in dist.batch_isend_irecv([dist.P2POp(dist.irecv, room, rank)]):
            work.wait()
        return room

    def meet(self, error: BaseException | None = None) -> None:
        """Wait until all are here, however long one works alone; what one of them brings is raised by all."""
        for told in self.told(_portable(error)):
            if told is not None:
                raise told

    def told(self, value: object) -> list[object]:
        """What each rank says, by rank."""
        values: list[object] = [None] * self.size
        dist.all_gather_object(values, value, group=self._host)
        return values

    def alone(self, work: Callable[[], Value], rank: int = 0) -> Value:
        """What one rank makes, given to all; what it raises, all raise."""
        made: list[object] = [None, None]
        if self.rank == rank:
            try:
                made[0] = work()
            except BaseException as error:
                made[1] = _portable(error)
        dist.broadcast_object_list(made, rank, group=self._host)
        if made[1] is not None:
            raise made[1]
        return made[0]

    def close(self) -> None:
        """Leave."""
        dist.destroy_process_group()


def stay_at_home() -> None:
    """Ranks of one computer talk over its own loopback only, whatever its name resolves to."""
    name = LOOPBACK.get(os.sys.platform)
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def _portable(error: BaseException | None) -> BaseException | None:
    """An error as another process can have it."""
    if error is None or isinstance(error, LTX23Error):
        return error
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
