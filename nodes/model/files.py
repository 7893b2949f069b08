"""What ComfyUI's model folders hold for the nodes: lists, names to files, and what auto chooses."""
from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...ltx23_core.errors import OverlayError
from ..checks import LONGEST_NAME
from ..host import folders, memory, server
from ..host.listed import listed_name
from ..host.values import text_problem
from .inputs import AUTO, INPUTS, NONE, FileInput

if TYPE_CHECKING:
    from ...ltx23_core.overlay.manifest import Overlay
    from ...ltx23_core.overlay.shelf.choose import Choice
    from ...ltx23_core.overlay.shelf.shelf import Item, Shelf

LIST_SECONDS = 0.8  # what the page's own question waits for files that were never read
CHECK_SECONDS = 5.0  # the same before a run
UNREAD = "unread"


class Files:
    """The model folders, looked at for all nodes together; safe to use from several threads.

    Lists are what the last look found: building a schema, which ComfyUI does on the thread of its server, touches no
    folder and waits for nobody. It asks for a new look, which a thread of its own makes.
    """

    def __init__(self) -> None:
        """Nothing is looked at yet."""
        self._lock = threading.Lock()
        self._shelf: Shelf | None = None
        self._starting: threading.Thread | None = None

    def _opened(self) -> Shelf:
        from ...ltx23_core.overlay.shelf.shelf import Shelf

        with self._lock:
            self._shelf = self._shelf or Shelf(folders.manifest_path("files.json"))
            return self._shelf

    def items(self, wait: float | None = None) -> list[Item]:
        """Everything in the model folders; files not read within so many seconds have the kind "unread"."""
        return self._opened().look(folders.model_roots(), wait)

    def known(self) -> list[Item]:
        """What the last look found; asks for another one and does not wait for it."""
        if self._shelf is not None:
            self._shelf.look(folders.model_roots(), 0)
            return self._shelf.known()
        with self._lock:
            if self._starting is None:  # the code for looking is imported there, too
                self._starting = threading.Thread(target=self.items, args=(0,), name="ltx23-start", daemon=True)
                self._starting.start()
        return []

    def names(self, key: str) -> list[str]:
        """The list of one input, of what the last look found."""
        return names_of(INPUTS[key], self.known())

    def find(self, key: str, name: str, items: Sequence[Item] | None = None) -> Item:
        """The file that an input names: one of those that a look finds, whatever else the name could point to.

        Raises:
            OverlayError: it is not there, or is something else.
        """
        wrong = text_problem(key, name, LONGEST_NAME)
        if wrong is not None:
            raise OverlayError(*wrong)
        wanted, name = INPUTS[key], listed_name(name, key)
        if items is None:
            items = self.items(CHECK_SECONDS)
        wrong_item = None
        for item in items:
            if item.name != name:
                continue
            there = self._read(item)
            if wanted.takes(there):
                return there
            wrong_item = wrong_item or there
        if wrong_item is not None:
            raise _of_no_use(wanted, wrong_item)
        raise _not_there(wanted, name, items)

    def _read(self, item: Item) -> Item:
        """The same item, read if the look had not come to it."""
        if item.identity.kind != UNREAD:
            return item
        from ...ltx23_core.overlay.shelf.identify import identify
        from ...ltx23_core.overlay.shelf.shelf import Item

        return Item(item.folder, item.name, identify(item.identity.path, self._opened().memory))

    def fingerprint(self, key: str, name: str) -> str:
        """Stands for path, size and time of the file that an input names; hashed, since ComfyUI saves it."""
        path = self.find(key, name).identity.path
        state = path.stat()
        text = f"{path} {state.st_size} {state.st_mtime_ns}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def choose(self, inputs: Mapping[str, str], wait: float | None = None) -> Choice:
        """Files for the inputs.

        Raises:
            OverlayError: a file is not there, is something else, or there is no transformer at all.
        """
        from ...ltx23_core.overlay.shelf.choose import choose

        items = self.items(wait)
        choice = choose(items, self._wanted(inputs, items), memory.device_memory())
        _check_there(choice, items)
        return choice

    def assemble(self, inputs: Mapping[str, str], variant: str) -> tuple[Overlay, Choice, list[Item]]:
        """The overlay of the files for the inputs, the choice, and everything that is there.

        Raises:
            OverlayError: as of `choose`, or files that were asked for do not fit.
        """
        from ...ltx23_core.overlay.clean import clean
        from ...ltx23_core.overlay.shelf.assemble import assemble
        from ...ltx23_core.overlay.shelf.choose import choose

        items = self.items()
        wanted = self._wanted(inputs, items)
        budget = memory.device_memory()
        _check_there(choose(items, wanted, budget), items)
        clean(folders.model_folders("ltx23_overlays")[0])
        overlay, choice = assemble(
            items, wanted, budget,
            output=lambda choice: folders.manifest_path(_manifest_name(choice, variant)),
            variant=variant)
        return overlay, choice, items

    def _wanted(self, inputs: Mapping[str, str], items: Sequence[Item]) -> dict[str, Item | str]:
        wanted: dict[str, Item | str] = {}
        for key, name in inputs.items():
            if isinstance(name, str) and name in (AUTO, NONE):
                wanted[key] = name
            else:
                wanted[key] = self.find(key, name, items)
        return wanted


def names_of(wanted: FileInput, items: Sequence[Item]) -> list[str]:
    """Files that an input can take, the fitting LoRA first; those never read stand in the list of their folder."""
    first, others = [], []
    for item in items:
        if wanted.key in item.identity.brings and wanted.takes(item):
            first.append(item.name)
        elif wanted.takes(item) or (item.identity.kind == UNREAD and item.folder in wanted.folders):
            others.append(item.name)
    return list(dict.fromkeys(first + others))


def _not_there(wanted: FileInput, name: str, items: Sequence[Item]) -> OverlayError:
    where = "models/" + " or models/".join(wanted.folders)
    have = ", ".join(names_of(wanted, items)[:5]) or "nothing that can be used"
    put = f"Put {Path(name).name or 'it'} into {where}"
    return OverlayError(f"file {name!r} is not in {where} (there: {have})",
                        f"{wanted.what}, in a file that is there",
                        f"{put}, press R to refresh the lists, or choose another one.")


def _of_no_use(wanted: FileInput, item: Item) -> OverlayError:
    who = item.identity
    fix = who.fix or "Choose another file, or auto."
    if who.usable and "transformer" in who.brings and wanted.is_part:
        fix = "Choose it as checkpoint."
    return OverlayError(f"{item.place} cannot be used as {wanted.key}: {who.sentence}", wanted.what, fix)


def _manifest_name(choice: Choice, variant: str) -> str:
    paths = sorted(f"{role}={item.identity.path}" for role, item in choice.files.items())
    digest = hashlib.sha256("\n".join([*paths, variant]).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{choice.files['checkpoint'].identity.path.stem}-{digest}.ltx23.json"


def _check_there(choice: Choice, items: Sequence[Item]) -> None:
    """Refuse to go on where no file brings a transformer."""
    from ...ltx23_core.overlay.downloads import missing_lines

    if "checkpoint" in choice.files:
        return
    left_out = []
    for item in items:
        if item.identity.kind == UNREAD:
            return
        if not item.identity.usable:
            left_out.append(f"{item.name} ({item.identity.sentence})")
    others = ""
    if left_out:
        others = f" (left out: {'; '.join(left_out[:3])})"
    raise OverlayError(f"there are no LTX-2.3 weights in ComfyUI's model folders{others}",
                       "a checkpoint or transformer of LTX-2.3",
                       f"Download {'; '.join(missing_lines(choice.missing, optional=False))}. Then press R.")


FILES = Files()


def overview() -> dict[str, object]:
    """For the page: the sentence of every file, by name, the lists of all inputs, and what auto would take."""
    from ...ltx23_core.overlay.downloads import UPSAMPLERS, missing_lines, needed_by
    from ...ltx23_core.overlay.shelf.choose import ROLES, choose
    from ...ltx23_core.plan.recipes import RECIPES

    items = FILES.items(LIST_SECONDS)
    choice = choose(items, {}, memory.device_memory())
    auto, upsamplers = {}, []
    for role, item in choice.files.items():
        if role in ROLES:
            auto[role] = item.name
        if role in UPSAMPLERS:
            upsamplers.append(item.name)
    needed = {}
    for name, recipe in RECIPES.items():
        needed[name] = needed_by(recipe.upscales, any(stage.lora for stage in recipe.stages),
                                 variant=choice.variant, have=choice.brings)
    return {"files": [_described(item) for item in items],
            "lists": {key: names_of(each, items) for key, each in INPUTS.items()},
            "auto": {**auto, "upsampler": ", ".join(upsamplers)},
            "reasons": [*choice.reasons, *choice.notes],
            "missing": missing_lines(choice.missing, optional=False),
            "needed": needed}


def _described(item: Item) -> dict[str, object]:
    """One file for the page."""
    who = item.identity
    return {"name": item.name, "folder": item.folder, "sentence": who.sentence, "usable": who.usable,
            "fix": who.fix}


server.add_route("/ltx23/files", overview)
