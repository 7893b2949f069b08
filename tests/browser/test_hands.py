"""What a user's hands do in the page beside dropping and running: read help, cancel, let the seed change."""
from __future__ import annotations

import json
from typing import Any

from tests.browser.page import RUN_BUTTON, RUN_MS, WAIT_MS, ComfyPage, small_ui
from tests.conftest import Host

FIND = "const node = window.app.graph._nodes.find((each) => each.type === 'LTX23Sampler');"
SET = f"""(values) => {{ {FIND}
  for (const [name, value] of Object.entries(values))
    node.widgets.find((each) => each.name === name).value = value; }}"""
SEED = f"() => {{ {FIND} return node.widgets.find((each) => each.name === 'seed').value; }}"
SELECT = f"() => {{ {FIND} window.app.canvas.selectNode(node); window.app.canvas.onSelectionChange?.({{}}); }}"
LISTEN = """() => { window.ends = [];
  const api = window.app.api ?? window.comfyAPI.api.api;
  for (const kind of ["execution_interrupted", "execution_success"])
    api.addEventListener(kind, () => window.ends.push(kind)); }"""
COMMAND = "(name) => window.app.extensionManager.command.execute(name)"
PICTURES = "() => [...document.querySelectorAll('.node-help-content img')].map((each) => each.naturalWidth)"


def test_help_cancel_and_seed(chromium: Any, server: Host) -> None:
    tab = ComfyPage(chromium, server.url)
    tab.drop("hands.json", json.dumps(small_ui("quick_start")))
    tab.close_dialogs()
    tab.page.evaluate(LISTEN)

    # The page takes the pack's name up to a dot, which the name under test has.
    name = server.pack.partition(".")[0]
    tab.page.route(f"**/extensions/{name}/docs/**", lambda route: route.continue_(
        url=route.request.url.replace(f"/{name}/docs", f"/{server.pack}/docs")))
    tab.page.evaluate(SELECT)
    tab.page.locator("[data-testid=info-button]").first.click(timeout=WAIT_MS)
    tab.page.wait_for_function("() => document.querySelector('.node-help-content h1')", timeout=WAIT_MS)
    assert "Which recipe needs which file" in tab.page.locator(".node-help-content").first.inner_text()
    tab.page.wait_for_function(f"() => ({PICTURES})().some((width) => width >= 600)", timeout=WAIT_MS)

    tab.page.evaluate(SET, {"steps": 2000, "seed": 77})
    tab.page.locator(RUN_BUTTON).first.click()
    tab.page.wait_for_function("() => window.seen.previews > 0", timeout=RUN_MS)
    tab.page.evaluate(COMMAND, "Comfy.Interrupt")
    tab.page.wait_for_function("() => window.ends.includes('execution_interrupted')", timeout=WAIT_MS)

    tab.page.evaluate(SET, {"steps": 1, "control_after_generate": "increment"})
    before = tab.page.evaluate(SEED)
    tab.page.locator(RUN_BUTTON).first.click()
    tab.page.wait_for_function("() => window.ends.includes('execution_success')", timeout=WAIT_MS)
    assert tab.page.evaluate(SEED) == before + 1
    assert tab.seen["errors"] == [] and tab.errors == []
    tab.page.close()
