"""The Enhance Prompt node in the real page: the written text is shown, and only the button takes it over."""
from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.page import ComfyPage
from tests.conftest import Host
from tests.host.test_enhance import NODE, alone
from tools.install import FRONT_END, FRONT_END_NEWEST

SHOTS = os.environ.get("LTX23_SHOTS")  # folder for screenshots, to look at
FIND = "const node = window.app.graph._nodes.find((each) => each.comfyClass === 'LTX23EnhancePrompt');"
SHOWN = f"() => {{ {FIND} return node.widgets.find((each) => each.name === 'written').value; }}"
EDITED = f"() => {{ {FIND} return node.widgets.find((each) => each.name === 'edited').value; }}"
PRESS = f"""() => {{ {FIND}
  const button = node.widgets.find((each) => each.type === 'button' && each.name === 'Keep and edit this text');
  button.callback();
}}"""
QUEUE = "async () => { await window.app.queuePrompt(0, 1); }"


@pytest.mark.parametrize("front_end", [FRONT_END, FRONT_END_NEWEST])
def test_shown_then_kept(chromium: Any, host: Host, start_host: Callable[..., Host], front_end: str) -> None:
    server = host if front_end == FRONT_END else start_host("newest-enhance", front_end=front_end)
    tab = ComfyPage(chromium, server.url)
    tab.drop("enhance.json", json.dumps(alone(seed=21)))
    assert tab.page.evaluate(SHOWN) == "" and tab.page.evaluate(EDITED) == ""
    before = tab.export()

    tab.page.evaluate(QUEUE)
    tab.page.wait_for_function(f"() => window.seen.errors.length || ({SHOWN})()", timeout=60_000)
    assert tab.seen["errors"] == [] and tab.errors == []
    text = tab.page.evaluate(SHOWN)
    assert tab.page.evaluate(EDITED) == "", "a run changes no input"
    after = tab.export()
    assert set(after[NODE]["inputs"]) == set(before[NODE]["inputs"]), "what is shown is no input"
    assert {"written", "Keep and edit this text"} & set(after[NODE]["inputs"]) == set()

    tab.page.evaluate(PRESS)
    if SHOTS:
        tab.screenshot(Path(SHOTS) / f"{front_end}-enhance.png")
    assert tab.page.evaluate(EDITED) == text
    kept = tab.export()
    assert kept[NODE]["inputs"]["edited"] == text
    run = server.client.run({key: {part: node[part] for part in ("class_type", "inputs")}
                             for key, node in kept.items()})
    assert run.ok and run.outputs[NODE]["text"] == [text]
    tab.page.close()
