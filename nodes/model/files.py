"""What ComfyUI's model folders hold for the Overlay node: lists, names to files, and what auto chooses."""
from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ...ltx23_core.errors import OverlayError
from ..checks import LONGEST_NAME
from ..host import folders, memory, server
from ..host.values import text_problem

if TYPE_CHECKING:
    from ...ltx23_core.overlay.shelf.choose import Choice
    from ...ltx23_core.overlay.shelf.remembered import Memory
    from ...ltx23_core.overlay.shelf.shelf import Item, Shelf

AUTO, NONE = "auto", "none"

# Input -> (component that its file must bring, ComfyUI's folders for it, what it is called in messages).
INPUTS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "checkpoint": ("transformer", ("checkpoints", "diffusion_models"), "the transformer of LTX-2.3"),
    "text_encoder": ("text_encoder", ("text_encoders",), "Gemma 3 12B"),
    "upsampler": ("upsampler", ("latent_upscale_models",), "a latent upscaler of LTX-2.3"),
    "distilled_lora": ("lora", ("loras",), "a LoRA for LTX-2.3"),
    "lora": ("lora", ("loras",), "a LoRA for LTX-2.3"),
    "text_projection": ("text_projection", ("text_encoders", "checkpoints"), "the text projection of LTX-2.3"),
    "video_vae": ("video_decoder", ("vae", "checkpoints"), "the video VAE of LTX-2.3"),
    "audio_vae": ("audio_decoder", ("vae", "checkpoints"), "the audio VAE of LTX-2.3"),
}
PARTS = ("text_projection", "video_vae", "audio_vae")  # inputs for files without a transformer
LIST_SECONDS = 0.8  # what a page that asks for the lists waits for files that were never read
CHECK_SECONDS = 5.0  # the same before a run
KEEP_SECONDS = 1.0  # lists are asked for several times in a row


class Files:
    """The model folders, looked at once and for all nodes; safe to use from several threads.

    ComfyUI builds every schema while it starts. That first time nothing is looked at, nor is the code for it imported:
    the lists are made when a page, a prompt or a test first asks.
    """

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._lock = threading.Lock()
        self._shelf: Shelf | None = None
        self._items: list[Item] = []
        self._when = -KEEP_SECONDS
        self._schemas: dict[str, int] = {}
        self._starting = True

    def begin(self, node: str) -> None:
        """Say that a node's schema is being built; each node's first one is that of the start."""
        self._schemas[node] = self._schemas.get(node, 0) + 1
        self._starting = self._schemas[node] == 1

    def items(self, wait: float | None = None) -> list[Item]:
        """Everything in the model folders; files not read within so many seconds have the kind "unread"."""
        from ...ltx23_core.overlay.shelf.shelf import Shelf

        with self._lock:
            self._shelf = shelf = self._shelf or Shelf(folders.manifest_path("files.json"))
        return shelf.look(folders.model_roots(), wait)

    def recent(self) -> list[Item]:
        """The same for lists, at most a second old."""
        if time.monotonic() - self._when >= KEEP_SECONDS:
            self._items = self.items(LIST_SECONDS)
            self._when = time.monotonic()
        return self._items

    def names(self, key: str) -> list[str]:
        """The list of one input: files that can be used there; those never read stand in the list of their folder."""
        if self._starting and self._shelf is None:
            return []
        part, places, _ = INPUTS[key]
        found = [item for item in self.recent() if fits_input(key, item) or (
            item.identity.kind == "unread" and item.folder in places)]
        first = [item.name for item in found if key == "distilled_lora" and "distilled_lora" in item.identity.brings]
        return list(dict.fromkeys([*first, *(item.name for item in found)]))

    def find(self, key: str, name: str) -> Item:
        """The file that an input names.

        Raises:
            OverlayError: it is not there, or is something else.
        """
        from ...ltx23_core.overlay.shelf.identify import identify
        from ...ltx23_core.overlay.shelf.shelf import Item

        wrong = text_problem(key, name, LONGEST_NAME)
        if wrong is not None:
            raise OverlayError(*wrong)
        name = name.replace("\\", "/")
        part, places, what = INPUTS[key]
        inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts and name != ""
        there = [Item(folder, name, identify(root / name, self._memory())) for folder, root in folders.model_roots()
                 if inside and _exists(root / name)]
        if not there:
            where = " or ".join(f"models/{folder}" for folder in places)
            have = ", ".join(self.names(key)[:5]) or "nothing that can be used"
            raise OverlayError(f"file {name!r} is not in {where} (there: {have})", f"{what}, in a file that is there",
                               f"Put {Path(name).name or 'it'} into {where}, press R to refresh the lists, or choose "
                               "another one.")
        fitting = next((item for item in there if fits_input(key, item)), None)
        if fitting is None:
            who = there[0].identity
            if who.usable and "transformer" in who.brings and key in PARTS:
                fix = "Choose it as checkpoint."
            else:
                fix = who.fix or "Choose another file, or auto."
            raise OverlayError(f"{there[0].place} cannot be used as {key}: {who.sentence}", what, fix)
        return fitting

    def fingerprint(self, key: str, name: str) -> str:
        """Stands for path, size and time of the file that an input names; hashed, since ComfyUI saves it."""
        path = self.find(key, name).identity.path
        state = path.stat()
        text = f"{path} {state.st_size} {state.st_mtime_ns}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def choose(self, inputs: Mapping[str, str], wait: float | None = None) -> tuple[Choice, list[Item]]:
        """Files for the inputs, and everything that is there.

        Raises:
            OverlayError: a file is not there, is something else, or there is no transformer at all.
        """
        from ...ltx23_core.overlay.shelf.choose import choose
        from ...ltx23_core.overlay.shelf.downloads import how_to_get

        wanted = {key: self.find(key, name) if not isinstance(name, str) or name not in (AUTO, NONE) else name
                  for key, name in inputs.items()}
        items = self.items(wait)
        choice = choose(items, wanted, memory.device_memory())
        if "checkpoint" not in choice.files and not any(item.identity.kind == "unread" for item in items):
            left_out = [f"{item.name} ({item.identity.sentence})" for item in items if not item.identity.usable]
            raise OverlayError(
                "there are no LTX-2.3 weights in ComfyUI's model folders"
                + (f" (left out: {'; '.join(left_out[:3])})" if left_out else ""),
                "a checkpoint or transformer of LTX-2.3", f"Download {how_to_get('transformer')}, then press R.")
        return choice, items

    def _memory(self) -> Memory | None:
        return self._shelf.memory if self._shelf else None


def _exists(path: Path) -> bool:
    """Whether there is such a file; a name that the file system does not take is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def fits_input(key: str, item: Item) -> bool:
    """Whether a file can be chosen for an input."""
    brings = item.identity.brings
    part = INPUTS[key][0]
    return item.identity.usable and any(name.startswith(part) for name in brings) and not (
        key in (*PARTS, "upsampler") and "transformer" in brings)


FILES = Files()


def overview() -> dict[str, object]:
    """For the page: the sentence of every file, by name, and what auto would take."""
    from ...ltx23_core.overlay.shelf.choose import ROLES, choose
    from ...ltx23_core.overlay.shelf.downloads import OPTIONAL, UPSAMPLERS, missing_lines

    items = FILES.recent()
    choice = choose(items, {}, memory.device_memory())
    return {"files": [{"name": item.name, "folder": item.folder, "sentence": item.identity.sentence,
                       "usable": item.identity.usable, "fix": item.identity.fix} for item in items],
            "auto": {role: item.name for role, item in choice.files.items() if role in ROLES}
            | {"upsampler": ", ".join(item.name for role, item in choice.files.items() if role in UPSAMPLERS)},
            "reasons": choice.reasons,
            "missing": missing_lines(name for name in choice.missing if name not in OPTIONAL)}


server.add_route("/ltx23/files", overview)
