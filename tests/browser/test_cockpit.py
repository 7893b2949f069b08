"""Overlay's cockpit and Decode To File's strip in the real page: what is seen, and what a click puts back."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.browser.page import WAIT_MS, ComfyPage, small_ui
from tests.conftest import Host

SHOTS = os.environ.get("LTX23_SHOTS")  # folder for screenshots, to look at
SET = """([type, name, value]) => { const node = window.app.graph._nodes.find((n) => n.type === type);
    const widget = node.widgets.find((w) => w.name === name);
    widget.value = value; widget.callback?.(value); }"""
GET = """([type, name]) => window.app.graph._nodes.find((n) => n.type === type).widgets
    .find((w) => w.name === name).value"""
SAVED = """() => JSON.stringify(window.app.graph.serialize().nodes
    .find((n) => n.type === "LTX23Overlay").widgets_values)"""
CLOSE_UP = """() => { const canvas = window.app.canvas;
    const [x, y] = window.app.graph._nodes.find((n) => n.type === "LTX23DecodeToFile").pos;
    canvas.ds.scale = 1; canvas.ds.offset = [400 - x, 200 - y]; canvas.setDirty(true, true); }"""
LINES = """(names) => { const node = window.app.graph._nodes.find((n) => n.type === "LTX23Sampler");
    const said = node.widgets.find((w) => names.includes(w.name) && !w.hidden);
    return said && [said.value, said.options.getMinHeight(), node.size[1], node.computeSize()[1]]; }"""
OURS, THEIRS = "said", "$$node-text-preview"  # the newest front end takes its own text away as a run ends
QUEUE = "async () => { await window.app.queuePrompt(0, 1); }"
DOUBLE = """(each) => { for (const kind of ["click", "click", "dblclick"])
    each.dispatchEvent(new MouseEvent(kind, {bubbles: true})); }"""
FOREIGN = """(value) => { const node = window.LiteGraph.createNode("PrimitiveInt");
    window.app.graph.add(node); node.pos = [1200, 700];
    for (const each of node.widgets)  // front end 1.49.6 names the second "fixed", not "control_after_generate"
        each.value = each.name === "value" ? value : "fixed";
    return node.id; }"""


def shoot(tab: ComfyPage, name: str) -> None:
    if SHOTS:
        tab.screenshot(Path(SHOTS) / f"{name}.png")


def run_with(tab: ComfyPage, server: Host, seed: int, prompt: str, tiles: int) -> None:
    tab.page.evaluate(SET, ["LTX23Sampler", "seed", seed])
    tab.page.evaluate(SET, ["LTX23Sampler", "prompt", prompt])
    tab.page.evaluate(QUEUE)
    tab.page.wait_for_function(
        f"() => window.seen.errors.length || document.querySelectorAll('.ltx23-results figure').length >= {tiles}",
        timeout=WAIT_MS)
    assert tab.seen["errors"] == []


def test_cockpit_and_results(chromium: Any, server: Host) -> None:
    tab = ComfyPage(chromium, server.url)
    ui = small_ui("quick_start")
    tab.drop("cockpit.json", json.dumps(ui))
    tab.close_dialogs()
    before = tab.export()

    cockpit = tab.page.locator(".ltx23-cockpit")
    cockpit.get_by_text("Everything for this graph is here").wait_for(timeout=WAIT_MS)
    text = cockpit.inner_text()
    assert "✓\nltx-2.3-tiny.safetensors\n9.1 MB" in text and "transformer, connectors, text projection" in text
    assert "gemma" in text and "768x512, 121 frames" in text and "as stored (chosen in Load)" in text
    assert str(server.base.root) not in text and "decode 32 frames at a time; peak" in text
    shoot(tab, f"{server.base.root.name}-cockpit")
    tab.page.evaluate(SET, ["LTX23Overlay", "text_encoder", "none"])
    cockpit.get_by_text("None is chosen for what this graph needs").wait_for(timeout=WAIT_MS)
    assert "Choose auto, or gemma." in cockpit.inner_text() and "24.4 GB" not in cockpit.inner_text()
    shoot(tab, f"{server.base.root.name}-off")
    tab.page.evaluate(SET, ["LTX23Overlay", "text_encoder", "gone.safetensors"])
    cockpit.get_by_text("A chosen file is not there").wait_for(timeout=WAIT_MS)
    assert "text_encoder is 'gone.safetensors'" in cockpit.inner_text() and "✓\ngemma" not in cockpit.inner_text()
    shoot(tab, f"{server.base.root.name}-gone")
    tab.page.evaluate(SET, ["LTX23Overlay", "text_encoder", "auto"])
    cockpit.get_by_text("Everything for this graph is here").wait_for(timeout=WAIT_MS)
    assert json.loads(tab.page.evaluate(SAVED)) == ["auto"] * 8
    assert tab.export() == before, "nothing of it is sent"

    assert tab.page.evaluate(FOREIGN, 5)
    assert tab.page.locator(".ltx23-results figure").count() == 0
    run_with(tab, server, 41, "A red fox", 1)
    names = [OURS] if server.base.root.name == "newest" else [OURS, THEIRS]
    [told, least, room, needed] = tab.page.wait_for_function(LINES, arg=names, timeout=WAIT_MS).json_value()
    assert told.count("\n") >= 3 and least >= 16 * (told.count("\n") + 1) and room >= needed, "seen whole"
    tab.page.evaluate(SET, ["LTX23Sampler", "batch", 2])
    run_with(tab, server, 77, "A grey owl", 3)
    tab.page.evaluate(SET, ["LTX23Sampler", "batch", 1])
    asked = [entry["prompt"][2] for entry in server.client.get("/history").values()]
    extra = {name for graph in asked for node in graph.values() for name in node["inputs"]} & {"video-preview"}
    assert not extra, "the page's player is no input: an equal graph is answered from the cache"
    figures = tab.page.locator(".ltx23-results figure")
    assert [each.partition("\n")[0] for each in figures.all_inner_texts()] == ["seed 77", "seed 78", "seed 41"]
    tab.page.wait_for_function("() => [...document.querySelectorAll('.ltx23-results video')]"
                               ".every((video) => video.videoWidth > 0)", timeout=WAIT_MS)
    shoot(tab, f"{server.base.root.name}-results")

    tab.page.evaluate(SET, ["PrimitiveInt", "value", 9])
    later = tab.page.evaluate(FOREIGN, 6)
    tab.page.evaluate(SET, ["LTX23Overlay", "text_encoder", "none"])
    figures.nth(2).click()
    tab.page.wait_for_function(f"() => ({GET})(['LTX23Sampler', 'seed']) === 41", timeout=WAIT_MS)
    assert tab.page.evaluate(GET, ["LTX23Sampler", "prompt"]) == "A red fox"
    assert tab.page.evaluate(GET, ["LTX23Overlay", "text_encoder"]) == "auto"
    assert tab.page.evaluate(GET, ["PrimitiveInt", "value"]) == 5, "another pack's node, as that run had it"
    assert tab.page.evaluate("(id) => window.app.graph.getNodeById(id).widgets[0].value", later) == 6
    assert figures.nth(2).get_attribute("class").split() == ["first", "now"]
    shoot(tab, f"{server.base.root.name}-restored")
    with tab.page.expect_popup() as opened:
        figures.nth(0).evaluate(DOUBLE)  # at once: a busy machine's two clicks may be two single ones
    assert "/view?filename=quick_start" in opened.value.url and "type=output" in opened.value.url
    opened.value.close()
    tab.page.wait_for_timeout(600)
    assert tab.page.evaluate(GET, ["LTX23Sampler", "seed"]) == 41, "a double click puts nothing back"
    assert tab.errors == []
    tab.page.close()

    server.client.post("/settings/Comfy.VueNodes.Enabled", True)
    try:
        again = ComfyPage(chromium, server.url)  # a page that was opened anew, with Nodes 2.0
        again.drop("cockpit.json", json.dumps(ui))
        again.close_dialogs()
        again.page.locator(".ltx23-cockpit").get_by_text("Everything for this graph is here").wait_for(timeout=WAIT_MS)
        seen = again.page.locator(".ltx23-results figure")
        seen.first.wait_for(timeout=WAIT_MS)
        shoot(again, f"{server.base.root.name}-nodes2")
        assert seen.count() == 3 and again.errors == []
        again.page.evaluate(CLOSE_UP)  # from afar that page draws nodes as boxes, which take no clicks
        again.page.wait_for_timeout(500)
        seen.nth(2).click()
        again.page.wait_for_function(f"() => ({GET})(['LTX23Sampler', 'seed']) === 41", timeout=WAIT_MS)
        again.page.close()
    finally:
        server.client.post("/settings/Comfy.VueNodes.Enabled", False)
