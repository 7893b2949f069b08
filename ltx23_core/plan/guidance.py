"""Guidance of both streams, constant or over sigma, and what nodes and plans do with it (spec/07 §4).

Imports no torch; everything here is decided from Python floats.
"""
from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, replace

from ..errors import RequestError
from .guider import Apg, GuiderParams, Nag

__all__ = ["RECIPE", "Apg", "Guidance", "GuiderBins", "GuiderParams", "Nag", "RecipeParams"]

OFF = GuiderParams()


@dataclass(frozen=True)
class RecipeParams:
    """A placeholder for the recipe's guidance of a stream, with the options given here in the place of its own.

    What a node without linked guidance means. `Guidance.resolved` puts the values in.
    """

    apg: Apg | None = None
    nag: Nag | None = None


Params = GuiderParams | RecipeParams | None


@dataclass(frozen=True)
class GuiderBins:
    """Guidance of one stream that depends on sigma: bins, each of the sigmas up to its upper bound.

    Sigmas are float32 values and bounds doubles, as officially: 0.6 as a sigma is slightly above the bound 0.6 and
    belongs to the bin above. Above all bounds the largest one's parameters act, below none the smallest one's.

    Attributes:
        bins: (upper bound in (0, 1], parameters) in any order, kept with the bounds falling. None: no guidance.
    """

    bins: tuple[tuple[float, Params], ...]

    def __post_init__(self) -> None:
        bounds = [bound for bound, _ in self.bins]
        if not bounds or len(set(bounds)) != len(bounds) or not all(0 < bound <= 1 for bound in bounds):
            raise RequestError(f"the bounds of the guidance over sigma are {bounds}",
                               "at least one, all different, above 0 and up to "
                               "1", "Use 1.0 for the only bin.")
        object.__setattr__(self, "bins", tuple(sorted(self.bins, key=lambda entry: -entry[0])))

    def index(self, sigma: float) -> int:
        """Which bin a sigma belongs to, counted from the largest bound."""
        return max(0, sum(sigma <= bound for bound, _ in self.bins) - 1)


StreamGuidance = GuiderParams | GuiderBins | RecipeParams


def _bins_of(stream: StreamGuidance | None) -> tuple[tuple[float, Params], ...]:
    """A stream's (upper bound, parameters); one bin where they are the same at every sigma."""
    if isinstance(stream, GuiderBins):
        return stream.bins
    return ((1.0, stream),)


def _at(stream: StreamGuidance | None, sigma: float) -> Params:
    """A stream's parameters at a sigma."""
    if isinstance(stream, GuiderBins):
        _, params = stream.bins[stream.index(sigma)]
        return params
    return stream


def _joined(bins: Iterable[tuple[float, Params]]) -> StreamGuidance | None:
    """Bins as guidance of a stream: the parameters themselves where all bins have the same."""
    bins = tuple(bins)
    _, first = bins[0]
    if all(params == first for _, params in bins):
        return first
    return GuiderBins(bins)


def map_bins(stream: StreamGuidance | None, change: Callable[[Params], Params]) -> StreamGuidance | None:
    """A stream with every set of its parameters changed."""
    return _joined((bound, change(params)) for bound, params in _bins_of(stream))


@dataclass(frozen=True)
class Guidance:
    """Guidance of both streams. None for a stream: it is not guided, and the unconditioned pass keeps its
    positive context (spec: goldens' README, audio to video)."""

    video: StreamGuidance | None = None
    audio: StreamGuidance | None = None

    def at(self, sigma: float) -> tuple[GuiderParams, GuiderParams]:
        """Parameters of video and audio at a sigma, off where there are none. Only of resolved guidance."""
        return _at(self.video, sigma) or OFF, _at(self.audio, sigma) or OFF

    @property
    def params(self) -> Iterator[GuiderParams]:
        """Every set of parameters that acts at some sigma. Only of resolved guidance."""
        for _, params in (*_bins_of(self.video), *_bins_of(self.audio)):
            if params:
                yield params

    @property
    def passes(self) -> int:
        """Largest number of forward passes of a step."""
        used: set[str] = set()
        for params in self.params:
            used |= params.further_passes
        return 1 + len(used)

    @property
    def modality_streams(self) -> frozenset[str]:
        """Streams that are guided away from a result without cross-modal attention. Only of resolved guidance."""
        found = set()
        for name, own in (("video", self.video), ("audio", self.audio)):
            for _, params in _bins_of(own):
                if params and params.uses_modality:
                    found.add(name)
        return frozenset(found)

    def _mapped(self, change: Callable[[Params], Params], streams: str = "both") -> Guidance:
        """Guidance with every set of parameters changed, of "both", "video" or "audio"."""
        made = self
        for name in ("video", "audio"):
            if streams in ("both", name):
                made = replace(made, **{name: map_bins(getattr(self, name), change)})
        return made

    def resolved(self, recipe: Guidance | None) -> Guidance:
        """The recipe's values in the place of each `RecipeParams`; None: a recipe without guidance."""
        recipe = recipe or Guidance()
        return Guidance(
            video=map_bins(self.video, lambda params: _filled(params, recipe.video)),
            audio=map_bins(self.audio, lambda params: _filled(params, recipe.audio)),
        )

    def with_options(self, streams: str = "both", *, apg: Apg | None = None, nag: Nag | None = None) -> Guidance:
        """Guidance with APG or NAG in "both" streams, in "video" or in "audio", at every sigma.

        APG leaves a stream that is not guided as it is. NAG acts there too; where CFG acts on the other stream, the
        unconditioned pass then has the negative prompt for both.
        """
        options = RecipeParams(apg, nag)
        return self._mapped(lambda params: _filled(options, params), streams)

    def within(self, low: float, high: float, otherwise: Guidance | None = None) -> Guidance:
        """This guidance for sigmas from low to high, another one (None: no guidance) elsewhere.

        The bounds are rounded to float32, as sigmas are, so a sigma equal to a bound is inside.

        Raises:
            RequestError: bounds that are not 0 <= low <= high <= 1 with high above 0.
        """
        if not (0 <= low <= high <= 1 and high > 0):
            raise RequestError(f"guidance acts for sigmas from {low} to {high}",
                               "0 <= from <= to <= 1 with to above 0", "Use 0 and 1 for the whole schedule.")
        low, high = struct.unpack("2f", struct.pack("2f", low, high))
        other = otherwise or Guidance()
        return Guidance(
            video=_split(self.video, other.video, low, high),
            audio=_split(self.audio, other.audio, low, high),
        )

    def nag_alone(self) -> Guidance | None:
        """What acts in a stage of the recipe that has no guidance: NAG, where there is any."""
        alone = self._mapped(lambda params: params and params.nag and GuiderParams(nag=params.nag))
        if alone == Guidance():
            return None
        return alone


def _split(inside: StreamGuidance | None, outside: StreamGuidance | None, low: float, high: float) -> (
        StreamGuidance | None):
    """One stream's guidance for sigmas from low to high, another's elsewhere; bounds are float32 values."""
    bounds = {1.0, high, math.nextafter(low, 0)}
    for bound, _ in (*_bins_of(inside), *_bins_of(outside)):
        bounds.add(bound)
    bins = []
    for bound in sorted(bounds - {0.0}, reverse=True):
        acting = inside if low <= bound <= high else outside
        bins.append((bound, _at(acting, bound)))
    return _joined(bins)


def _filled(params: Params, recipe: Params) -> Params:
    """Parameters, or the recipe's with the placeholder's options where ``params`` is one."""
    if not isinstance(params, RecipeParams):
        return params
    if recipe is None:
        # Nothing of the recipe's acts on this stream; NAG needs nothing else.
        return params.nag and GuiderParams(nag=params.nag)
    given = {name: value for name, value in vars(params).items() if value is not None}
    return replace(recipe, **given)


RECIPE = Guidance(RecipeParams(), RecipeParams())
"""The recipe's own guidance, for a node without a link."""


def without(guidance: Guidance | None, frozen: Set[str]) -> Guidance | None:
    """Guidance without that of frozen streams: they are context only and have none (spec/07 §8)."""
    if guidance is None:
        return None
    return replace(guidance, **dict.fromkeys(frozen))
