"""The Enhance Prompt node in the real page: the written text is shown, and only the button takes it over."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.browser.page import WAIT_MS, ComfyPage
from tests.conftest import Host
from tests.host.test_enhance import NODE, alone

SHOTS = os.environ.get("LTX23_SHOTS")  # folder for screenshots, to look at
FIND = "const node = window.app.graph._nodes.find((each) => each.comfyClass === 'LTX23EnhancePrompt');"
SHOWN = f"() => {{ {FIND} return node.widgets.find((each) => each.name === 'written').value; }}"
EDITED = f"() => {{ {FIND} return node.widgets.find((each) => each.name === 'edited').value; }}"
PRESS = f"""() => {{ {FIND}
  const button = node.widgets.find((each) => each.type === 'button' && each.name === 'Keep and edit this text');
  button.callback();
}}"""
QUEUE = "async () => { await window.app.queuePrompt(0, 1); }"


def test_shown_then_kept(chromium: Any, server: Host) -> None:
    tab = ComfyPage(chromium, server.url)
    tab.drop("enhance.json", json.dumps(alone(seed=21)))
    assert tab.page.evaluate(SHOWN) == "" and tab.page.evaluate(EDITED) == ""
    before = tab.export()

    tab.page.evaluate(QUEUE)
    tab.page.wait_for_function(f"() => window.seen.errors.length || ({SHOWN})()", timeout=WAIT_MS)
    assert tab.seen["errors"] == [] and tab.errors == []
    text = tab.page.evaluate(SHOWN)
    assert tab.page.evaluate(EDITED) == "", "a run changes no input"
    after = tab.export()
    assert set(after[NODE]["inputs"]) == set(before[NODE]["inputs"]), "what is shown is no input"
    assert {"written", "Keep and edit this text"} & set(after[NODE]["inputs"]) == set()

    tab.page.evaluate(PRESS)
    if SHOTS:
        tab.screenshot(Path(SHOTS) / f"{server.base.root.name}-enhance.png")
    assert tab.page.evaluate(EDITED) == text
    kept = tab.export()
    assert kept[NODE]["inputs"]["edited"] == text
    run = server.client.run({key: {part: node[part] for part in ("class_type", "inputs")}
                             for key, node in kept.items()})
    assert run.ok and run.outputs[NODE]["text"] == [text]
    tab.page.close()
