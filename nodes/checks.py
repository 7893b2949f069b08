"""One guard where values enter a node: type, range, list and content of every input, from the node's own schema.

ComfyUI checks some of it (whole numbers, before a run, where a node does not look itself); not the lists of 0.3.75, not
NaN, not what comes through a link. So every node checks its own, before a run by `validation.before_the_run` and in it
by `guarded`, which says all that is wrong at once, in one sentence of three parts.
"""
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..ltx23_core.errors import RequestError
from .host.values import Problem, number_problem, shown, text_problem

if TYPE_CHECKING:
    from torch import Tensor

Found = tuple[str, Problem]  # an input, and what is wrong with it
OWN_LISTS = frozenset({"checkpoint", "text_encoder", "upsampler", "distilled_lora", "lora", "text_projection",
                       "video_vae", "audio_vae"})  # of files: `model.files` says what is wrong with a name
# A run or a clip without that stream: the node has words.
MAY_BE_NOTHING = frozenset({"LATENT", "AUDIO", "VIDEO"})
LONGEST_NAME = 4096  # characters of a file's name with its folders


def guarded(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """Around a node's `execute`: everything that was given is checked against the schema before it runs.

    Raises:
        RequestError: all that is wrong, at once.
    """
    signature = inspect.signature(execute)
    rest = [each.name for each in signature.parameters.values() if each.kind is inspect.Parameter.VAR_KEYWORD]

    @functools.wraps(execute)
    def checked(cls: type[io.ComfyNode], *values: Any, **named: Any) -> io.NodeOutput:  # noqa: ANN401
        bound = signature.bind_partial(cls, *values, **named)
        given = dict(bound.arguments)
        for name in rest:
            given |= given.pop(name, {})
        refuse(problems(cls, given))
        for place in (bound.arguments, *(bound.arguments.get(name, {}) for name in rest)):
            for name in left_out(cls, place):
                del place[name]
        return execute(*bound.args, **bound.kwargs)

    return checked


def left_out(cls: type[io.ComfyNode], given: Mapping[str, Any]) -> list[str]:
    """Optional inputs that are null: as if they were not there, so that their defaults act."""
    schema = cls.SCHEMA or cls.define_schema()
    names = []
    for item in schema.inputs:
        if item.optional and item.id in given and given[item.id] is None:
            names.append(item.id)
    return names


def refuse(found: Iterable[Found]) -> None:
    """Raise one `RequestError` for all problems, if there are any."""
    wrong = [problem for _, problem in found]
    if wrong:
        first, second, third = zip(*wrong, strict=True)
        raise RequestError("; ".join(first), "; ".join(second), " ".join(dict.fromkeys(third)))


def problems(cls: type[io.ComfyNode], given: Mapping[str, Any]) -> Iterator[Found]:
    """What is wrong with a node's values, one input after the other; those that are not given are not looked at."""
    schema = cls.SCHEMA or cls.define_schema()
    for item in schema.inputs:
        if item.id in given and not (given[item.id] is None and item.optional):
            found = _problem(item, given[item.id])
            if found is not None:
                yield item.id, found


def _problem(item: io.Input, value: Any) -> Problem | None:  # noqa: ANN401
    if isinstance(item, io.Combo.Input):
        return _choice_problem(item, value)
    if isinstance(item, io.Boolean.Input):
        return _switch_problem(item, value)
    if isinstance(item, (io.Int.Input, io.Float.Input)) and not getattr(item, "force_input", False):
        return number_problem(item.id, value, item.min, item.max, whole=isinstance(item, io.Int.Input))
    if isinstance(item, io.Float.Input):
        return number_problem(item.id, value, None, None, whole=False)
    if isinstance(item, io.String.Input):
        return text_problem(item.id, value)
    return _socket_problem(item, value)


def _switch_problem(item: io.Boolean.Input, value: Any) -> Problem | None:  # noqa: ANN401
    if isinstance(value, bool):
        return None
    return f"{item.id} is {shown(value)}", "true or false", "Use true or false."


def _choice_problem(item: io.Combo.Input, value: Any) -> Problem | None:  # noqa: ANN401
    if item.id in OWN_LISTS:
        return text_problem(item.id, value, LONGEST_NAME)
    options = list(item.options or ())
    if isinstance(value, str) and value in options:
        return None
    fix = f"Choose {item.default or options[0]}."
    return f"{item.id} is {shown(value)}", f"one of {', '.join(options)}", fix


def problems_of_socket(name: str, kind: str, value: Any) -> Iterator[Found]:  # noqa: ANN401
    """What is wrong with the content of a socket of ComfyUI's (IMAGE, MASK, SIGMAS, LATENT, AUDIO)."""
    found = SOCKETS[kind](name, value)
    if found is not None:
        yield name, found


def _socket_problem(item: io.Input, value: Any) -> Problem | None:  # noqa: ANN401
    """What is wrong with what comes through a link."""
    kind = item.get_io_type()
    if value is None and kind in MAY_BE_NOTHING:
        return None
    look = SOCKETS.get(kind)
    typed_in = value is None or isinstance(value, (bool, int, float, str, list))
    if typed_in or (isinstance(value, dict) and look is None):
        found = f"{item.id} is {shown(value)}, no link"
        return found, f"a link to a node that gives {kind}", f"Connect {item.id}."
    if look is None:
        return None
    return look(item.id, value)


def _image_problem(name: str, value: Any) -> Problem | None:  # noqa: ANN401
    shape = getattr(value, "shape", None)
    if shape is None or len(shape) != 4 or shape[-1] not in (1, 3, 4) or 0 in shape:
        return _shape(name, value, "images (count, height, width, 3), at least one")
    return _number_problem(name, value)


def _mask_problem(name: str, value: Any) -> Problem | None:  # noqa: ANN401
    shape = getattr(value, "shape", None)
    if shape is None or len(shape) not in (2, 3) or 0 in shape:
        return _shape(name, value, "masks (count, height, width), at least one")
    return _number_problem(name, value)


def _sigmas_problem(name: str, value: Any) -> Problem | None:  # noqa: ANN401
    shape = getattr(value, "shape", None)
    if shape is None or len(shape) != 1:
        return _shape(name, value, "noise levels as one row")
    return _number_problem(name, value)


def part_of(value: Any, key: str, kind: type = dict) -> Any:  # noqa: ANN401
    """What a LATENT or an AUDIO (any Mapping) has under this key; None where it has nothing, or is no such thing."""
    if not isinstance(value, kind):
        return None
    return value.get(key)


def _latent_problem(name: str, value: Any) -> Problem | None:  # noqa: ANN401
    samples = part_of(value, "samples")
    if getattr(samples, "is_nested", False):  # video and sound of ComfyUI's own samplers
        found = (_latent_problem(name, {"samples": each}) for each in samples.unbind())
        return next(filter(None, found), None)
    if len(getattr(samples, "shape", ())) not in (4, 5) or 0 in samples.shape:
        return _shape(name, samples, "a latent of LTX-2.3: video (count, channels, frames, height, width) or "
                                     "sound (count, channels, time, bins)")
    return _number_problem(name, samples)


def _audio_problem(name: str, value: Any) -> Problem | None:  # noqa: ANN401
    waveform = part_of(value, "waveform", Mapping)
    rate = part_of(value, "sample_rate", Mapping)
    if len(getattr(waveform, "shape", ())) != 3 or 0 in waveform.shape:
        return _shape(name, waveform, "a sound (1, channels, samples), at least one sample")
    found = number_problem(f"the sample rate of {name}", rate, 1, 1_000_000, whole=True)
    return found or _number_problem(name, waveform)


def _shape(name: str, value: Any, expected: str) -> Problem:  # noqa: ANN401
    shape = getattr(value, "shape", None)
    found = f"{name} is {shown(value)}"
    if shape is not None:
        found = f"{name} has shape {tuple(shape)}"
    return found, expected, "Connect another node."


def _number_problem(name: str, values: Tensor) -> Problem | None:
    """NaN and infinity are named where they enter, not after the run they spoil."""
    from ..ltx23_core.media.audio import is_finite

    if not hasattr(values, "is_floating_point"):  # an array of numpy, which some nodes hand out
        return f"{name} is {shown(values)}", "a tensor of torch", "Connect another node."
    if is_finite(values):
        return None
    return f"{name} holds NaN or infinity", "finite numbers", "Look at the node that made it."


SOCKETS: dict[str, Callable[[str, Any], Problem | None]] = {
    "IMAGE": _image_problem, "MASK": _mask_problem, "SIGMAS": _sigmas_problem, "LATENT": _latent_problem,
    "AUDIO": _audio_problem}

