"""The command fetch: apart from `generate`, because downloading needs no torch."""
from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from tqdm import tqdm

from ..errors import RequestError
from ..hub.catalogue import table
from ..hub.fetch import fetch as fetch_files
from ..hub.request import Request, parse


def fetch(options: Namespace) -> None:
    """Print the catalogue, or download; the results go to standard output, one a line."""
    if options.list:
        print(table())
        return
    requests = list(dict.fromkeys(map(parse, options.names)))
    with tqdm(unit="B", unit_scale=True, unit_divisor=1000, disable=options.quiet, delay=0.2, leave=False) as bar:
        def on_progress(done: int, total: int, name: str) -> None:
            bar.total = total
            bar.set_description(name, refresh=False)
            bar.update(done - bar.n)

        results = fetch_files([(request, _root(request, options)) for request in requests], on_progress)
    for result in results:
        print(result.line)


def _root(request: Request, options: Namespace) -> Path | None:
    """The folder that a request goes to."""
    if options.comfyui is None:
        return options.to
    folder = request.folder or options.folder
    if not folder:
        raise RequestError(f"{request.name} may belong in any of ComfyUI's folders", "the name of one",
                           "Add --folder, for example --folder loras.")
    models = options.comfyui / "models"
    if not models.is_dir():
        raise RequestError(f"{options.comfyui} has no folder models", "the folder that ComfyUI's main.py is "
                                                                      "in",
                           "Name that one, or use --to.")
    if not Path(folder).name == folder or folder in (".", ".."):
        raise RequestError(f"--folder is {folder!r}", "the name of a folder in "
                                                      "models/", "Use loras, for example.")
    return models / folder
