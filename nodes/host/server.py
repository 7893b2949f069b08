"""Addresses of our own at ComfyUI's server: answers of bounded size, made once for all who ask at the same time."""
from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...ltx23_core.errors import LTX23Error, spoken

if TYPE_CHECKING:
    from aiohttp import web  # which a server has loaded

log = logging.getLogger("ltx23")
KEEP_SECONDS = 0.5    # an answer serves everybody who asks within this time after it was made
MAX_ITEMS = 5_000     # of one list of an answer
MAX_BYTES = 4 << 20   # of an answer
LEFT_OUT = "left_out"  # key of an answer: name of a list -> how many of its items were cut off


def add_route(path: str, answer: Callable[[], Mapping[str, Any]], keep: float = KEEP_SECONDS) -> None:
    """Serve a JSON object at an address of ComfyUI's server; nothing happens where there is none (unit tests).

    Args:
        path: of the address.
        answer: makes it, in a thread; one at a time.
        keep: seconds for which an answer serves all who ask; 0 for what a command changes.
    """
    if (server := _server()) is not None:
        server.routes.get(path)(Route(answer, keep).handle)


def add_command(path: str, act: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """Serve a POST with a JSON object; `act` gets it, in a thread, and gives the answer."""
    if (server := _server()) is None:
        return

    async def handle(request: web.Request) -> web.Response:
        try:
            asked = json.loads(await request.text() or "{}")
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            return _response(400, _encoded({"error": "the body is no JSON object"}))
        return _response(*await asyncio.to_thread(made, lambda: act(asked)))

    server.routes.post(path)(handle)


def _server() -> Any:  # noqa: ANN401 (ComfyUI's PromptServer)
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


class Route:
    """One address. However many clients ask, one thread makes the answer, and they share it."""

    def __init__(self, answer: Callable[[], Mapping[str, Any]], keep: float = KEEP_SECONDS) -> None:
        """Nothing is made yet; see `add_route`."""
        self._answer, self._keep = answer, keep
        self._made: asyncio.Task[tuple[int, bytes]] | None = None
        self._when = 0.0

    async def handle(self, request: web.Request) -> web.Response:
        """The answer with its ETag; 304 for a client that has it already."""
        if self._made is None or (self._made.done() and time.monotonic() - self._when >= self._keep):
            self._made = asyncio.ensure_future(asyncio.to_thread(self._make))
        # Shielded: a client that goes away takes the answer from nobody else.
        status, body = await asyncio.shield(self._made)
        return _response(status, body, request)

    def _make(self) -> tuple[int, bytes]:
        try:
            return made(self._answer)
        finally:
            self._when = time.monotonic()


def made(answer: Callable[[], Mapping[str, Any]]) -> tuple[int, bytes]:
    """Status and JSON of an answer, within the bounds; what went wrong becomes a sentence, never a traceback."""
    try:
        return 200, bounded(answer())
    except LTX23Error as error:
        return 400, _encoded({"error": str(error)})
    except Exception:
        log.exception("an answer could not be made")
        return 500, _encoded({"error": "the server could not answer; its log says why"})


def bounded(answer: Mapping[str, Any]) -> bytes:
    """JSON of an object whose lists, and lists in tables, are cut off where they are too long; `LEFT_OUT` says so."""
    limit = MAX_ITEMS
    while True:
        left_out: dict[str, int] = {}
        cut = {name: _cut(name, value, limit, left_out) for name, value in answer.items()}
        body = _encoded({**cut, LEFT_OUT: left_out} if left_out else cut)
        if len(body) <= MAX_BYTES:
            return body
        if limit == 0:
            raise ValueError(f"an answer of {len(body)} bytes")
        limit //= 2


def _cut(name: str, value: Any, limit: int, left_out: dict[str, int]) -> Any:  # noqa: ANN401 (any JSON)
    if isinstance(value, Mapping):
        return {key: _cut(f"{name}.{key}", each, limit, left_out) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        if len(value) > limit:
            left_out[name] = len(value) - limit
        return [_cut(name, each, limit, {}) for each in value[:limit]]
    return spoken(value) if isinstance(value, str) else value


def _encoded(answer: Mapping[str, Any]) -> bytes:
    """JSON in ASCII: a name of a file may hold half a character, which no UTF-8 can."""
    return json.dumps(answer, separators=(",", ":")).encode("ascii")


def _response(status: int, body: bytes, request: web.Request | None = None) -> web.Response:
    from aiohttp import web

    tag = hashlib.sha256(body).hexdigest()[:32]
    headers = {"Cache-Control": "no-cache", "ETag": f'"{tag}"'}  # kept by the browser, asked for again
    known = (request is not None and request.if_none_match) or ()
    if status == 200 and any(each.value in (tag, "*") for each in known):
        return web.Response(status=304, headers=headers)
    return web.Response(status=status, body=body, headers=headers, content_type="application/json")
