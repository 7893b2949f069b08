"""Configuration and check of each component: its own config, another source's, or the built-in one if shapes agree.

A configuration that a file states itself must fit its tensors. Where it states none, shapes cannot tell everything
(spec/09 §3), so only a configuration whose every shape agrees is taken.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config import ConnectorConfig
from ...errors import OverlayError
from ..names.architecture import Shapes, differences, expected_tensors
from ..names.builtin import builtin_config
from ..names.layout import CONFIG, Tensors
from ..names.recognise import OFFICIAL_FILE
from ..packed.formats import fitted_all
from .found import Found

_GET = f"Use {OFFICIAL_FILE}."
BUILTIN = "the built-in configuration of LTX-2.3 22B"


@dataclass(frozen=True)
class Resolved:
    """A component that is complete.

    Args:
        config: what `models.registry.build` takes.
        tensors: by parameter name, in the model's shapes.
        shapes: of the model.
        origin: where the configuration comes from, if not from the source itself.
    """

    config: dict[str, Any]
    tensors: Tensors
    shapes: Shapes
    origin: str | None


def resolve(component: str, found: Found, others: Sequence[Found]) -> tuple[Resolved | None, list[str], bool]:
    """Find a component's configuration and check its tensors.

    Args:
        component: a key of `layout.CONFIG`.
        found: who brings it.
        others: the other sources, whose configuration may serve.

    Returns:
        what fits, or None; else the problems, and whether the source itself stated the configuration.
    """
    problems: list[str] = []
    for config, origin in _candidates(component, found, others):
        tensors = found.components[component]
        try:
            if component == "text_projection":
                config = projection_config(found.path, config, tensors)
            shapes = expected_tensors(component, config, found.path)
        except OverlayError:
            if origin is None:
                raise
            continue
        tensors = fitted_all(tensors, shapes)
        problems = differences(component, shapes, tensors)
        if not problems:
            return Resolved(dict(config), tensors, shapes, origin), [], True
        if origin is None:
            return None, problems, True
    return None, problems, False


def _candidates(component: str, found: Found,
                others: Sequence[Found]) -> Iterator[tuple[Mapping[str, Any], str | None]]:
    part = CONFIG[component]
    own = found.config.get(part)
    if isinstance(own, dict):
        yield own, None
        return
    if own is not None:
        raise OverlayError(f"the part {part!r} of the config of {found.path} is no table",
                           "a JSON object", _GET)
    for other in reversed(others):
        if other is not found and isinstance(other.config.get(part), dict):
            yield other.config[part], f"the configuration of {other.path.name}"
    yield builtin_config(part), BUILTIN


def projection_config(path: Path, transformer: Mapping[str, Any], tensors: Tensors) -> dict[str, int]:
    """Fields of `TextProjectionConfig`: the columns of the weight say how many layers Gemma has."""
    weight = tensors.get("video_aggregate_embed.weight")
    channels = transformer.get("caption_channels")
    if weight is None or len(weight.shape) != 2 or type(channels) is not int or channels < 1:
        needed = f"text_embedding_projection.video_aggregate_embed.weight with caption_channels, here {channels!r}"
        raise OverlayError(f"{path} has no text projection ({needed})",
                           "the official file's text projection", _GET)
    if weight.shape[1] % channels:
        raise OverlayError(f"{path} has a text projection of {weight.shape[1]} columns",
                           f"a multiple of caption_channels ({channels})", _GET)
    video = ConnectorConfig.from_dict(transformer, audio=False)
    audio = ConnectorConfig.from_dict(transformer, audio=True)
    return {
        "caption_channels": channels, "in_features": weight.shape[1],
        "video_features": video.width, "audio_features": audio.width,
    }


def resolve_all(chosen: Mapping[str, Found], sources: Sequence[Found]) -> dict[str, Resolved]:
    """Every chosen component of `layout.CONFIG`, complete.

    Args:
        chosen: component -> who brings it.
        sources: everything that was found.

    Raises:
        OverlayError: all problems of one source.
    """
    resolved: dict[str, Resolved] = {}
    for source, names in _by_source(chosen):
        problems, guessed = [], []
        for name in names:
            result, wrong, stated = resolve(name, source, sources)
            if result is not None:
                resolved[name] = result
            elif stated:
                problems += wrong
            else:
                guessed.append((name, wrong))
        if guessed:
            problems.append(_cannot_guess(guessed))
        if problems:
            raise OverlayError(f"{source.path}: " + "; ".join(problems), "the tensors of LTX-2.3 22B, or "
                               "those that the file's own config describes",
                               f"Download the file again, or another one: {OFFICIAL_FILE}.")
    return resolved


def _by_source(chosen: Mapping[str, Found]) -> Iterable[tuple[Found, list[str]]]:
    """Who brings something, and which components of `layout.CONFIG` that is."""
    grouped: dict[int, tuple[Found, list[str]]] = {}  # by identity: a Found is not hashable
    for name, source in chosen.items():
        _, names = grouped.setdefault(id(source), (source, []))
        if name in CONFIG:
            names.append(name)
    return grouped.values()


def _cannot_guess(guessed: Sequence[tuple[str, list[str]]]) -> str:
    names, problems = [], []
    for name, wrong in guessed:
        names.append(name)
        problems += wrong
    return (f"its metadata have no config for {', '.join(names)}, and these are not the tensors of the 22B model, "
            f"so the configuration cannot be known ({_example(problems)})")


def _example(problems: Sequence[str]) -> str:
    """One problem, a shape if possible."""
    shapes = [each for each in problems if "mis-shaped" in each]
    text = (*shapes, *problems, "no tensors")[0]
    if len(text) < 200:
        return text
    return text[:text.find(",", 100)] + ", …"
