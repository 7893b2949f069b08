"""What the command `export` does."""
from __future__ import annotations

from argparse import Namespace

from tqdm import tqdm

from ..save import export as write_files


def export(options: Namespace) -> None:
    """Write the files of a layout and print what they are."""
    with tqdm(desc="Exporting", unit="B", unit_scale=True, delay=0.5, disable=options.quiet) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = write_files(options.overlay, options.layout, options.output,
                             weight_dtype=options.weight_dtype, device=options.device,
                             verify=not options.no_verify, progress=show)
    print(report)
