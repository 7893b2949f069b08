"""`/ltx23/get`: what is missing for what the page shows, and the download of it in the background, one at a time."""
from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
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


def _basket(components: Iterable[str], files: Iterable[str] = ()) -> Basket:
    """What auto misses, of `RECIPE_NEEDS` what is named, and files of the catalogue by their names."""
    from ...ltx23_core.hub.catalogue import CATALOGUE
    from ...ltx23_core.hub.shopping import basket_of
    from ...ltx23_core.overlay.downloads import DOWNLOADS, OPTIONAL
    from ...ltx23_core.overlay.shelf.choose import choose

    choice = choose(FILES.items(), {}, memory.device_memory())
    named = set(components)
    entries = []
    for name in choice.missing:
        entry, _ = DOWNLOADS[name]
        broken = choice.broken.get(name)
        if broken is not None and Path(broken.name).name != Path(entry.path).name:
            continue  # that file is to be completed; it is cheaper than another one
        if name not in OPTIONAL or name in named:
            entries.append(entry)
    wanted = {name.rpartition("/")[2] for name in files}
    for entry in CATALOGUE:
        if entry.path and entry.path.rpartition("/")[2] in wanted:
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
    return _shown(_basket(RECIPE_NEEDS))


def _shown(basket: Basket) -> dict[str, Any]:
    refused = ""
    try:
        access.check_may_download()
    except RequestError as error:
        refused = str(error)
    return {**_described(basket), "refused": refused, **GETTER.state()}


def act(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the page asks for: {"action": "look" | "start" | "stop", "components": [...], "files": [...]}.

    look: `overview` of what a graph needs; start: fetch that. Components are of `RECIPE_NEEDS`, files are names that
    the catalogue knows; others are passed over.

    Raises:
        RequestError: this server may not, one runs already, or nothing of that is missing.
    """
    action = asked.get("action")
    if action == "stop":
        GETTER.stop()
        return GETTER.state()
    components = list(map(str, asked.get("components") or ()))
    files = list(map(str, asked.get("files") or ()))
    if action not in ("look", "start") or not set(components) <= set(RECIPE_NEEDS):
        raise RequestError("the request names no "
                           "download", f"look, start or stop, with components of {', '.join(RECIPE_NEEDS)}",
                           "Use the button.")
    basket = _basket(components, files)
    if action == "look":
        return _shown(basket)
    access.check_may_download()
    if not basket.missing:
        raise RequestError("nothing is missing", "a file to fetch", "Press R, so that the lists show it.")
    GETTER.start(basket)
    return GETTER.state()


def serve() -> None:
    """Add the addresses to ComfyUI's server."""
    server.add_route("/ltx23/get", overview, keep=0)
    server.add_command("/ltx23/get", act)
