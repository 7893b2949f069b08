"""Several ComfyUI servers, one for each GPU, behind one address that speaks ComfyUI's own API.

    python pool.py --comfyui ComfyUI [--gpus 4] [--port 8188] [-- further options of ComfyUI]

Prompts that are queued here run on whichever server has least to do, so N prompts take N GPUs. The page, scripts and
other programs use the one address as they would a server: /prompt, /queue, /history, /interrupt, /view, /upload, /ws.
The servers share input, output and model folders; they end with this process. Runs in ComfyUI's Python (aiohttp).
"""
from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

try:
    import aiohttp
    from aiohttp import web
except ModuleNotFoundError:
    sys.exit(f"error: this Python ({sys.executable}) has no aiohttp. Expected: the Python of ComfyUI. "
             "Next: Start pool.py with that one.")

HOST = "127.0.0.1"
START_SECONDS = 300.0
ASK_SECONDS = 0.5
LARGEST = 1 << 30  # bytes of an upload, or of one message
HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "host", "content-length",
                 "content-encoding"})
# A child of this command ends when the pipe on its standard input does: whatever happens to this process.
GUARD = """
import os, runpy, sys, threading
def watch():
    sys.stdin.buffer.read()
    os._exit(1)
threading.Thread(target=watch, daemon=True).start()
sys.argv = sys.argv[1:]
sys.path.insert(0, os.getcwd())
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Backend:
    """One ComfyUI server.

    Args:
        comfyui: its folder.
        number: of its GPU; None: the options say where it computes.
        options: of its command line.
        folder: for its temporary files.
    """

    def __init__(self, comfyui: Path, number: int | None, options: Sequence[str], folder: Path) -> None:
        self.port = _free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.remaining = 0  # prompts that it has, as it said last or was given since
        command = [sys.executable, "-c", GUARD, "main.py", "--listen", HOST, "--port", str(self.port),
                   "--disable-auto-launch", "--temp-directory", str(folder), "--database-url", "sqlite:///:memory:"]
        if number is not None:
            command += ["--cuda-device", str(number)]
        self.process = subprocess.Popen([*command, *options], cwd=comfyui, stdin=subprocess.PIPE)

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


class Pool:
    """The address in front of some servers."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.backends = list(backends)
        self._owners: dict[str, Backend] = {}  # prompt id -> who has it
        self._session: aiohttp.ClientSession | None = None

    def application(self) -> web.Application:
        """All routes."""
        made = web.Application(client_max_size=LARGEST)
        made.cleanup_ctx.append(self._life)
        made.router.add_get("/ws", self._websocket)
        for prefix in ("", "/api"):
            made.router.add_post(f"{prefix}/prompt", self._queue_prompt)
            made.router.add_get(f"{prefix}/prompt", self._remaining)
            made.router.add_get(f"{prefix}/queue", self._queue)
            made.router.add_get(f"{prefix}/history", self._history)
            made.router.add_get(f"{prefix}/history/{{prompt}}", self._one_history)
            made.router.add_post(f"{prefix}/interrupt", self._interrupt)
            made.router.add_get(f"{prefix}/view", self._first_that_has)
            for name in ("queue", "history", "free"):
                made.router.add_post(f"{prefix}/{name}", self._everybody)
        made.router.add_route("*", "/{rest:.*}", self._anybody)
        return made

    async def _life(self, _: web.Application) -> Any:  # noqa: ANN401
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        yield
        await self._session.close()

    async def wait(self) -> None:
        """Until every server answers; a server that ends ends this process."""
        async with aiohttp.ClientSession() as session:
            for backend in self.backends:
                end = asyncio.get_running_loop().time() + START_SECONDS
                while not await _answers(session, backend):
                    if backend.process.poll() is not None or asyncio.get_running_loop().time() > end:
                        raise SystemExit(f"The server on port {backend.port} did not start; its log stands above.")
                    await asyncio.sleep(ASK_SECONDS)

    # -- prompts -----------------------------------------------------------------------------------------------------
    async def _queue_prompt(self, request: web.Request) -> web.StreamResponse:
        living = [each for each in self.backends if each.process.poll() is None]
        if not living:
            return web.json_response({"error": {"message": "no ComfyUI server is left", "type": "pool"}}, status=503)
        backend = min(living, key=lambda each: each.remaining)
        backend.remaining += 1
        status, headers, body = await self._asked(backend, request, await request.read())
        if status == 200:
            self._owners[json.loads(body)["prompt_id"]] = backend
        else:
            backend.remaining -= 1
        return web.Response(status=status, headers=headers, body=body)

    async def _remaining(self, request: web.Request) -> web.Response:
        told = await self._from_all(request)
        total = sum(each["exec_info"]["queue_remaining"] for each in told)
        return web.json_response({"exec_info": {"queue_remaining": total}})

    async def _queue(self, request: web.Request) -> web.Response:
        made: dict[str, list] = {"queue_running": [], "queue_pending": []}
        for each in await self._from_all(request):
            for name, entries in made.items():
                entries += each[name]
        return web.json_response(made)

    async def _history(self, request: web.Request) -> web.Response:
        made: dict[str, Any] = {}
        for each in await self._from_all(request):
            made |= each
        return web.json_response(made)

    async def _one_history(self, request: web.Request) -> web.StreamResponse:
        owner = self._owners.get(request.match_info["prompt"])
        if owner is None:
            return await self._history(request)
        return await self._passed_on(owner, request)

    async def _interrupt(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked = None
        if body:
            asked = json.loads(body).get("prompt_id")
        if asked in self._owners:
            return await self._passed_on(self._owners[asked], request, body)
        return await self._everybody(request)

    # -- everything else ---------------------------------------------------------------------------------------------
    async def _everybody(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        answers = [await self._asked(each, request, body) for each in self.backends]
        status, headers, text = answers[0]
        return web.Response(status=status, headers=headers, body=text)

    async def _first_that_has(self, request: web.Request) -> web.StreamResponse:
        """Results lie in one folder for all; previews in one of each."""
        for backend in self.backends:
            status, headers, body = await self._asked(backend, request, b"")
            if status == 200:
                break
        return web.Response(status=status, headers=headers, body=body)

    async def _anybody(self, request: web.Request) -> web.StreamResponse:
        return await self._passed_on(self.backends[0], request)

    async def _passed_on(self, backend: Backend, request: web.Request, body: bytes | None = None) -> web.Response:
        if body is None:
            body = await request.read()
        status, headers, text = await self._asked(backend, request, body)
        return web.Response(status=status, headers=headers, body=text)

    async def _asked(self, backend: Backend, request: web.Request,
                     body: bytes) -> tuple[int, dict[str, str], bytes]:
        """One server's answer."""
        given = _without_hops(request.headers.items())
        given["Origin"] = backend.url  # it refuses pages of another address
        async with self._session.request(request.method, backend.url + request.path_qs, headers=given, data=body,
                                         allow_redirects=False) as answer:
            return answer.status, _without_hops(answer.headers.items()), await answer.read()

    async def _from_all(self, request: web.Request) -> list[Any]:
        found = await asyncio.gather(*(self._asked(each, request, b"") for each in self.backends))
        return [json.loads(body) for _, _, body in found]

    # -- what happens ------------------------------------------------------------------------------------------------
    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        """One client hears every server, under its own id."""
        client = web.WebSocketResponse(max_msg_size=LARGEST)
        await client.prepare(request)
        ends = [await self._session.ws_connect(each.url + request.path_qs, max_msg_size=LARGEST,
                                               headers={"Origin": each.url}) for each in self.backends]
        listening = [asyncio.create_task(self._forward(end, backend, client))
                     for end, backend in zip(ends, self.backends, strict=True)]
        try:
            async for message in client:
                if message.type == aiohttp.WSMsgType.TEXT:
                    for end in ends:
                        await end.send_str(message.data)
        finally:
            for task in listening:
                task.cancel()
            for end in ends:
                await end.close()
        return client

    async def _forward(self, end: aiohttp.ClientWebSocketResponse, backend: Backend,
                       client: web.WebSocketResponse) -> None:
        async for message in end:
            if message.type == aiohttp.WSMsgType.BINARY:
                await client.send_bytes(message.data)
            elif message.type == aiohttp.WSMsgType.TEXT:
                await client.send_str(self._rewritten(message.data, backend))

    def _rewritten(self, text: str, backend: Backend) -> str:
        """What a server says; how much is left is said for all."""
        told = json.loads(text)
        if told.get("type") != "status":
            return text
        information = told["data"].get("status", {}).get("exec_info")
        if information is not None:
            backend.remaining = information["queue_remaining"]
            information["queue_remaining"] = sum(each.remaining for each in self.backends)
        return json.dumps(told)


def _without_hops(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers that belong to the message and not to the connection."""
    return {name: value for name, value in headers if name.lower() not in HOP}


async def _answers(session: aiohttp.ClientSession, backend: Backend) -> bool:
    try:
        async with session.get(backend.url + "/system_stats") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def _gpus() -> int:
    """How many there are, asked of a process that ends: here no device is to be opened."""
    ask = "import torch; print(torch.cuda.device_count())"
    return int(subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout)


async def serve(pool: Pool, listen: str, port: int) -> None:
    """Run until a signal ends it."""
    await pool.wait()
    runner = web.AppRunner(pool.application())
    await runner.setup()
    await web.TCPSite(runner, listen, port).start()
    print(f"{len(pool.backends)} ComfyUI servers behind http://{listen}:{port}", flush=True)
    end = asyncio.Event()
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), lambda *_: end.set())
    while not end.is_set():  # a signal alone does not wake every platform's loop
        await asyncio.sleep(ASK_SECONDS)
    await runner.cleanup()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, default=Path(__file__).resolve().parents[2], metavar="DIR",
                        help="ComfyUI's folder (default: the one that this pack lies in)")
    parser.add_argument("--gpus", default="auto", metavar="N", help="servers, one a GPU (default: all GPUs)")
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("--listen", default=HOST, metavar="ADDRESS",
                        help=f"address to answer at (default: {HOST}, this computer alone)")
    parser.add_argument("options", nargs="*", help="behind --: options of every ComfyUI server, such as --lowvram")
    args = parser.parse_args()
    if not (args.comfyui / "main.py").exists():
        sys.exit(f"{args.comfyui} is no ComfyUI folder: give it with --comfyui.")
    count = _gpus() if args.gpus == "auto" else int(args.gpus)
    if count < 1:
        sys.exit("No GPU is there: give --gpus N and where to compute behind --, such as --cpu.")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        backends = []
        try:
            for number in range(count):
                device = None if "--cpu" in args.options else number
                backends.append(Backend(args.comfyui, device, args.options, Path(folder) / str(number)))
            asyncio.run(serve(Pool(backends), args.listen, args.port))
        finally:
            for backend in backends:
                backend.stop()


if __name__ == "__main__":
    main()
