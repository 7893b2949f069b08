"""Train several components within one device call: `python -m tools.tiny_world.train.all --video-vae 4 --audio 4 …`.

Stages follow each other by what they need; components of one stage run side by side as processes on the one GPU. A
component with 0 minutes is left out. Everything is read from and written to one folder, so that a later call goes on
where this one ended.
"""
from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

# Component -> option; stages in order.
STAGES = (("video_vae", "audio", "gemma"), ("transformer", "vocoder", "upsampler"), ("distil",))
ROOT = Path(__file__).parents[3]
REPORT = "report.tar"


def parse() -> argparse.Namespace:
    """Minutes of every component, folders, and what to evaluate."""
    parser = argparse.ArgumentParser(prog="python -m tools.tiny_world.train.all", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where files are written (on the device: $OUT)")
    parser.add_argument("--source", type=Path, help="folder of an earlier call; copied into --folder first")
    parser.add_argument("--evaluate", type=int, default=0, help="prompts to generate and judge at the end")
    for stage in STAGES:
        for name in stage:
            parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=0.0, metavar="MINUTES")
            parser.add_argument(f"--{name.replace('_', '-')}-batch", type=int, metavar="N")
    return parser.parse_args()


def copy_from(source: Path, folder: Path) -> None:
    """Take over the files of an earlier call; its logs come out of its archive."""
    for path in source.iterdir():
        if path.is_dir():
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
        elif path.name == REPORT:
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")
        else:
            shutil.copy(path, folder)


def start(name: str, options: argparse.Namespace) -> tuple[str, subprocess.Popen[bytes]] | None:
    """Start one component's training, unless it has no time."""
    minutes, batch = getattr(options, name), getattr(options, f"{name}_batch")
    if not minutes:
        return None
    command = [sys.executable, "-m", "tools.tiny_world.train", name, "--folder", str(options.folder), "--minutes",
               str(minutes), *(["--batch", str(batch)] if batch else [])]
    log = (options.folder / f"out-{name}.txt").open("ab")
    return name, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


def last_lines(path: Path, count: int = 3) -> str:
    """The end of a text file."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:])


def evaluate(options: argparse.Namespace) -> None:
    """Judge generated clips and write a sheet of frames."""
    command = [sys.executable, "-m", "tools.tiny_world.train.generate", "--folder", str(options.folder), "--count",
               str(options.evaluate), "--sheet", str(options.folder / "sheet.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    (options.folder / "out-evaluate.txt").write_text(done.stdout + done.stderr)
    print(done.stdout[-2000:], done.stderr[-1500:] if done.returncode else "", flush=True)


def pack(folder: Path) -> None:
    """Put logs and pictures into one archive, since few files come back from a device call."""
    small = [path for path in sorted(folder.iterdir()) if path.suffix in (".jsonl", ".txt", ".png", ".json")]
    with tarfile.open(folder / REPORT, "w") as archive:
        for path in small:
            archive.add(path, path.name)
    for path in small:
        path.unlink()


def main() -> None:
    """Run the stages; a component that fails ends the run after its stage."""
    options, began = parse(), time.monotonic()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.source:
        copy_from(options.source, options.folder)
    failed = False
    for stage in STAGES:
        running = [entry for entry in (start(name, options) for name in stage) if entry]
        for name, process in running:
            code = process.wait()
            failed |= code != 0
            print(f"== {name}: exit {code} after {time.monotonic() - began:.0f} s", flush=True)
            print(last_lines(options.folder / f"out-{name}.txt", 25 if code else 4), flush=True)
        if failed:
            break
    if options.evaluate and not failed:
        evaluate(options)
    pack(options.folder)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
