"""The outputs of `bench/speed.sh` as rows of docs/performance.md, each beside its target of issue 10, and the ways.

    python -m bench targets OUT/one.txt [OUT/ends.txt]

Reads the tables that the steps print; of a step that was cut short, the rows that it printed as they came.
"""
from __future__ import annotations

import argparse
import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

from .end_to_end import HEAD as RUN_HEAD
from .measure import table

Row = Mapping[str, str]

# Size and what: against the peer at least, GiB at most. Stated for an H100, as all of these.
FORWARDS = {
    ("a", "ours"): (1.17, 36.0), ("b", "ours"): (1.14, 36.8), ("c", "ours"): (1.08, 38.7),
    ("a", "fp8"): (1.6, 21.0), ("b", "fp8"): (1.5, 22.0), ("c", "fp8"): (1.3, 24.0),
    ("a", "guided step, ours"): (1.36, None), ("c", "guided step, ours"): (1.25, None),
    ("a", "guided step, fp8"): (1.9, None), ("c", "guided step, fp8"): (1.6, None),
}
RUNS = {("a", "one_stage", "default"): 34.0, ("a", "one_stage", "fp8"): 23.0,
        ("c", "distilled", "default"): 16.0, ("c", "distilled", "fp8"): 11.0}  # seconds at most
HELD, DECODE, TOKENS = 1.01, 1.1, 60.0
HELD_NAME = ", first frame held"
DECIDES = ("gates-apart", "gelu-kernel", "sound-aside", "whole-tables", "cudnn")


def rows_of(text: str) -> list[Row]:
    """Every row of every Markdown table, by its heads."""
    found: list[Row] = []
    head: list[str] = []
    before = ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ---"):
            head = [cell.strip() for cell in before.strip("|").split("|")]
        elif line.startswith("| ") and len(cells) == len(head):
            found.append(dict(zip(head, cells, strict=True)))
        elif not line.startswith("|"):
            head = []
        before = line
    return found


def forwards(text: str) -> list[dict[str, object]]:
    """What `bench transformer` measured, in the order in which it came; a later run of the same replaces it."""
    found: dict[tuple[str, str], dict[str, object]] = {}
    step = ""
    for line in text.splitlines():
        if line.startswith("== "):
            step = line.split(":")[0].removeprefix("== ")
        if line.startswith("# {'size': "):
            row = ast.literal_eval(line[2:].replace(": nan,", ": None,"))
            if step.startswith("ways-"):  # of some of the blocks
                row["size"] = f"{row['size']}, some blocks"
            found[row["size"], row["what"]] = row
    return list(found.values())


def runs_of(text: str) -> list[Row]:
    """The same of `bench end-to-end`."""
    found: list[Row] = []
    for line in text.splitlines():
        if line.startswith("# ['"):
            cells = [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in ast.literal_eval(line[2:])]
            if len(cells) == len(RUN_HEAD):
                found.append(dict(zip(RUN_HEAD, cells, strict=True)))
    return found


def judged(value: float, bound: float | None, least: bool) -> str:
    """A bound, and whether it is met."""
    if bound is None:
        return ""
    met = value >= bound if least else value <= bound
    return f"{bound:g}, {'met' if met else 'missed'}"


def forward_lines(rows: Iterable[Mapping[str, object]]) -> list[list[object]]:
    """The page's table of forwards and guided steps."""
    seconds = {(row["size"], row["what"]): float(row["seconds"]) for row in rows}
    lines: list[list[object]] = []
    for row in rows:
        size, what, taken, peak = row["size"], str(row["what"]), float(row["seconds"]), float(row["peak_gib"])
        guided, least, most = what.startswith("guided"), *FORWARDS.get((size, what), (None, None))
        peer = seconds.get((size, "diffusers"))
        against, beside = "–", ""
        if peer is not None and "diffusers" not in what:
            ratio = (4 if guided else 1) * peer / taken
            against, beside = f"{ratio:.3f}x", judged(ratio, least, least=True)
        if what.endswith(HELD_NAME):
            ratio = taken / seconds[size, what.removesuffix(HELD_NAME)]
            against, beside = f"{ratio:.4f} of without", judged(ratio, HELD, least=False)
        floor = float(row["floor"])
        part = ["–", "–"] if guided else [f"{floor:.4f}", f"{100 * floor / taken:.0f} %"]
        error = "–" if not row["error"] else f"{row['error']:.1e}"
        lines.append([f"{size}, {what}", f"{taken:.4f}", *part, against, beside, f"{peak:.2f}",
                      judged(peak, most, least=False), error])
    return lines


def way_lines(rows: Iterable[Mapping[str, object]]) -> list[list[object]]:
    """What each way changes, at each size that has it."""
    rows, lines = list(rows), []
    own = {(row["size"], row["what"]): row for row in rows}
    for row in rows:
        what = str(row["what"])
        name, prefix = what.rpartition(", ")[2], "guided step, " if what.startswith("guided") else ""
        default = own.get((row["size"], f"{prefix}ours"))
        if name in DECIDES and default is not None:
            change = 100 * (row["seconds"] / default["seconds"] - 1)
            lines.append([name, f"{prefix}{row['size']}", f"{change:+.2f} %",
                          f"{row['peak_gib'] - default['peak_gib']:+.2f}"])
    return sorted(lines)


def kernel_lines(rows: Iterable[Mapping[str, object]]) -> list[list[object]]:
    """Milliseconds by class of kernel, of the rows that were profiled."""
    lines: list[list[object]] = []
    for row in rows:
        if row.get("kernels"):
            parts = [f"{kind} {ms:.1f} ({count})" for kind, (ms, count) in row["kernels"].items()]
            lines.append([f"{row['size']}, {row['what']}", "; ".join(parts)])
    return lines


def other_lines(rows: Iterable[Row]) -> list[list[object]]:
    """Whole runs, decoding and writing beside their targets."""
    lines: list[list[object]] = []
    for row in rows:
        if str(row.get("run", "")).startswith("again") and "recipe" in row:
            bound = RUNS.get((row["size"], row["recipe"], row["products"]))
            parts = f"prompts {row['prompts']}, sampling {row['sampling']}, decoding {row['decoding']}"
            lines.append([f"{row['recipe']} {row['size']}, {row['products']}, s ({parts})", row["all"],
                          judged(float(row["all"]), bound, least=False)])
        if row.get("what") == "mp4" and "of the device's" in row:
            ratio = float(row["of the device's"].removesuffix("x"))
            lines.append([f"decode {row['size']} to mp4, of the device's time", ratio,
                          judged(ratio, DECODE, least=False)])
        if row.get("run") == "second" and "tokens/s" in row:
            rate = float(row["tokens/s"])
            lines.append([f"Enhance Prompt, tokens/s (floor {float(row['floor, tokens/s']):.0f})", f"{rate:.1f}",
                          judged(rate, TOKENS, least=True)])
    return lines


def report(text: str) -> str:
    """All tables that some outputs have rows for."""
    measured, rest = forwards(text), runs_of(text) + [row for row in rows_of(text) if "recipe" not in row]
    parts = [
        (("", "seconds", "floor", "of it", "against diffusers compiled", "target", "peak, GiB", "target",
          "relative L2"), forward_lines(measured)),
        (("way", "at", "seconds", "GiB"), way_lines(measured)),
        (("kernels", "ms (number)"), kernel_lines(measured)),
        (("what", "measured", "target"), other_lines(rest)),
    ]
    return "\n\n".join(table(head, lines) for head, lines in parts if lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    args = parser.parse_args()
    print(report("\n".join(file.read_text() for file in args.files)))
