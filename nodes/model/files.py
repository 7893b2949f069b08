"""What ComfyUI's model folders hold for the nodes: lists, names to files, and what auto chooses."""
from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...ltx23_core.errors import OverlayError
from ..checks import LONGEST_NAME
from ..host import folders, memory, server
from ..host.listed import LATELY, listed_name
from ..host.values import text_problem
from .inputs import AUTO, INPUTS, NONE, FileInput

if TYPE_CHECKING:
    from ...ltx23_core.overlay.manifest import Overlay
    from ...ltx23_core.overlay.shelf.choose import Choice
    from ...ltx23_core.overlay.shelf.shelf import Item, Shelf

LIST_SECONDS = 0.8  # what the page's own question waits for files that were never read
CHECK_SECONDS = 5.0  # the same before a run
UNREAD = "unread"


class NotThere(OverlayError):
    """An input names a file that no look finds."""


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
            self._shelf = self._shelf or Shelf(folders.kept_file("files.json"))
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
        names = names_of(INPUTS[key], self.known())
        LATELY.note(key, names)
        return names

    def find(self, key: str, name: str, items: Sequence[Item] | None = None) -> Item:
        """The file that an input names: one of those that a look finds, whatever else the name could point to.

        Raises:
            NotThere, OverlayError: it is not there; it is something else.
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
        text = f"{path} gone"
        with suppress(OSError):  # taken away since the look; whoever reads it will say so
            state = path.stat()
            text = f"{path} {state.st_size} {state.st_mtime_ns}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def choose(self, inputs: Mapping[str, str], wait: float | None = None,
               items: Sequence[Item] | None = None) -> Choice:
        """Files for the inputs, among those of a look that was made, or of a new one.

        Raises:
            OverlayError: a file is not there, is something else, or there is no transformer at all.
        """
        from ...ltx23_core.overlay.shelf.choose import choose

        if items is None:
            items = self.items(wait)
        choice = choose(items, self.wanted(inputs, items), memory.device_memory())
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
        wanted = self.wanted(inputs, items)
        budget = memory.device_memory()
        _check_there(choose(items, wanted, budget), items)
        clean(folders.model_folders("ltx23_overlays")[0])
        overlay, choice = _written(partial(assemble, items, wanted, budget, variant=variant), variant)
        return overlay, choice, items

    def wanted(self, inputs: Mapping[str, str], items: Sequence[Item]) -> dict[str, Item | str]:
        """What each input stands for: a file, "auto" or "none".

        Raises:
            OverlayError: a file is not there or is something else, or an input takes no "none".
        """
        wanted: dict[str, Item | str] = {}
        for key, name in inputs.items():
            if name == NONE and not INPUTS[key].none:
                raise OverlayError(f"{key} is none", f"{INPUTS[key].what}, or auto",
                                   "Choose auto, or a file of the list.")
            if isinstance(name, str) and name in (AUTO, NONE):
                wanted[key] = name
            else:
                wanted[key] = self.find(key, name, items)
        return wanted


def lost_of(inputs: Mapping[str, str], items: Sequence[Item]) -> dict[str, OverlayError]:
    """Inputs whose file cannot be had, and why."""
    lost = {}
    for key, name in inputs.items():
        try:
            FILES.wanted({key: name}, items)
        except OverlayError as error:
            lost[key] = error
    return lost


def unread(items: Sequence[Item]) -> bool:
    """Whether a look has not come to some files yet."""
    return any(item.identity.kind == UNREAD for item in items)


def names_of(wanted: FileInput, items: Sequence[Item]) -> list[str]:
    """Files that an input can take, the fitting LoRA first; those never read stand in the list of their folder."""
    first, others = [], []
    for item in items:
        if wanted.key in item.identity.brings and wanted.takes(item):
            first.append(item.name)
        elif wanted.takes(item) or (item.identity.kind == UNREAD and item.folder in wanted.folders):
            others.append(item.name)
    return list(dict.fromkeys(first + others))


def _not_there(wanted: FileInput, name: str, items: Sequence[Item]) -> NotThere:
    where = "models/" + " or models/".join(wanted.folders)
    have = ", ".join(names_of(wanted, items)[:5]) or "nothing that can be used"
    put = f"Put {Path(name).name or 'it'} into {where}"
    return NotThere(f"{wanted.key} is {name!r}, which is not in {where} (there: {have})",
                    f"{wanted.what}, in a file that is there",
                    f"{put}, press R to refresh the lists, or choose another one.")


def _of_no_use(wanted: FileInput, item: Item) -> OverlayError:
    who = item.identity
    fix = who.fix or "Choose another file, or auto."
    if who.usable and "transformer" in who.brings and wanted.is_part:
        fix = "Choose it as checkpoint."
    return OverlayError(f"{wanted.key} is {item.place}, which cannot be used there: {who.sentence}", wanted.what, fix)


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
    fix = f"Download {'; '.join(missing_lines(choice.missing, optional=False))}."
    fix = choice.unfinished.get("transformer", fix)
    raise OverlayError(f"checkpoint is auto and ComfyUI's model folders have no LTX-2.3 weights{others}",
                       "a checkpoint or transformer of LTX-2.3", f"{fix} Then press R.")


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
        needed[name] = needed_by(recipe.upscales, recipe.distils,
                                 variant=choice.variant, have=choice.brings)
    return {"files": [_described(item) for item in items],
            "lists": {key: names_of(each, items) for key, each in INPUTS.items()},
            "auto": {**auto, "upsampler": ", ".join(upsamplers)},
            "reasons": [*choice.reasons, *choice.notes],
            "missing": missing_lines(choice.missing, optional=False, unfinished=choice.unfinished),
            "needed": needed}


def _described(item: Item) -> dict[str, object]:
    """One file for the page."""
    who = item.identity
    return {"name": item.name, "folder": item.folder, "sentence": who.sentence, "usable": who.usable,
            "fix": who.fix}


server.add_route("/ltx23/files", overview)


def _written(assemble: Callable[..., tuple[Overlay, Choice]], variant: str) -> tuple[Overlay, Choice]:
    """The overlay, its manifest in the first folder that takes it; a note says where another one did not.

    Raises:
        OverlayError: none takes it, or as of `assemble`.
    """
    from ...ltx23_core.overlay.manifest import NotWritable

    refused: list[NotWritable] = []
    for folder in folders.manifest_folders():
        try:
            overlay, choice = assemble(
                output=lambda choice, folder=folder: folder / _manifest_name(choice, variant))
        except NotWritable as error:
            refused.append(error)
            continue
        if refused:
            choice.notes.append(f"{refused[0].found}: the description of the overlay lies in {folder}")
        return overlay, choice
    raise OverlayError(refused[0].found, "a folder that ComfyUI may write, with free space",
                       "Give ComfyUI write access to models/ltx23_overlays or to its user folder.")
