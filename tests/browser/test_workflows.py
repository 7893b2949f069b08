"""Each shipped workflow in the real page: dropped, nothing missing, exported, run, seen."""
from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.browser.page import NO_DIALOG, OFFER, RUN_BUTTON, RUN_MS, STATE, WAIT_MS, ComfyPage, small_ui
from tests.conftest import Host
from tests.host import graphs
from tools.make_workflows import without_leftovers

SHOTS = os.environ.get("LTX23_SHOTS")  # folder for screenshots, to look at
NOTE = "MarkdownNote"


def shoot(tab: ComfyPage, server: Host, name: str) -> None:
    if SHOTS:
        front_end = "newest" if server.base.root.name == "newest" else "pinned"
        tab.screenshot(Path(SHOTS) / f"{front_end}-{name}.png")


# Run in both pages; the others are dropped and exported in the pinned one, and run by the host layer.
RUN = ("quick_start", "text_to_video", "image_to_video", "two_stage_apart", "extend")


@pytest.mark.parametrize("name", graphs.NAMES)
def test_drop_export_run_see(tab: ComfyPage, server: Host, name: str) -> None:
    if name not in RUN and server.base.root.name == "newest":
        pytest.skip("sampled: the newest front end opens the workflows that it also runs")
    ui = small_ui(name)
    state = tab.drop(f"{name}.json", json.dumps(ui))
    assert sorted(state["types"]) == sorted(node["type"] for node in ui["nodes"])
    assert state["missing"] == [] and state["toasts"] == []
    tab.page.wait_for_function(NO_DIALOG)  # what newer pages say of the graph before goes a moment later

    expected = graphs.workflow(name, f"browser/{name}")
    assert without_leftovers(tab.export(), expected) == expected
    if name not in RUN:
        shoot(tab, server, name)
        return

    before = tab.seen["previews"]
    width, height, _, seconds = tab.run()
    shoot(tab, server, name)
    frames, *size = graphs.shape_of(name)
    assert [height, width] == size
    assert seconds == pytest.approx(frames / 24, abs=0.1)
    assert tab.seen["previews"] > before, "no preview reached the page"
    assert tab.errors == []


CARDS = "[data-testid^='template-workflow-']"
PICTURES = f"""() => [...document.querySelectorAll("{CARDS} img")].map((each) => each.naturalWidth)"""


def look_at_the_templates(tab: ComfyPage, server: Host) -> None:
    """Open the dialog as a user does, and the pack's category: cards by their numbers, each with its picture."""
    statuses: list[int] = []

    def listen(answer: Any) -> None:
        if "workflow_templates" in answer.url and answer.url.endswith(".jpg"):
            statuses.append(answer.status)

    tab.page.on("response", listen)
    tab.page.locator(".templates-tab-button").first.click()
    tab.page.locator("[role=button]").get_by_text(server.pack).click(timeout=WAIT_MS)
    seen = f"() => ({PICTURES})().length >= 4 && ({PICTURES})().every((width) => width >= 600)"  # four in a row
    tab.page.wait_for_function(seen, timeout=WAIT_MS)
    tab.page.remove_listener("response", listen)
    assert len(statuses) >= 4 and set(statuses) == {200}
    shown = tab.page.locator(CARDS).evaluate_all("(cards) => cards.map((each) => each.innerText.split('\\n'))")
    for lines, title in zip(shown, sorted(graphs.ui_file(name).stem for name in graphs.NAMES), strict=True):
        assert title in lines, shown


def test_a_template_opens_from_the_dialog(tab: ComfyPage, server: Host) -> None:
    """A click on a card opens the workflow with the size that it was shipped with."""
    tab.page.evaluate("() => window.app.graph.clear()")
    look_at_the_templates(tab, server)
    if SHOTS:
        tab.page.screenshot(path=f"{SHOTS}/{server.base.root.name}-templates.png")
    name = "text_to_video"
    title = graphs.ui_file(name).stem
    tab.page.get_by_test_id(f"template-workflow-{title}").click()
    opened = "() => window.app.graph._nodes.some((each) => each.type === 'LTX23Sampler')"
    tab.page.wait_for_function(opened, timeout=WAIT_MS)
    tab.page.locator(CARDS).first.wait_for(state="hidden", timeout=WAIT_MS)
    tab.close_dialogs()
    state = tab.page.evaluate(STATE)
    ui = json.loads(graphs.ui_file(name).read_text(encoding="utf-8"))
    assert sorted(state["types"]) == sorted(node["type"] for node in ui["nodes"])
    others = [text for text in state["dialogs"] if not text.startswith("Missing Models")]  # the pinned page's own offer
    assert state["missing"] + state["toasts"] + others + tab.errors == []
    exported = tab.export()
    sizes = exported[graphs.node_id(exported, "LTX23Sampler")]["inputs"]
    assert (sizes["width"], sizes["height"], sizes["frames"]) == (768, 512, 121)
    expected = json.loads((graphs.WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    assert without_leftovers(exported, expected) == expected
    assert title in tab.page.locator(".workflow-tabs").first.inner_text()
    shoot(tab, server, "template-opened")


def test_choosing_a_recipe_fills_in_its_values(tab: ComfyPage) -> None:
    """The size, seed and steps of the recipe; files that are opened keep theirs."""
    ui = small_ui("quick_start")
    tab.drop("recipe.json", json.dumps(ui))
    read = """() => Object.fromEntries(window.app.graph._nodes.find((n) => n.type === "LTX23Sampler").widgets
        .map((w) => [w.name, w.value]))"""
    assert tab.page.evaluate(read)["width"] == graphs.SMALL["width"]
    choose = """(name) => { const node = window.app.graph._nodes.find((n) => n.type === "LTX23Sampler");
        const widget = node.widgets.find((w) => w.name === "recipe");
        widget.value = name; widget.callback(name, window.app.canvas, node, [0, 0], {}); }"""
    for recipe, width, height, seed in (("sglang_hq", 1920, 1088, 42), ("two_stage", 1536, 1024, 10)):
        tab.page.evaluate(choose, recipe)
        tab.page.wait_for_function(f"() => ({read})().width === {width}", timeout=WAIT_MS)
        values = tab.page.evaluate(read)
        assert (values["height"], values["seed"], values["frames"], values["steps"]) == (height, seed, 121, 0)
    type_width = """(value) => { const node = window.app.graph._nodes.find((n) => n.type === "LTX23Sampler");
        const widget = node.widgets.find((w) => w.name === "width");
        widget.value = value; widget.callback(value, window.app.canvas, node, [0, 0], {}); return widget.value; }"""
    typed = (768, 1280, 128, 1000, 1536)
    assert [tab.page.evaluate(type_width, value) for value in typed] == [768, 1280, 128, 1024, 1536], "steps of 64"
    tab.page.evaluate(choose, "auto")
    tab.page.wait_for_timeout(500)
    assert tab.page.evaluate(read)["width"] == 1536, "auto depends on the weights: nothing is filled in"
    assert tab.page.evaluate(type_width, 96) == 96, "steps of 32"


def overlaps(nodes: list[dict]) -> list[tuple[str, str]]:
    """Nodes that lie on one another."""
    found = []
    for first, second in itertools.combinations(nodes, 2):
        places = [sorted((each["pos"][axis], each["size"][axis]) for each in (first, second)) for axis in (0, 1)]
        if all(low + size > high for (low, size), (high, _) in places):
            found.append((first["type"], second["type"]))
    return found


def test_shipped_files_are_what_the_front_end_writes() -> None:
    """Facts that hold without a page: the seed is fixed, the pack can be offered, the twin has the same nodes."""
    for name in graphs.NAMES:
        ui = json.loads(graphs.ui_file(name).read_text(encoding="utf-8"))
        api = json.loads((graphs.WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
        assert {str(node["id"]): node["type"] for node in ui["nodes"] if node["type"] != NOTE} == {
            key: node["class_type"] for key, node in api.items()}
        for sampler in (node for node in ui["nodes"] if node["type"] == "LTX23Sampler"):
            assert "fixed" in sampler["widgets_values"]
        [overlay] = [node for node in ui["nodes"] if node["type"] == "LTX23Overlay"]
        assert set(overlay["widgets_values"]) == {"auto"}
        names = [each["name"] for each in ui["models"]]
        assert names[:2] == ["ltx-2.3-22b-dev.safetensors", "gemma_3_12B_it.safetensors"]
        for each in ui["models"]:
            assert each["url"].startswith("https://huggingface.co/") and each["url"].endswith(each["name"])
        width = max(node["pos"][0] + node["size"][0] for node in ui["nodes"])
        height = max(node["pos"][1] + node["size"][1] for node in ui["nodes"])
        most = 830 if name in ("quick_start", "text_to_video", "two_stage", "distilled") else 1500
        assert width <= 1400 and height <= most, f"{name} opens too small to read: {width:.0f}x{height:.0f}"
        assert not overlaps(ui["nodes"]), name
        for node in ui["nodes"]:
            if node["type"].startswith("LTX23"):
                assert node["properties"]["cnr_id"] == "ltx23-node-pack" and node["properties"]["ver"]
        picture = Image.open(graphs.ui_file(name).with_suffix(".jpg"))
        assert picture.format == "JPEG" and 600 <= picture.width <= 1600, "frames of a result side by side"


def test_a_broken_file_is_noticed(tab: ComfyPage) -> None:
    """The control: with a node that nobody has, the same checks do find something."""
    ui = small_ui("quick_start")
    ui["nodes"][0]["type"] = "LTX23NoSuchNode"
    ui["nodes"][0]["properties"]["Node name for S&R"] = "LTX23NoSuchNode"
    state = tab.drop("broken.json", json.dumps(ui))
    assert state["missing"] == ["LTX23NoSuchNode"]
    told = f"() => ({STATE})().dialogs.some((text) => text.includes('LTX23NoSuchNode'))"
    tab.page.wait_for_function(told, timeout=WAIT_MS)
    tab.page.keyboard.press("Escape")


WRONG = """() => { const node = window.app.graph._nodes.find((n) => n.type === "LTX23Sampler");
    for (const [name, value] of [["width", 1000], ["height", 700]])
        node.widgets.find((w) => w.name === name).value = value; }"""


def test_refusal_reaches_the_page(chromium: Any, server: Host) -> None:
    """A size that cannot be: the page has one entry for each wrong input, and shows as many."""
    is_newest = server.base.root.name == "newest"
    server.client.post(f"/settings/{OFFER}", not is_newest)
    tab = ComfyPage(chromium, server.url)
    server.client.post(f"/settings/{OFFER}", False)
    tab.drop("bad.json", json.dumps(small_ui("quick_start")))
    if not is_newest:  # the pinned page's own offer, of files that a test does not have
        offer = tab.page.locator(".p-dialog")
        offer.get_by_text("gemma_3_12B_it.safetensors").first.wait_for()
        assert offer.first.inner_text().startswith("Missing Models") and "text_encoders /" in offer.first.inner_text()
        tab.close_dialogs()
    tab.page.evaluate(WRONG)
    tab.page.locator(RUN_BUTTON).first.click()
    tab.page.wait_for_function("() => window.app.lastNodeErrors && Object.keys(window.app.lastNodeErrors).length",
                               timeout=WAIT_MS)
    errors = json.loads(tab.page.evaluate("() => JSON.stringify(window.app.lastNodeErrors)"))
    [entry] = errors.values()
    told = {each["extra_info"]["input_name"]: each["details"] for each in entry["errors"]}
    assert len(entry["errors"]) == 2 and set(told) == {"width", "height"}
    assert "Use 992 or 1024." in told["width"] and "Use 672 or 704." in told["height"]
    tab.page.wait_for_timeout(1500)
    shoot(tab, server, "refusal")
    seen = tab.page.evaluate(STATE)
    text = "\n".join(seen["dialogs"] + seen["toasts"])
    assert text.count("width is 1000") <= 1 and text.count("height is 700") <= 1, text
    tab.page.close()


TWO_WRONG = """() => { const samplers = window.app.graph._nodes.filter((n) => n.type === "LTX23Sampler");
    samplers[0].widgets.find((w) => w.name === "width").value = 130;
    samplers[1].widgets.find((w) => w.name === "height").value = 65; }"""


def test_two_nodes_that_are_wrong_in_different_inputs(tab: ComfyPage) -> None:
    """One entry for each, where ComfyUI's answer has four; other nodes' entries stay as they are."""
    tab.drop("two.json", json.dumps(small_ui("two_stage_apart")))
    tab.close_dialogs()
    tab.page.evaluate(TWO_WRONG)
    tab.page.evaluate("() => { window.app.lastNodeErrors = null; }")
    tab.page.locator(RUN_BUTTON).first.click()
    tab.page.wait_for_function("() => window.app.lastNodeErrors && Object.keys(window.app.lastNodeErrors).length > 1",
                               timeout=WAIT_MS)
    errors = json.loads(tab.page.evaluate("() => JSON.stringify(window.app.lastNodeErrors)"))
    told = sorted(each["details"].partition(".")[0] for entry in errors.values() for each in entry["errors"])
    assert told == ["height - height is 65 pixels", "width - width is 130 pixels"]
    tab.page.keyboard.press("Escape")


PREVIEW = """() => { const node = window.app.graph._nodes.find((n) => n.type === "LTX23Sampler");
    return {open: node.ltx23Player.open, height: node.size[1], imgs: node.imgs?.length ?? 0}; }"""


LATE = """() => { const node = window.app.graph._nodes.find((n) => n.type === "LTX23Sampler");
    const picture = Object.assign(document.createElement("canvas"), {width: 8, height: 8}).toDataURL();
    node.ltx23Player.play({image: picture, columns: 1, count: 1, seconds: 1});
    (window.app.api ?? window.comfyAPI.api.api).dispatchCustomEvent("execution_success", {}); }"""


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "nodes2"])
def test_the_preview_moves_and_gives_its_room_back(chromium: Any, server: Host, vue: bool) -> None:
    server.client.post("/settings/Comfy.VueNodes.Enabled", vue)
    try:
        tab = ComfyPage(chromium, server.url)
        ui = small_ui("quick_start")
        tab.drop("preview.json", json.dumps(ui))
        tab.close_dialogs()
        tab.page.evaluate("""(seed) => { const node = window.app.graph._nodes.find((n) => n.type === "LTX23Sampler");
            for (const [name, value] of [["seed", seed], ["steps", 60]])
                node.widgets.find((w) => w.name === name).value = value; }""", 551 + vue)  # not in the cache
        before = tab.page.evaluate(PREVIEW)
        assert before["open"] is False
        tab.page.locator(RUN_BUTTON).first.click()
        grown = f"() => {{ const now = ({PREVIEW})(); return now.open && now.height > {before['height']} && now; }}"
        during = tab.page.wait_for_function(grown, timeout=RUN_MS).json_value()
        assert during["imgs"] == 0, "no second picture"
        shoot(tab, server, f"preview-{'nodes2' if vue else 'canvas'}")
        done = "() => window.seen.errors.length || window.seen.executed.includes('4')"  # Decode To File
        tab.page.wait_for_function(done, timeout=RUN_MS)
        tab.page.wait_for_function(f"() => !({PREVIEW})().open", timeout=WAIT_MS)
        tab.page.evaluate(LATE)
        tab.page.wait_for_timeout(500)
        assert not tab.page.evaluate(PREVIEW)["open"], "a picture that is ready after the run opens nothing"
        assert tab.seen["errors"] == [] and tab.errors == []
        tab.page.close()
    finally:
        server.client.post("/settings/Comfy.VueNodes.Enabled", False)


BOXES = """() => Object.fromEntries(window.app.graph._nodes.find((n) => n.type === "LTX23Sampler").widgets
    .filter((w) => w.name.endsWith("prompt")).map((w) => [w.name, Boolean(w.disabled)]))"""


def test_boxes_that_do_not_act_are_off(tab: ComfyPage) -> None:
    tab.drop("linked.json", json.dumps(small_ui("text_to_video")))
    tab.page.keyboard.press("Escape")
    tab.page.wait_for_function(f"() => ({BOXES})().prompt", timeout=WAIT_MS)
    assert tab.page.evaluate(BOXES) == {"prompt": True, "negative_prompt": True}
    tab.page.evaluate("""() => { const node = window.app.graph._nodes.find((n) => n.type === "LTX23Sampler");
        node.disconnectInput(node.inputs.findIndex((each) => each.name === "context")); }""")
    tab.page.wait_for_function(f"() => !({BOXES})().prompt", timeout=WAIT_MS)
    tab.drop("long.json", json.dumps(small_ui("long_video")))
    tab.page.keyboard.press("Escape")
    tab.page.wait_for_function(f"() => ({BOXES})().prompt", timeout=WAIT_MS)


FINDS = {"lightricks": "LTX23Load", "video with sound": "LTX23Sampler", "image to video": "LTX23ImageCondition",
         "overlay": "LTX23Overlay"}


RESULTS = "[role=option], [data-testid=node-search-result]"
BOX = "input[type=text]:visible, input[role=combobox]:visible, input[role=searchbox]:visible"


# Before it comes only what a newer ComfyUI has itself with just these words in its name: nodes, blueprints.
FIRST = """([results, start, words]) => {
  const shown = [...document.querySelectorAll(results)].filter((each) => each.checkVisibility());
  const texts = shown.map((each) => each.innerText.replaceAll("\u00a0", " ").trim()).filter(Boolean);
  const place = texts.findIndex((text) => text.startsWith(start));
  const isTheirs = (text) => text.split("\\n")[0].toLowerCase().includes(words) && !text.startsWith("LTX-2.3");
  return place >= 0 && texts.slice(0, place).every(isTheirs);
}"""


def search(tab: ComfyPage, words: str) -> None:
    """Type into the page's search for a node; opened again where something else took the double click."""
    others = tab.page.locator(BOX).count()
    for _ in range(5):
        tab.page.mouse.dblclick(800, 500)
        for _ in range(50):
            tab.page.wait_for_timeout(100)
            if tab.page.locator(BOX).count() > others:
                tab.page.locator(BOX).last.fill(words)
                return
        tab.close_dialogs()
    pytest.fail("the page's search does not open")


def test_search_finds_the_right_node_first(chromium: Any, server: Host) -> None:
    tab = ComfyPage(chromium, server.url)
    tab.close_dialogs()
    names = {key: info["display_name"] for key, info in server.client.get("/object_info").items()}
    tab.page.evaluate("() => window.app.graph.clear()")
    for words, node in {"ltx": None, **FINDS}.items():
        search(tab, words)
        start = names[node] if node else ""
        tab.page.wait_for_function(FIRST, arg=[RESULTS, start, words], timeout=WAIT_MS)
        tab.page.keyboard.press("Escape")
        tab.page.locator(RESULTS).first.wait_for(state="hidden")
    tab.page.close()
