"""Our addresses at ComfyUI's server, served by a real aiohttp: shared, bounded, with ETags, never a traceback."""
from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import ClientSession, web

from tests.support.node_modules import node_module, with_comfyui

server = node_module("nodes.host.server")
FAMILY = node_module("ltx23_core.errors")


class Asked:
    """A route whose answer is ready only when so many have asked for it."""

    def __init__(self, count: int, answer: Callable[[], object]) -> None:
        self.enough, self.left = threading.Event(), count
        self.answer, self.route = answer, server.Route(self.wait)

    def wait(self) -> object:
        assert self.enough.wait(60)
        return self.answer()

    async def handle(self, request: web.Request) -> web.Response:
        self.left -= 1
        if self.left == 0:
            asyncio.get_running_loop().call_soon(self.enough.set)  # once this one waits, too
        return await self.route.handle(request)


def served(route: object, use: Callable[[ClientSession, str], Awaitable[object]]) -> object:
    """Run `use` with a session and the address of a server with this one route."""
    async def run() -> object:
        app = web.Application()
        app.router.add_get("/x", route.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            async with ClientSession() as session:
                return await use(session, f"http://127.0.0.1:{runner.addresses[0][1]}/x")
        finally:
            await runner.cleanup()
    return asyncio.run(run())


def test_made_once_for_all_who_ask() -> None:
    made: list[str] = []

    def answer() -> dict[str, int]:
        made.append(threading.current_thread().name)
        return {"number": len(made)}

    async def use(session: ClientSession, url: str) -> list[int]:
        answers = await asyncio.gather(*(session.get(url) for _ in range(40)))
        return [(await each.json())["number"] for each in answers]

    assert served(Asked(40, answer), use) == [1] * 40
    assert len(made) == 1 and made[0] != threading.main_thread().name


def test_made_again_after_a_while() -> None:
    numbers = iter(range(10))

    async def use(session: ClientSession, url: str) -> list[int]:
        return [(await (await session.get(url)).json())["number"] for _ in range(3)]

    assert served(server.Route(lambda: {"number": next(numbers)}, 0), use) == [0, 1, 2]


def test_a_client_that_goes_away_takes_the_answer_from_nobody() -> None:
    """The first of two, while the answer that both wait for is being made."""
    asked = Asked(3, lambda: {"x": "y"})  # which nobody does: the test says when it is ready

    async def use(session: ClientSession, url: str) -> object:
        first = asyncio.ensure_future(session.get(url))
        while asked.left == 3:
            await asyncio.sleep(0.01)
        second = asyncio.ensure_future(session.get(url))
        while asked.left == 2:
            await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.2)  # the server hears of it
        asked.enough.set()
        return await (await second).json()

    assert served(asked, use) == {"x": "y"}


def test_etag() -> None:
    content = {"value": 1}

    async def use(session: ClientSession, url: str) -> None:
        first = await session.get(url)
        tag = first.headers["ETag"]
        assert first.headers["Cache-Control"] == "no-cache"
        for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
            again = await session.get(url, headers={"If-None-Match": known})
            assert again.status == 304 and again.headers["ETag"] == tag and await again.read() == b""
        assert (await session.get(url, headers={"If-None-Match": '"other"'})).status == 200
        content["value"] = 2
        changed = await session.get(url, headers={"If-None-Match": tag})
        assert changed.status == 200 and await changed.json() == {"value": 2} and changed.headers["ETag"] != tag

    served(server.Route(lambda: content, 0), use)


@pytest.mark.parametrize(("error", "status", "words"), [
    (FAMILY.RequestError("size is 1", "2", "Use 2."), 400, "size is 1. Expected: 2. Next: Use 2."),
    (OSError(2, "No such file", "/home/me/secret"), 500, "its log says why"),
    (KeyError("secret"), 500, "its log says why"),
])
def test_failures_are_sentences(error: Exception, status: int, words: str) -> None:
    def answer() -> dict[str, str]:
        raise error

    async def use(session: ClientSession, url: str) -> None:
        got = await session.get(url)
        text = await got.text()
        assert got.status == status and words in json.loads(text)["error"]
        assert "secret" not in text

    served(server.Route(answer), use)


def test_long_lists_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_ITEMS", 10)
    answer = {"files": [{"name": str(i)} for i in range(25)], "lists": {"lora": list(range(11)), "vae": [1]}, "n": 3}
    got = json.loads(server.bounded(answer))
    assert got == {"files": answer["files"][:10], "lists": {"lora": list(range(10)), "vae": [1]}, "n": 3,
                   "left_out": {"files": 15, "lists.lora": 1}}
    assert json.loads(server.bounded({"files": [1] * 10})) == {"files": [1] * 10}


def test_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_BYTES", 20_000)
    answer = {"files": ["x" * 100] * 1000}
    body = server.bounded(answer)
    got = json.loads(body)
    assert len(body) <= 20_000 and len(got["files"]) > 50 and len(got["files"]) + got["left_out"]["files"] == 1000
    status, body = server.made(lambda: {"text": "x" * 30_000})
    assert status == 500 and len(body) < 200


def test_half_a_character_in_a_name() -> None:
    assert json.loads(server.bounded({"files": ["\udcff.safetensors"]})) == {"files": ["\udcff.safetensors"]}


@pytest.mark.parametrize(("listen", "local"), [
    ("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.2.2.2,127.3.3.3", True), ("127.0.0.1, ::1", True),
    ("0.0.0.0,::", False), ("0.0.0.0", False), ("::", False), ("", False), ("192.168.1.5", False),
    ("127.0.0.1,192.168.1.5", False), ("127.0.0.1,", False), ("my-computer", False), ("127.0.0.1.evil.org", False),
])
def test_who_reaches_the_server(listen: str, local: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with_comfyui()
    access = node_module("nodes.host.access")
    monkeypatch.delenv(access.SWITCH, raising=False)
    monkeypatch.setattr(access.host_arguments, "listen", listen)
    assert access.is_local(listen) is local
    for value, allowed in ((None, local), ("", local), ("0", local), ("no", local), ("1", True), ("TRUE", True)):
        if value is not None:
            monkeypatch.setenv(access.SWITCH, value)
        if allowed:
            access.check_may_download()
        else:
            with pytest.raises(FAMILY.RequestError, match=access.SWITCH):
                access.check_may_download()
