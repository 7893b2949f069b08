"""The button "Get missing files": what the dialog shows, the download, and fresh lists after it."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.browser.page import WAIT_MS, ComfyPage
from tests.conftest import Host
from tests.support.hub_server import FakeHub, running

CONTENT = os.urandom(1 << 20)
ADD = """() => {
  const node = window.LiteGraph.createNode("LTX23Overlay");
  window.app.graph.add(node);
  const button = node.widgets.find((each) => each.name === "Get missing files");
  window.ltx23Saved = JSON.stringify(node.serialize());
  button.callback.call(node, button.value, window.app.canvas, node);
  return button.serialize;
}"""


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with running({}) as server:
        yield server


def test_get_missing_files(start_host: Callable[..., Host], chromium: object, hub: FakeHub,
                           tmp_path_factory: pytest.TempPathFactory) -> None:
    host = start_host("get", models=False, environment={
        "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path_factory.mktemp("hf")),
        "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_TOKEN": ""})
    state = host.client.post("/ltx23/get", {"action": "look", "components": [], "files": []})
    for each in state["files"]:
        repo, path = each["address"].removeprefix("https://huggingface.co/").split("/blob/main/")
        hub.files.setdefault(repo, {})[path] = CONTENT
    tab = ComfyPage(chromium, host.url)
    assert tab.page.evaluate(ADD) is False
    dialog = tab.page.locator("dialog.ltx23-get")
    dialog.locator("a").first.wait_for(timeout=WAIT_MS)
    text = dialog.inner_text()
    for each in state["files"]:
        assert each["name"] in text and each["folder"] in text
        assert dialog.locator(f'a[href="{each["address"]}"]').count() == 1
    cockpit = tab.page.locator(".ltx23-cockpit")
    cockpit.get_by_text("2 files are missing, 70.5 GB").wait_for(timeout=WAIT_MS)
    assert cockpit.locator("a[href*='gemma_3_12B_it.safetensors']").count() == 1
    assert "→ models/text_encoders" in cockpit.inner_text()
    assert "stay free" in text and str(host.base.root) not in text
    if not state["fits"]:  # of this machine's disk: then it says so and offers nothing
        assert "does not fit" in text and dialog.get_by_text("Download", exact=True).is_disabled()
        tab.page.evaluate("() => document.querySelector('dialog.ltx23-get').querySelector('button').disabled = false")
    dialog.get_by_text("Download", exact=True).click()
    dialog.get_by_text("Nothing is missing.").or_(dialog.get_by_text("downloaded, hash checked")).first.wait_for(
        timeout=WAIT_MS)
    for each in state["files"]:
        assert (host.base.models / each["folder"].removeprefix("models/") / each["name"]).read_bytes() == CONTENT
    tab.page.keyboard.press("Escape")
    dialog.wait_for(state="detached", timeout=WAIT_MS)
    assert not tab.errors, tab.errors
