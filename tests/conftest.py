"""Fixtures that several layers share: a real ComfyUI server with the pack in it. Documented in tests/host/README.md."""
from __future__ import annotations

import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import pytest

from tests.host.client import HostClient
from tests.support.tiny_model import add_golden_model
from tools.browser import FLAGS, NO_BROWSER, find_browser
from tools.host import Base, HostError, Server
from tools.install import FRONT_END, FRONT_END_NEWEST, Place

ROOT = Path(__file__).resolve().parent.parent
PACK_NAME = "ltx23.pack-under-test"  # not the folder's name, and with a dot, as a user's clone might have
KEEP_SECONDS = 24 * 3600


with contextlib.suppress(ImportError):  # which machines with a GPU may lack
    from hypothesis import HealthCheck, settings

    settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("same")
with contextlib.suppress(ImportError):
    from hypothesis.internal.conjecture import providers

    # It tries numbers and words found in the modules that happen to be loaded: other ones in every order of the tests.
    providers._get_local_constants = lambda: providers._local_constants


@pytest.hookimpl(tryfirst=True)
def pytest_make_collect_report(collector: pytest.Collector) -> None:
    """What a module draws without a seed while it is imported hangs on no module before it."""
    seed_all(0)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest) -> None:
    """Nor does what a fixture draws hang on those before it: a session's come with whichever test asks first."""
    seed_all(crc32(fixturedef.argname.encode()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Nor what a test draws, on the fixtures that were made for it or for a test before."""
    seed_all(0)


def seed_all(seed: int) -> None:
    """Seed every generator that draws without a seed of its own."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@dataclass
class Host:
    """A running server, its folders, and a client for it."""

    server: Server
    client: HostClient
    pack: str = PACK_NAME
    models: dict[str, Path] = field(default_factory=dict)  # file or folder name -> where it lies

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def base(self) -> Base:
        """Folders: base.root, .models, .input, .output, .temp, .user, .custom_nodes."""
        return self.server.base

    @property
    def log(self) -> str:
        """All that the server printed so far."""
        return self.server.log_text()

    def new_client(self) -> HostClient:
        """A second client, as another browser tab or for another thread."""
        return HostClient(self.url, self.base.root)


@pytest.fixture(scope="session")
def host_folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder below .host/tests for this session, kept for a day where a test failed."""
    parent = ROOT / ".host" / "tests"
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.iterdir():
        with contextlib.suppress(OSError):  # another layer, beside this one, has deleted it
            if time.time() - old.stat().st_mtime > KEEP_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    yield folder
    if not request.session.testsfailed:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def start_host(host_folder: Path) -> Iterator[Callable[..., Host]]:
    """A function that starts one more server: start_host("name", options=(...), pack=..., front_end=...)."""
    place = Place(ROOT)
    running: list[Host] = []

    def start(name: str, *, options: tuple[str, ...] = (), front_end: str = FRONT_END, pack: Path = ROOT,
              models: bool = True, environment: dict[str, str] | None = None,
              packs: dict[str, str] | None = None) -> Host:
        comfy = place.comfy(front_end)
        if not (comfy.source / "main.py").exists() or not (comfy.front_end / "index.html").exists():
            pytest.skip(f"No ComfyUI in {place.host}: `python3 run.py test` installs it.")
        base = Base(host_folder / name).create()
        base.link_pack(PACK_NAME, pack)
        for other, code in (packs or {}).items():  # loaded before ours, in the order of their names
            (base.custom_nodes / other).mkdir(exist_ok=True)
            (base.custom_nodes / other / "__init__.py").write_text(code, encoding="utf-8")
        found = add_golden_model(base) if models else {}
        server = Server(comfy, base, base.root / "server.log", options=("--cpu", "--preview-method", "auto", *options),
                        environment=environment)
        try:
            server.start()
        except HostError as error:
            pytest.fail(str(error), pytrace=False)
        running.append(Host(server, HostClient(server.url, base.root), models=found))
        return running[-1]

    yield start
    for host in running:
        host.client.close()
        host.server.stop()


@pytest.fixture(scope="session")
def host(start_host: Callable[..., Host]) -> Host:
    """The server that most host and browser tests share."""
    return start_host("shared")


@pytest.fixture(scope="session")
def newest_host(start_host: Callable[..., Host]) -> Host:
    """A server with the newest front end, for all browser tests."""
    return start_host("newest", front_end=FRONT_END_NEWEST)


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """A headless Chromium or Chrome (playwright's Browser); skips where none is installed."""
    program = find_browser()
    if program is None:
        pytest.skip(NO_BROWSER)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(program), args=list(FLAGS))
        yield browser
        browser.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Put the end of the server's log beside a failure of a test that used the server."""
    report = yield
    used = getattr(item, "funcargs", {}).get("host")
    if report.failed and isinstance(used, Host):
        report.sections.append((f"ComfyUI's log, {used.server.log}", "\n".join(used.log.splitlines()[-60:])))
    return report
