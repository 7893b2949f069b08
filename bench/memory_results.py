"""What `bench/memory.sh` found, as rows for docs/performance.md and README: against issue 9's targets, and by card.

    python -m bench memory FOLDER [FOLDER]      # where the outputs of its two calls are

Steps that did not end count as far as they came. Whole clips are composed: a server's whole prompt of two steps, and 28
more steps as the other call measured them.
"""
from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cards import CARDS, budget
from .measure import table

BUS_FLOOR = 0.69  # seconds: 38 GB at 55 GB/s
CLIP_STEPS, SERVER_STEPS = 30, 2
# Weights, size, passes, GB (that budget or the next smaller one counts), most x of resident.
RATIOS = (("bf16", "1280x704", 4, 16, 1.05), ("bf16", "1280x704", 4, 8, 1.08), ("bf16", "768x512", 4, 8, 1.15),
          ("fp8", "1280x704", 4, 12, 1.03), ("fp8", "1280x704", 4, 8, 1.05))
# Size, passes -> how many times as fast as the peer within 8 GB.
AGAINST_PEER = {("768x512", 4): 4.0, ("1280x704", 4): 2.2, ("768x512", 1): 1.7}
PEER_BUDGET = 8
NUMBER = r"(-?[\d.]+)"
WITHIN = re.compile(rf"ours within {NUMBER} GB x{NUMBER}")


@dataclass(frozen=True)
class Row:
    """One placement of the transformer, as `bench.streaming.rows` prints it."""

    name: str
    size: str
    passes: int
    budget: float
    where: str
    step: float
    ratio: float
    peak: float
    planned: float
    bits: str

    @classmethod
    def parse(cls, line: str) -> Row | None:
        """None: the line is another one."""
        cells = line.split(" | ")
        if len(cells) < 5 or not cells[2].endswith(" passes") or not cells[3].startswith("budget "):
            return None
        found = dict.fromkeys(("step", "x", "peak", "of planned"), float("nan"))
        for key in found:
            if match := re.search(rf"(?:^| ){key} ?{NUMBER}", line.replace("| ", "")):
                found[key] = float(match.group(1))
        limit, where = cells[3].removeprefix("budget "), cells[4]
        if where.startswith("no copies"):
            return None
        bits = next((cell for cell in cells if cell.startswith(("bits", "BITS"))), "")
        return cls(cells[0], cells[1], int(cells[2].split()[0]), float("inf") if limit == "None" else float(limit),
                   where, found["step"], found["x"], found["peak"], found["of planned"], bits)


def outputs(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Lines of every file, by its name without the suffix."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.txt")):
            found.setdefault(path.stem, []).extend(path.read_text(errors="replace").splitlines())
    return found


def placements(found: Mapping[str, Sequence[str]], names: Sequence[str]) -> list[Row]:
    """Rows of some outputs."""
    return [row for name in names for line in found.get(name, ()) if (row := Row.parse(line)) is not None]


def budgets(rows: Sequence[Row]) -> str:
    """All of them; peaks that are above their plan, or more than a tenth below it, are marked."""
    lines = []
    for row in rows:
        says = ""
        if row.peak > row.planned:
            says = ", EXCEEDED"
        elif row.peak < 0.9 * row.planned:
            says = ", loose"
        limit = "none" if row.budget == float("inf") else f"{row.budget:g} GB"
        lines.append([f"{row.name}, {row.size}, {row.passes}", limit, row.where, row.step, f"{row.ratio:.3f}x",
                      f"{row.peak:.2f} GB", f"{row.planned:.2f} GB{says}", row.bits])
    return table(("weights, size, passes", "budget", "plan", "seconds", "against resident", "peak", "planned", "bits"),
                 lines)


def judged(what: str, got: float, target: float, most: bool) -> list[object]:
    """One row: met or missed; ``most``: whether the target is an upper bound."""
    met = got <= target if most else got >= target
    return [what, got, f"{'<=' if most else '>='} {target:g}", "met" if met else "MISSED"]


def targets(rows: Sequence[Row], found: Mapping[str, Sequence[str]]) -> str:
    """Issue 9's figures, those that were measured."""
    lines = []
    for name, size, passes, limit, most in RATIOS:
        within = [row for row in rows if (row.name, row.size, row.passes) == (name, size, passes)
                  and row.budget <= limit and row.step == row.step]
        for row in sorted(within, key=lambda row: -row.budget)[:1]:
            lines.append(judged(f"{name}, {size}, within {row.budget:g} GB: x of resident", row.ratio, most, True))
    for row in rows:
        if (row.name, row.size, row.passes) == ("bf16", "768x512", 1) and row.budget <= 8:
            lines.append(judged(f"one pass, 768x512, within {row.budget:g} GB: x of the bus floor",
                                row.step / BUS_FLOOR, 1.1, True))
    for line in (*found.get("rows", ()), *found.get("rows2", ())):
        cells = line.split(" | ")
        if cells[0] != "peer" or len(cells) < 4 or not cells[2].endswith("passes"):
            continue
        wanted = AGAINST_PEER.get((cells[1], int(cells[2].split()[0])))
        for limit, times in WITHIN.findall(line):
            what = f"peer / ours within {limit} GB, {cells[1]}, {cells[2]} (peer {cells[3]})"
            judge = wanted is not None and float(limit) == PEER_BUDGET
            lines.append(judged(what, float(times), wanted, False) if judge else [what, float(times), "", ""])
    for name in ("approaches", "fp8", "q4"):
        lines += loads(found.get(name, ()))
    return table(("what", "measured", "target", ""), lines)


def numbers(line: str, before: str) -> list[float]:
    """Those in brackets behind a word."""
    match = re.search(re.escape(before) + r" \[([^\]]*)\]", line)
    return [] if match is None else [float(each) for each in match.group(1).split(",")]


def loads(lines: Sequence[str]) -> list[list[object]]:
    """Warm loads of one file: the rate, and against the bare reader."""
    bare, made = [], []
    for line in lines:
        if line.startswith("ranges | "):
            bare = numbers(line, "then")
        if line.startswith("component | "):
            made, name = numbers(line, "loads")[1:], line.split(" | ")[1]
            if not made:
                continue
            rate = max(made)
            rows = [judged(f"warm load, {name}, GB/s", rate, 45, False)]
            if bare:
                rows.append(judged(f"warm load, {name} / bare reader", rate / max(bare), 0.9, False))
            return rows
    return []


def ways(rows: Sequence[Row]) -> str:
    """Ways to stream in per cent of what is the default."""
    lines = []
    for passes in (4, 1):
        now = {row.name.partition(", ")[2]: row.step for row in rows if row.passes == passes}
        usual = [now[name] for name in ("as it is", "as it is, again") if name in now]
        for name, step in now.items() if usual else ():
            lines.append([name, passes, step, f"{100 * (step / (sum(usual) / len(usual)) - 1):+.1f} %"])
    return table(("way, 768x512 within 8 GB", "passes", "seconds", "to as it is"), lines)


def served(found: Mapping[str, Sequence[str]]) -> dict[float, float]:
    """GB that were left on the card -> seconds of a server's whole prompt of two steps."""
    seconds = {}
    for line in found.get("server", ()):
        cells = line.removeprefix("# ").split(" | ")
        match = re.fullmatch(rf"{NUMBER} GB: ours", cells[0])
        if line.startswith("# ") and "FAILED" not in line and (match or cells[0] == "ours, first"):
            seconds[float(match.group(1)) if match else float("inf")] = float(cells[1])
    return seconds


def by_card(rows: Sequence[Row], seconds: Mapping[float, float]) -> str:
    """README's table: seconds of a guided step and what is streamed; and a clip of 30 steps, composed."""
    measured = {(row.name, row.size, row.budget): row for row in rows if row.passes == 4}
    kinds = [(name, size) for name in ("bf16", "fp8", "Q4_K") for size in ("768x512", "1280x704")
             if any(key[:2] == (name, size) for key in measured)]
    lines = []
    for card in CARDS:
        cells: list[str] = [f"{card} GB"]
        for name, size in kinds:
            resident = measured.get((name, size, float("inf")))
            row = measured.get((name, size, budget(card)))
            if row is None and resident is not None and resident.planned <= budget(card):
                row = resident
            cells.append(_few_words(row))
        left = card if card in seconds else float("inf")
        row = measured.get(("bf16", "768x512", budget(card) if card in seconds else left))
        composed = "–"
        if row is not None and left in seconds and (card in seconds or row.planned <= budget(card)):
            composed = f"{seconds[left] + (CLIP_STEPS - SERVER_STEPS) * row.step:.0f}"
        lines.append([*cells, composed])
    return table(("card", *(f"{name}, {size}" for name, size in kinds), "bf16 clip, 768x512, 30 steps"), lines)


def _few_words(row: Row | None) -> str:
    if row is None:
        return "–"
    if row.step != row.step:
        return "does not fit"
    return f"{row.step:.2f}, {row.where.removeprefix('streamed ').removesuffix(' blocks')}"


def passed_on(found: Mapping[str, Sequence[str]]) -> str:
    """Tables that are ready as they are."""
    parts = []
    for name in ("decode", "prompts", "sound", "quantise", "server", "newer", "tests"):
        lines = found.get(name, ())
        kept = [line for line in lines if line.startswith(("| ", "saved "))]
        if not kept:
            kept = [line for line in lines if line.startswith(("# ", " ", "seconds ")) or "passed" in line]
        if kept:
            parts.append(f"### {name}\n\n" + "\n".join(kept))
    return "\n\n".join(parts)


def report(folders: Iterable[Path]) -> str:
    """All of it."""
    found = outputs(folders)
    rows = placements(found, ("rows", "rows2", "fp8", "q4"))
    parts = {"Targets": targets(rows, found),
             "By card: seconds of a guided step, blocks streamed; of a whole clip": by_card(rows, served(found)),
             "Ways": ways(placements(found, ("approaches",))),
             "Within a budget": budgets(rows)}
    return "\n\n".join(f"## {name}\n\n{text}" for name, text in parts.items()) + "\n\n" + passed_on(found)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="bench memory", description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    print(report(parser.parse_args().folders))


if __name__ == "__main__":
    main()
