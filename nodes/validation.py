"""What ComfyUI is told before a run: each thing that is wrong once, under the input that is wrong.

ComfyUI writes the answer of `validate_inputs` once under every input that the method names, and asks for these names
anew each time. So the method names those inputs that are wrong in the graph that is being checked (`host.asked`), and
its answer, which ComfyUI turns into text once for each of them, gives each its own sentence. Nothing of ComfyUI is
changed. Where the graph is not known, all inputs that the node judges are named and share the sentences.
"""
from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from comfy_api.latest import io

from ..ltx23_core.errors import LTX23Error, RequestError
from .checks import OWN_LISTS, Found, problems
from .host import asked
from .host.listed import LATELY

Given = Mapping[str, Any]
Check = Callable[[Given], object]  # raises an error of the family
Sentences = dict[str, list[str]]   # by input
CONVERTED: dict[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}  # by ComfyUI


class Answer:
    """What is wrong, as ComfyUI reads it: one text for each input that was named, in their order."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = list(texts)
        self._next = 0

    def __str__(self) -> str:
        text = self._texts[min(self._next, len(self._texts) - 1)]
        self._next += 1
        return text


class Validator:
    """`validate_inputs` of one node; see `before_the_run`."""

    def __init__(self, names: Sequence[str], checks: Sequence[Check], judge: Callable[..., Iterator[Found]],
                 guess: Check | None) -> None:
        """See `before_the_run`."""
        self.node: type[io.ComfyNode] | None = None
        self._names, self._checks, self._judge = tuple(names), tuple(checks), judge
        self._quick = self._checks
        if guess is not None:
            self._quick = (guess,)
        self._slow = guess is not None

    @property
    def __signature__(self) -> inspect.Signature:
        """The inputs to be named now."""
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        names = dict.fromkeys(("cls", *self._to_name()))
        return inspect.Signature(map(functools.partial(inspect.Parameter, kind=kind), names))

    def _to_name(self) -> list[str]:
        """Wrong inputs of all nodes of this kind in the graph; files that the host would miss in its last list."""
        kind = self._schema().node_id
        nodes = asked.of_kind(kind)
        if not nodes:
            return list(self._names)
        names: list[str] = []
        for key, each in nodes.items():
            given = self._known(asked.constants(each))
            names += self._unlisted(given)
            with asked.looking_at(key):
                names += self._sentences(self.node, given, self._quick)
        if self._slow and not names:  # under which a check that takes time may still say something
            [first, *_] = nodes.values()
            names += list(filter(first["inputs"].__contains__, (*self._names, *first["inputs"])))[:1]
        return names

    def _schema(self) -> io.Schema:
        return self.node.SCHEMA or self.node.define_schema()

    def _known(self, given: Given) -> dict[str, Any]:
        """Values as ComfyUI will hand them out; of what it refuses itself there is none."""
        known: dict[str, Any] = {}
        for item in self._schema().inputs:
            value = given.get(item.id)
            if isinstance(value, dict):
                value = value.get("__value__", value)
            made = CONVERTED.get(item.get_io_type())
            if value is None:
                continue
            try:
                known[item.id] = value if made is None else made(value)
            except (TypeError, ValueError, OverflowError):
                continue
        return known

    def _unlisted(self, given: Given) -> list[str]:
        """Files that a newer look finds than the one that the host's lists come from.

        The host made its list a moment ago: what it lacks may have come into ours since, or still lack there, too.
        """
        names = []
        for item in self.node.define_schema().inputs:
            if item.id not in OWN_LISTS or item.id not in given:
                continue
            if given[item.id] not in item.options or LATELY.is_new(item.id, given[item.id]):
                names.append(item.id)
        return names

    def __call__(self, cls: type[io.ComfyNode], **given: Any) -> bool | Answer | Awaitable[bool | Answer]:  # noqa: ANN401
        """True, or what is wrong. ComfyUI waits for a task: checks that take time run in a thread."""
        whole = given
        node = asked.graph().get(asked.own_id())
        if node is not None:
            whole = self._known(asked.constants(node))
        if self._slow:
            return asyncio.ensure_future(asyncio.to_thread(self._answer, cls, whole, given))
        return self._answer(cls, whole, given)

    def _answer(self, cls: type[io.ComfyNode], whole: Given, named: Given) -> bool | Answer:
        wrong = self._sentences(cls, whole, self._checks)
        if not wrong:
            return True
        rest: list[str] = []  # what has no place of its own is said at the first one
        for name in wrong.keys() - named.keys():
            rest += wrong[name]
        texts = []
        for name in named:
            said = [*wrong.get(name, []), *rest]
            rest = []
            texts.append(" ".join(said) or next(iter(wrong.values()))[0])
        return Answer(texts)

    def _sentences(self, cls: type[io.ComfyNode], given: Given, checks: Sequence[Check]) -> Sentences:
        """What is wrong with the constants of a node, by input."""
        known = {name: value for name, value in given.items() if value is not None}
        found: Sentences = {}
        for name, problem in self._judge(cls, known):
            found.setdefault(name, []).append(str(RequestError(*problem)))
        if found:
            return found
        for check in checks:
            try:
                check(known)
            except Refusals as several:
                for name, sentence in several.by_input:
                    found.setdefault(name, []).append(sentence)
            except LTX23Error as error:
                found.setdefault(input_of(self._schema(), error, self._names, known), []).append(str(error))
        return found


class Refusals(Exception):
    """Several things that a check found.

    Args:
        by_input: (input, sentence) of each.
    """

    def __init__(self, by_input: Sequence[tuple[str, str]]) -> None:
        super().__init__(*by_input)
        self.by_input = tuple(by_input)


def input_of(schema: io.Schema, error: LTX23Error, names: Sequence[str], given: Given) -> str:
    """The input that a sentence speaks of: the one it names first; else the first that the node judges. One that has a
    value in the graph, if any has: ComfyUI says nothing under the others."""
    places = []
    for item in schema.inputs:
        match = re.search(rf"\b{re.escape(item.id)}\b", error.found)
        if match is not None and item.id in given:
            places.append((match.start(), -len(item.id), item.id))
    if places:
        return min(places)[2]
    return next(filter(given.__contains__, (*names, *given)), schema.inputs[0].id)


class _OfNode(classmethod):
    """A class method that tells its function which node it belongs to."""

    def __set_name__(self, owner: type[io.ComfyNode], name: str) -> None:
        """ComfyUI clones node classes; the first owner is the node."""
        if self.__func__.node is None:
            self.__func__.node = owner


def no_guess(_: Given) -> None:
    """For a node whose checks can only speak of the first input that it judges."""


def before_the_run(*names: str, checks: Sequence[Check] = (), judge: Callable[..., Iterator[Found]] = problems,
                   guess: Check | None = None) -> classmethod:
    """A node's `validate_inputs`: all of its constants against its schema, then its own checks.

    Args:
        names: inputs that the checks judge; what names no input is said under the first.
        checks: of the node, run where the values as such are right.
        judge: values -> what is wrong with each; for a node that knows more than its schema.
        guess: the same as the checks at once, without a look at a disk, or `no_guess`. Then the checks run in a thread:
            ComfyUI asks on the thread of its server, which must not wait.
    """
    return _OfNode(Validator(names, checks, judge, guess))
