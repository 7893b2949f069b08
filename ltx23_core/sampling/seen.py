"""Who sees whom in the self attention of a stream with references, kept as factors and not as a matrix (spec/07 §8)."""
from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..models.transformer.masked import Rows
from ..ops.attention import mask_bias

CLIP, BESIDE, ALL = 0, 1, -1  # groups; references are 2, 3, … in their order


@dataclass(frozen=True)
class Seen:
    """Weights in [0, 1] of the attention between tokens: a group and a number for each, 8 bytes for a row of N.

    Tokens of one group see each other wholly. A reference and the clip see each other as the reference's tokens say,
    and a reference neither sees nor is seen by anything else. What stands beside the clip (keyframes) and the clip see
    each other wholly. What was appended later (`ALL`) sees everything and is seen by everything.

    Attributes:
        groups: int32 (N,).
        weights: float32 (N,), of a reference's tokens; 1 elsewhere.
    """

    groups: Tensor
    weights: Tensor

    @classmethod
    def of_clip(cls, count: int, clip: int, device: torch.device) -> Seen:
        """All of so many tokens see each other; the first ones are the clip."""
        groups = torch.full((count,), BESIDE, dtype=torch.int32, device=device)
        groups[:clip] = CLIP
        return cls(groups, torch.ones(count, device=device))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the matrix that it stands for."""
        return 1, len(self.groups), len(self.groups)

    def with_reference(self, weights: Tensor) -> Seen:
        """With a further reference behind: float32 (n,) weights between its tokens and the clip."""
        group = max(BESIDE, int(self.groups.max())) + 1
        new = self.groups.new_full((len(weights),), group)
        # What was there and saw everything stands beside the clip from here on: it does not see the new one.
        groups = torch.where(self.groups == ALL, BESIDE, self.groups)
        return Seen(torch.cat((groups, new)), torch.cat((self.weights, weights.to(self.weights))))

    def with_others(self, count: int) -> Seen:
        """With so many tokens behind that see everything and are seen."""
        groups = torch.cat((self.groups, self.groups.new_full((count,), ALL)))
        return Seen(groups, torch.cat((self.weights, self.weights.new_ones(count))))

    def take(self, index: Tensor) -> Seen:
        """Of some of the tokens, in order."""
        return replace(self, groups=self.groups[index], weights=self.weights[index])

    def rows(self, dtype: torch.dtype) -> tuple[Rows, ...]:
        """What each token sees, as additive bias in the model's dtype: one row a group. Waits for the device."""
        _, lengths = torch.unique_consecutive(self.groups, return_counts=True)
        made, start = [], 0
        for length in lengths.tolist():
            made.append(self._rows(start, start + length, dtype))
            start += length
        return tuple(made)

    def _rows(self, start: int, end: int, dtype: torch.dtype) -> Rows:
        """Of a stretch of one group; that of the clip comes first."""
        groups, group = self.groups, int(self.groups[start])
        if group == ALL:
            return Rows(start, end, bias=None)
        is_reference = groups > BESIDE
        if group == CLIP:
            return Rows(start, end, bias=mask_bias(torch.where(is_reference, self.weights, 1.0), dtype))
        if group == BESIDE:
            return Rows(start, end, bias=mask_bias((~is_reference).float(), dtype))
        clip = int((groups == CLIP).sum())
        sees = (groups == group) | (groups == CLIP) | (groups == ALL)
        own = mask_bias(self.weights[start:end], dtype)
        return Rows(start, end, mask_bias(sees.float(), dtype), own, clip)

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix (1, N, N): N squared numbers, for tests and for people."""
        count = len(self.groups)
        made = torch.ones(count, count, dtype=dtype, device=self.groups.device)
        clip = (self.groups == CLIP).nonzero().flatten()
        others = (self.groups == ALL).nonzero().flatten()
        for group in range(BESIDE + 1, int(self.groups.max()) + 1):
            own = (self.groups == group).nonzero().flatten()
            if not len(own):
                continue
            weights = self.weights[own].to(dtype)
            made[own] = 0
            made[:, own] = 0
            made[own[:, None], own] = 1
            made[own[:, None], clip] = weights[:, None].expand(-1, len(clip))
            made[clip[:, None], own] = weights.expand(len(clip), -1)
        made[others] = 1
        made[:, others] = 1
        return made[None]
