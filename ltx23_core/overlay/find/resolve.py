"""Configuration and check of each component: its own config, another source's, or the built-in one if shapes agree.

A configuration that a file states itself must fit its tensors. Where it states none, shapes cannot tell everything
(spec/09 §3), so only a configuration whose every shape agrees is taken.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config import ConnectorConfig
from ...errors import OverlayError
from ..names.architecture import Shapes, differences, expected_tensors
from ..names.builtin import builtin_config
from ..names.layout import CONFIG, Tensors
from ..names.recognise import OFFICIAL_FILE
from ..packed.formats import fitted
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
        tensors = {name: fitted(ref, shapes.get(name, ())) for name, ref in tensors.items()}
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
        raise OverlayError(f"the part {part!r} of the config of {found.path} is no table", "a JSON object", _GET)
    for other in reversed(others):
        if other is not found and isinstance(other.config.get(part), dict):
            yield other.config[part], f"the configuration of {other.path.name}"
    yield builtin_config(part), BUILTIN


def projection_config(path: Path, transformer: Mapping[str, Any], tensors: Tensors) -> dict[str, int]:
    """Fields of `TextProjectionConfig`: the columns of the weight say how many layers Gemma has."""
    weight = tensors.get("video_aggregate_embed.weight")
    channels = transformer.get("caption_channels")
    if weight is None or len(weight.shape) != 2 or type(channels) is not int or channels < 1:
        raise OverlayError(f"{path} has no text projection (text_embedding_projection.video_aggregate_embed.weight "
                           f"with caption_channels, here {channels!r})",
"the official file's text projection", _GET)
    if weight.shape[1] % channels:
        raise OverlayError(f"{path} has a text projection of {weight.shape[1]} columns",
                           f"a multiple of caption_channels ({channels})", _GET)
    video, audio = (ConnectorConfig.from_dict(transformer, audio=audio).width for audio in (False, True))
    return {"caption_channels": channels, "in_features": weight.shape[1], "video_features": video,
            "audio_features": audio}


def resolve_all(chosen: Mapping[str, Found], sources: Sequence[Found]) -> dict[str, Resolved]:
    """Every chosen component of `layout.CONFIG`, complete.

    Args:
        chosen: component -> who brings it.
        sources: everything that was found.

    Raises:
        OverlayError: all problems of one source.
    """
    resolved: dict[str, Resolved] = {}
    for found in dict.fromkeys(map(id, chosen.values())):
        names = [name for name, source in chosen.items() if id(source) == found and name in CONFIG]
        source = next(source for source in sources if id(source) == found)
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


def _cannot_guess(guessed: Sequence[tuple[str, list[str]]]) -> str:
    names, example = ", ".join(name for name, _ in guessed), _example([w for _, wrong in guessed for w in wrong])
    return (f"its metadata have no config for {names}, and these are not the tensors of the 22B model, so the "
            f"configuration cannot be known ({example})")


def _example(problems: Sequence[str]) -> str:
    """One problem, a shape if possible."""
    text = next((text for text in problems if "mis-shaped" in text), problems[0] if problems else "no tensors")
    return text if len(text) < 200 else text[:text.find(",", 100)] + ", …"
