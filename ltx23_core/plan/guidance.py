"""Guidance of both streams, constant or over sigma, and what nodes and plans do with it (spec/07 §4).

Imports no torch; everything here is decided from Python floats.
"""
from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace

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
                               "at least one, all different, above 0 and up to 1", "Use 1.0 for the only bin.")
        object.__setattr__(self, "bins", tuple(sorted(self.bins, key=lambda entry: -entry[0])))

    def index(self, sigma: float) -> int:
        """Which bin a sigma belongs to, counted from the largest bound."""
        return max(0, sum(sigma <= bound for bound, _ in self.bins) - 1)


StreamGuidance = GuiderParams | GuiderBins | RecipeParams


def _bins_of(stream: StreamGuidance | None) -> tuple[tuple[float, Params], ...]:
    return stream.bins if isinstance(stream, GuiderBins) else ((1.0, stream),)


def _at(stream: StreamGuidance | None, sigma: float) -> Params:
    return stream.bins[stream.index(sigma)][1] if isinstance(stream, GuiderBins) else stream


def _joined(bins: Iterable[tuple[float, Params]]) -> StreamGuidance | None:
    """Bins as guidance of a stream: the parameters themselves where all bins have the same."""
    bins = tuple(bins)
    return bins[0][1] if all(params == bins[0][1] for _, params in bins) else GuiderBins(bins)


@dataclass(frozen=True)
class Guidance:
    """Guidance of both streams. None for a stream: it is not guided, and the unconditioned pass keeps its
    positive context (spec: goldens' README, audio to video)."""

    video: StreamGuidance | None = None
    audio: StreamGuidance | None = None

    def at(self, sigma: float) -> tuple[GuiderParams, GuiderParams]:
        """Parameters of video and audio at a sigma, off where there are none. Only of resolved guidance."""
        video, audio = (_at(stream, sigma) or OFF for stream in (self.video, self.audio))
        return video, audio

    @property
    def params(self) -> Iterator[GuiderParams]:
        """Every set of parameters that acts at some sigma. Only of resolved guidance."""
        return (params for stream in (self.video, self.audio) for _, params in _bins_of(stream) if params)

    @property
    def passes(self) -> int:
        """Largest number of forward passes of a step."""
        kinds = [(params.uses_cfg, params.uses_stg, params.uses_modality) for params in self.params]
        return 1 + sum(map(any, zip(*kinds, strict=True)))

    def _mapped(self, change: Callable[[Params], Params], streams: str = "both") -> Guidance:
        """Guidance with every set of parameters changed, of "both", "video" or "audio"."""
        return Guidance(*(_joined((bound, change(params)) for bound, params in _bins_of(stream))
                          if streams in ("both", name) else stream
                          for name, stream in (("video", self.video), ("audio", self.audio))))

    def resolved(self, recipe: Guidance | None) -> Guidance:
        """The recipe's values in the place of each `RecipeParams`; None: a recipe without guidance."""
        recipe = recipe or Guidance()
        return Guidance(*(Guidance(own)._mapped(lambda params, official=official: _filled(params, official)).video
                          for own, official in ((self.video, recipe.video), (self.audio, recipe.audio))))

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

        def merged(inside: StreamGuidance | None, outside: StreamGuidance | None) -> StreamGuidance | None:
            bounds = {bound for stream in (inside, outside) for bound, _ in _bins_of(stream)}
            bounds |= {1.0, high, math.nextafter(low, 0)} - {0.0}
            return _joined((bound, _at(inside if low <= bound <= high else outside, bound))
                           for bound in sorted(bounds, reverse=True))

        return Guidance(merged(self.video, other.video), merged(self.audio, other.audio))

    def nag_alone(self) -> Guidance | None:
        """What acts in a stage of the recipe that has no guidance: NAG, where there is any."""
        alone = self._mapped(lambda params: params and params.nag and GuiderParams(nag=params.nag))
        return None if alone == Guidance() else alone


def _filled(params: Params, recipe: Params) -> Params:
    """Parameters, or the recipe's with the placeholder's options where ``params`` is one."""
    if not isinstance(params, RecipeParams):
        return params
    options = {field.name: value for field in fields(params) if (value := getattr(params, field.name)) is not None}
    if recipe is None:
        return None if params.nag is None else GuiderParams(nag=params.nag)
    return replace(recipe, **options)


RECIPE = Guidance(RecipeParams(), RecipeParams())
"""The recipe's own guidance, for a node without a link."""
