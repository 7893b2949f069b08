"""Which streams are cut by tokens among the ranks of a group, and what each rank has of them."""
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from .world import Group

# A stream with fewer tokens is whole on every rank: 1,024 of sound are 40 s, and cutting them would cost more in
# waiting (nine exchanges a block) than their arithmetic takes.
LEAST = 1024


@dataclass(frozen=True)
class Cut:
    """Tokens of the streams that are cut, among the ranks of a group.

    Rank i has tokens [i n, (i + 1) n), n = count / size rounded up; what a rank lacks at the end is zeros, which
    no attention sees.

    Attributes:
        group: whose ranks.
        video, audio: tokens of the whole stream; 0: it is whole on every rank, or not there.
    """

    group: Group
    video: int = 0
    audio: int = 0

    def count(self, stream: str) -> int:
        """Tokens of a whole stream that is cut; 0: it is not."""
        return {"video": self.video, "audio": self.audio}[stream]

    def rows(self, stream: str) -> int:
        """Tokens that a rank has, with those that only fill up."""
        return -(-self.count(stream) // self.group.size)

    def own(self, stream: str, member: int) -> int:
        """True tokens that a member has."""
        rows = self.rows(stream)
        return min(max(self.count(stream) - member * rows, 0), rows)

    def take(self, stream: str, whole: Tensor, dim: int = 1) -> Tensor:
        """This rank's tokens of a tensor, filled up with zeros behind; the tensor itself where nothing is cut."""
        if not self.count(stream):
            return whole
        rows, own = self.rows(stream), self.own(stream, self.group.index)
        part = whole.narrow(dim, min(self.group.index * rows, whole.shape[dim]), own)
        if own == rows:
            return part
        return pad(part, (0, 0) * (part.ndim - dim - 1) + (0, rows - own))

    def join(self, stream: str, part: Tensor) -> Tensor:
        """(…, N, C), contiguous, of all members' (…, n, C)."""
        parts = self.group.gather(part.contiguous())
        whole = parts.movedim(0, -3).flatten(-3, -2)
        return whole[..., :self.count(stream), :].contiguous()


def cut_for(group: Group, video: int, audio: int, least: int = LEAST) -> Cut:
    """What is cut of streams with so many tokens (0: not there): the longer one, and the other if it is long."""
    if group.size == 1:
        return Cut(group)
    longer = max(video, audio)
    cuts = []
    for count in (video, audio):
        cuts.append(count * (count == longer or count >= least))
    return Cut(group, *cuts)
