"""`/ltx23/get`: what is missing for what the page shows, and the download of it in the background, one at a time."""
from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ...ltx23_core.errors import LTX23Error, RequestError
from ..host import access, folders, memory, places, server
from .files import FILES

if TYPE_CHECKING:
    from ...ltx23_core.hub.shopping import Basket

RECIPE_NEEDS = ("upsampler_x2", "distilled_lora")  # fetched too where the page asks for them


class Stopped(Exception):
    """The user stopped a download."""


class Getter:
    """One download at a time, in a thread; what it does can be asked at any moment."""

    def __init__(self) -> None:
        """Nothing runs."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._done = self._total = 0
        self._name = self._said = ""

    def state(self) -> dict[str, Any]:
        """For the page: whether it runs, bytes done and in all, the file, and how the last one ended."""
        running = self._thread is not None and self._thread.is_alive()
        return {"running": running, "done": self._done, "total": self._total, "name": self._name, "said": self._said}

    def start(self, basket: Basket) -> None:
        """Begin.

        Raises:
            RequestError: another one runs.
        """
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                raise RequestError("a download runs already", "one at a time", "Wait for it, or stop it.")
            self._stop.clear()
            self._done = self._total = 0
            self._name = self._said = ""
            self._thread = threading.Thread(target=self._run, args=(basket,), name="ltx23-get", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop soon; what has arrived is kept."""
        self._stop.set()

    def _run(self, basket: Basket) -> None:
        from ...ltx23_core.hub.shopping import get

        try:
            self._said = "; ".join(places.for_clients(each.line) for each in get(basket, self._tick))
        except Stopped:
            self._said = "Stopped. What has arrived is kept; the next download goes on from there."
        except LTX23Error as error:
            self._said = str(error)
        except Exception:
            server.log.exception("a download failed")
            self._said = "The download failed; the server's log says why."

    def _tick(self, done: int, total: int, name: str) -> None:
        self._done, self._total, self._name = done, total, name
        if self._stop.is_set():
            raise Stopped


GETTER = Getter()


def _basket(components: Iterable[str]) -> Basket:
    """What auto misses, and of `RECIPE_NEEDS` what is named."""
    from ...ltx23_core.hub.shopping import basket_of
    from ...ltx23_core.overlay.downloads import DOWNLOADS, OPTIONAL
    from ...ltx23_core.overlay.shelf.choose import choose

    choice = choose(FILES.items(), {}, memory.device_memory())
    named = set(components)
    entries = []
    for name in choice.missing:
        if name not in OPTIONAL or name in named:
            entry, _ = DOWNLOADS[name]
            entries.append(entry)
    return basket_of(entries, folders.model_folders)


def _described(basket: Basket) -> dict[str, Any]:
    files = []
    for wanted in basket.files:
        files.append({"name": wanted.request.name, "size": wanted.size, "folder": f"models/{wanted.entry.folder}",
                      "address": wanted.address, "gated": wanted.entry.gated, "there": wanted.there is not None})
    return {"files": files, "size": basket.size, "free": basket.free, "reserved": basket.reserved,
            "fits": basket.fits}


def overview() -> dict[str, Any]:
    """For the page: what can be fetched, the room for it, whether this server may, and what runs."""
    refused = ""
    try:
        access.check_may_download()
    except RequestError as error:
        refused = str(error)
    return {**_described(_basket(RECIPE_NEEDS)), "refused": refused, **GETTER.state()}


def act(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Start ({"action": "start", "components": [...]}) or stop ({"action": "stop"}); gives the state.

    Raises:
        RequestError: this server may not, one runs already, or nothing of that is missing.
    """
    action, components = asked.get("action"), asked.get("components", [])
    if action == "stop":
        GETTER.stop()
        return GETTER.state()
    if action != "start" or not isinstance(components, list) or not set(map(str, components)) <= set(RECIPE_NEEDS):
        raise RequestError("the request names no "
                           "download", f"start, with components of {', '.join(RECIPE_NEEDS)}",
                           "Use the button.")
    access.check_may_download()
    basket = _basket(map(str, components))
    if not basket.size:
        raise RequestError("nothing is missing", "a file to fetch", "Press R, so that the lists show it.")
    GETTER.start(basket)
    return GETTER.state()


def serve() -> None:
    """Add the addresses to ComfyUI's server."""
    server.add_route("/ltx23/get", overview, keep=0)
    server.add_command("/ltx23/get", act)
