"""Fixtures of the browser layer: a server with each front end, and a tab on it."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.page import OFFER, ComfyPage
from tests.conftest import Host
from tools.example_files import add_media
from tools.install import FRONT_END, FRONT_END_NEWEST


@pytest.fixture(scope="module", params=[FRONT_END, FRONT_END_NEWEST])
def server(request: pytest.FixtureRequest) -> Host:
    """The shared server with the front end that this ComfyUI pins, and one with the newest; both with example media.

    The pinned page's offer of missing models opens whenever its answer comes, over whatever is clicked then: it is off.
    """
    server: Host = request.getfixturevalue("host" if request.param == FRONT_END else "newest_host")
    add_media(server.base.input)
    server.client.post(f"/settings/{OFFER}", False)
    return server


@pytest.fixture(scope="module")
def tab(chromium: Any, server: Host) -> Iterator[ComfyPage]:
    """A tab for all tests of a file, without the windows that the page opens by itself."""
    tab = ComfyPage(chromium, server.url)
    tab.close_dialogs()
    yield tab
    tab.page.close()
