"""Start and stop a real ComfyUI server that never outlives the process that started it.

Facts about ComfyUI that this relies on were found by running 0.3.75 and 0.20.1; nothing of ComfyUI is copied here.
"""
from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 240  # a cold disk and a GPU driver can take minutes
ASK_SECONDS = 0.2
STOP_SECONDS = 10
LOG_LINES = 25
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LOG_PREFIX = re.compile(r"^\[(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\] ?", re.MULTILINE)
IMPORT_FAILED = re.compile(r"seconds \(IMPORT FAILED\):(.*)")

# ComfyUI runs inside this: the server holds the reading end of a pipe whose writing end only we hold, so that it
# ends at once when we close it or die, however we die, on every system and without a signal.
GUARD = """
import os, runpy, sys, threading
def end_with_parent():
    while os.read(0, 4096):  # not through sys.stdin, whose lock would break the interpreter's own end
        pass
    sys.stdout.flush()
    os._exit(0)
threading.Thread(target=end_with_parent, daemon=True).start()
sys.argv = sys.argv[1:]
sys.path.insert(0, os.getcwd())
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class HostError(RuntimeError):
    """ComfyUI could not be found, prepared or started; the message is a sentence for the user."""


@dataclass(frozen=True)
class ComfyUI:
    """An installed ComfyUI: its source tree, the Python that has its packages, and the front end it shall serve."""

    source: Path
    python: Path
    front_end: Path | None = None  # folder with index.html; None: the one that this ComfyUI brings itself

    @property
    def version(self) -> str:
        """The version that the source tree states, or `unknown`."""
        try:
            text = (self.source / "comfyui_version.py").read_text(encoding="utf-8")
        except OSError:
            return "unknown"
        found = re.search(r'__version__\s*=\s*"([^"]+)"', text)
        return found.group(1) if found else "unknown"

    def options(self) -> list[str]:
        """Options that keep it from outside addresses and databases, as far as this version knows them."""
        try:
            known = (self.source / "comfy" / "cli_args.py").read_text(encoding="utf-8")
        except OSError:
            known = ""
        chosen = ["--disable-api-nodes"]
        if '"--offline"' in known:  # its name from 0.38 on
            chosen = ["--offline"]
        if '"--disable-assets"' in known:
            chosen.append("--disable-assets")
        return chosen

    def has_accelerator(self) -> bool:
        """Whether this ComfyUI's torch can use a GPU; takes the seconds that importing torch takes."""
        ask = "import torch; a = torch.accelerator.is_available() if hasattr(torch, 'accelerator') else " \
              "torch.cuda.is_available(); raise SystemExit(0 if a else 3)"
        return subprocess.run([self.python, "-c", ask], check=False, capture_output=True,
                              env=clean_environment()).returncode == 0


@dataclass(frozen=True)
class Base:
    """What `--base-directory` takes: the models, input, output, user and custom_nodes of one use."""

    root: Path

    def create(self) -> Base:
        """Make the folders, and settings that keep the front end's first-run windows away."""
        for name in ("models", "input", "output", "temp", "custom_nodes", "user/default"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        settings = self.root / "user" / "default" / "comfy.settings.json"
        if not settings.exists():
            settings.write_text(json.dumps({
                "Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": "0.0.0",
                "Comfy.Notification.ShowVersionUpdates": False, "Comfy.Locale": "en",
            }), encoding="utf-8")
        return self

    def __getattr__(self, name: str) -> Path:
        """`base.input`, `base.output`, `base.models`, ...: the folder of that name."""
        if name in ("models", "input", "output", "temp", "custom_nodes", "user"):
            return self.root / name
        raise AttributeError(name)

    def add_model(self, folder: str, source: Path) -> Path:
        """Copy a model file or folder to `models/<folder>/`; what is there unchanged already is kept.

        A copy, never a link: what a pack writes beside a model must not land beside the original.
        """
        target = self.root / "models" / folder / source.name
        files = [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]
        for file in files:
            copy = target if source.is_file() else target / file.relative_to(source)
            if not copy.exists() or _look(copy) != _look(file):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, copy)
        return target

    def link_pack(self, name: str, source: Path) -> Path:
        """Make `source` a custom node called `name`, in place of an earlier one of that name."""
        link = self.root / "custom_nodes" / name
        if os.path.lexists(link):
            remove_link(link)
        link_folder(source.resolve(), link)
        return link


def _look(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, int(stat.st_mtime)


def link_folder(source: Path, target: Path) -> None:
    """Link a folder: a symbolic link, or where Windows forbids it a junction, or at last a copy."""
    try:
        target.symlink_to(source, target_is_directory=True)
    except OSError:
        if os.name == "nt" and subprocess.run(["cmd", "/c", "mklink", "/J", str(target), str(source)], check=False,
                                              capture_output=True).returncode == 0:
            return
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))


def remove_link(path: Path) -> None:
    """Undo `link_folder` without touching what the link leads to."""
    try:
        os.unlink(path)  # a symbolic link or a file
    except OSError:
        try:
            os.rmdir(path)  # a junction, or an empty folder
        except OSError:
            shutil.rmtree(path)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a child Python: nothing of ours leaks in, and no model hub is asked for anything."""
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    kept = {key: value for key, value in os.environ.items() if key not in ours}
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1",
             "PYTHONIOENCODING": "utf-8"}
    return {**kept, **quiet, **(extra or {})}


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def port_is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:port."""
    with socket.socket() as probe:
        if os.name != "nt":  # there the option would allow to share the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


class Server:
    """One ComfyUI server process; use it as a context manager.

    Args:
        comfy: the installation to run.
        base: its folders; custom nodes and models are in place before `start`.
        log: file that takes what the server prints, written anew at each start.
        port: 0 picks a free one.
        options: further options for ComfyUI's command line, such as `--cpu`.
        environment: further environment variables.
    """

    def __init__(self, comfy: ComfyUI, base: Base, log: Path, *, port: int = 0, options: Sequence[str] = (),
                 environment: Mapping[str, str] | None = None) -> None:
        """Nothing starts before `start`."""
        self.comfy, self.base, self.log = comfy, base, log
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.options, self.environment = tuple(options), environment
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The command line: everything local, nothing opened, no outside address asked."""
        front_end = ["--front-end-root", str(self.comfy.front_end)] if self.comfy.front_end else []
        return [str(self.comfy.python), "-c", GUARD, "main.py", "--listen", "127.0.0.1", "--port", str(self.port),
                "--base-directory", str(self.base.root), *self.comfy.options(), "--disable-auto-launch",
                "--database-url", "sqlite:///:memory:", *front_end, *self.options]

    def start(self, timeout: float = START_SECONDS) -> Server:
        """Start, and wait until it answers and every custom node is imported.

        Raises:
            HostError: the port is taken, ComfyUI ended, took too long, or a custom node did not import.
        """
        if not port_is_free(self.port):
            raise HostError(f"Port {self.port} is taken by another program: choose another one with --port, or leave "
                            f"--port out to get a free one.")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(self.command(), cwd=self.comfy.source, stdin=subprocess.PIPE, stdout=log,
                                            stderr=subprocess.STDOUT, env=clean_environment(self.environment))
        try:
            self._wait(timeout)
            self._check_packs()
        except BaseException:
            self.stop()
            raise
        return self

    def _wait(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while not answers(self.url + "/system_stats"):
            if self.process.poll() is not None:
                raise HostError(f"ComfyUI did not start: {self.comfy.python} ended with code "
                                f"{self.process.returncode}. If ComfyUI's packages belong to another Python, start "
                                f"run.py with that one: PATH/TO/ITS/python run.py demo --comfyui {self.comfy.source}. "
                                f"{self.tail()}")
            if time.monotonic() > end:
                raise HostError(f"ComfyUI did not answer within {timeout:.0f} seconds. {self.tail()}")
            time.sleep(ASK_SECONDS)

    def _check_packs(self) -> None:
        failed = [Path(match.strip()).name for match in IMPORT_FAILED.findall(self.log_text())]
        ours = [name for name in failed if (self.base.root / "custom_nodes" / name).exists()]
        if ours:
            raise HostError(f"ComfyUI could not import the custom node {', '.join(ours)}.\n"
                            + "\n".join(self._why(name) for name in ours))

    def _why(self, name: str) -> str:
        """The traceback that the log has for a custom node."""
        lines = self.log_text().splitlines()
        for end, line in enumerate(lines):
            if line.startswith("Cannot import") and f"/{name} module" in line.replace(os.sep, "/"):
                first = max((i for i in range(end) if lines[i].startswith("Traceback")), default=end)
                return "\n".join(lines[first:end + 1])
        return self.tail()

    def log_text(self) -> str:
        """All that the server printed so far, without the colours and levels that newer ones put in front of lines."""
        if not self.log.exists():
            return ""
        return LOG_PREFIX.sub("", COLOUR.sub("", self.log.read_text(encoding="utf-8", errors="replace")))

    def tail(self) -> str:
        """The end of the log, with its path, for a message."""
        lines = self.log_text().splitlines()[-LOG_LINES:]
        return f"The last lines of {self.log}:\n" + "\n".join(lines)

    def running(self) -> bool:
        """Whether the server process is alive."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """End the server process and wait for its end; does nothing where none runs."""
        if self.process is None:
            return
        with contextlib.suppress(OSError):  # it has ended already
            self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def __enter__(self) -> Server:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()


def answers(url: str) -> bool:
    """Whether a GET of `url` succeeds within a few seconds; never through a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as reply:
            return reply.status == 200
    except (OSError, ValueError, urllib.error.URLError):
        return False


def find_python(folder: Path) -> Path:
    """The Python that runs the ComfyUI in `folder`: its own environment, Windows' portable one, or the current one.

    Raises:
        HostError: there is no ComfyUI in `folder`.
    """
    if not (folder / "main.py").is_file() or not (folder / "comfy").is_dir():
        raise HostError(f"{folder} is not a ComfyUI folder: it has no main.py beside a comfy folder. Give the folder "
                        f"that main.py of ComfyUI lies in.")
    tail = ("Scripts/python.exe",) if os.name == "nt" else ("bin/python",)
    homes = [folder / "venv", folder / ".venv", folder.parent / "venv", folder.parent / ".venv"]
    candidates = [home / part for home in homes for part in tail]
    candidates += [folder.parent / "python_embeded" / "python.exe", folder.parent / "python_embedded" / "python.exe"]
    return next((path for path in candidates if path.is_file()), Path(sys.executable))
