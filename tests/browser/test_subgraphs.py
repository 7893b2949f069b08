"""Our nodes inside a subgraph, fed from outside it: what they show, what a run shows in them, what is put back."""
from __future__ import annotations

import json
from typing import Any

from tests.browser.page import RUN_BUTTON, WAIT_MS, ComfyPage, small_ui
from tests.conftest import Host

INSIDE = ["LTX23Overlay", "LTX23Load", "LTX23Sampler", "LTX23DecodeToFile"]
WRAP = """(kinds) => { const graph = window.app.graph;
    const {subgraph, node} = graph.convertToSubgraph(new Set(graph._nodes.filter((n) => kinds.includes(n.type))));
    window.inner = (kind) => subgraph.nodes.find((n) => n.type === kind);
    window.opened = 0; const show = inner("LTX23Sampler").ltx23Player;
    const before = show.show; show.show = function (open) { window.opened += open; before.call(this, open); };
    const input = subgraph.addInput("recipe", "COMBO"), sampler = inner("LTX23Sampler");
    input.connect(sampler.inputs.find((each) => each.name === "recipe"), sampler);
    window.outer = node; return String(node.id); }"""
SET = """([name, value]) => { const widget = outer.widgets.find((w) => w.name === name)
    ?? inner("LTX23Sampler").widgets.find((w) => w.name === name); widget.value = value; widget.callback?.(value); }"""
OFF = """() => inner("LTX23Sampler").widgets.filter((w) => w.name.endsWith("prompt")).map((w) => Boolean(w.disabled))"""
COCKPIT = "(text) => inner('LTX23Overlay').ltx23Box.innerText.includes(text)"
TILES = "() => window.seen.errors.length || inner('LTX23DecodeToFile').ltx23Strip.box.children.length"
CLICK = "() => inner('LTX23DecodeToFile').ltx23Strip.box.children[0].click()"


def test_nodes_in_a_subgraph(chromium: Any, server: Host) -> None:
    server.client.free()  # Overlay tells its report when it runs, not when an earlier test's result is kept
    tab = ComfyPage(chromium, server.url)
    tab.drop("subgraph.json", json.dumps(small_ui("long_video")))
    tab.close_dialogs()
    host = tab.page.evaluate(WRAP, INSIDE)
    ids = {node["class_type"]: key for key, node in tab.export().items()}
    sampler, decode = ids["LTX23Sampler"], ids["LTX23DecodeToFile"]
    assert sampler.startswith(f"{host}:") and ":" not in ids["LTX23LongVideo"]

    tab.page.wait_for_function(f"() => ({OFF})().every(Boolean)", timeout=WAIT_MS)  # windows comes from outside
    seen = "() => JSON.parse(window.app.graph._nodes.find((n) => n.type === 'LTX23LongVideo').ltx23Timeline.seen).clip"
    tab.page.wait_for_function(f"() => ({seen})().frames === 33", timeout=WAIT_MS)
    assert tab.page.evaluate(seen)["said"] == "", "the Sampler inside is found"
    tab.page.wait_for_function(COCKPIT, arg="Everything for this graph is here", timeout=WAIT_MS)
    tab.page.evaluate(SET, ["recipe", "two_stage"])  # shown on the subgraph's node, which holds its value
    asked = "() => JSON.parse(inner('LTX23Overlay').ltx23Asked).recipes.join()"
    tab.page.wait_for_function(f"() => ({asked})() === 'two_stage'", timeout=WAIT_MS)
    tab.page.evaluate(SET, ["recipe", "one_stage"])

    width = "(value) => { inner('LTX23Sampler').widgets.find((w) => w.name === 'width').value = value; }"
    tab.page.evaluate(width, 1000)  # its callback would round it
    tab.page.evaluate("() => { window.app.lastNodeErrors = null; }")
    tab.page.locator(RUN_BUTTON).first.click()
    tab.page.wait_for_function("() => window.app.lastNodeErrors", timeout=WAIT_MS)
    errors = json.loads(tab.page.evaluate("() => JSON.stringify(window.app.lastNodeErrors)"))
    assert [each["details"].partition(".")[0] for each in errors[sampler]["errors"]] == ["width - width is 1000 pixels"]
    tab.page.keyboard.press("Escape")

    tab.page.evaluate(width, 96)
    tab.page.evaluate(SET, ["seed", 41])
    tab.page.evaluate("async () => { await window.app.queuePrompt(0, 1); }")
    tab.page.wait_for_function(TILES, timeout=WAIT_MS)
    assert tab.seen["errors"] == [] and decode in tab.seen["executed"]
    assert tab.page.evaluate("() => window.opened") > 0, "the Sampler inside plays its preview"
    assert tab.page.evaluate("() => inner('LTX23Overlay').ltx23Report")

    for name, value in {"seed": 5, "recipe": "two_stage"}.items():
        tab.page.evaluate(SET, [name, value])
    assert tab.export()[sampler]["inputs"]["seed"] == 5
    tab.page.evaluate(CLICK)
    tab.page.wait_for_function("() => document.querySelector('.ltx23-results .now') ||"
                               " inner('LTX23DecodeToFile').ltx23Strip.box.querySelector('.now')", timeout=WAIT_MS)
    inputs = tab.export()[sampler]["inputs"]
    assert (inputs["seed"], inputs["recipe"]) == (41, "one_stage"), "wherever the widget is that holds the value"
    assert tab.errors == []
    tab.page.close()
