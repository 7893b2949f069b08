"""Addresses of our own at ComfyUI's server."""
from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any


def add_route(path: str, answer: Callable[[], Any]) -> None:
    """Serve JSON at an address of ComfyUI's server; nothing happens where there is none (unit tests)."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is None:
        return
    from aiohttp import web  # which a server has loaded

    async def handle(_: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(answer))

    server.routes.get(path)(handle)
