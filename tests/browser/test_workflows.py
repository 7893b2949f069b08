"""Each shipped workflow in the real page: dropped, nothing missing, exported, run, seen."""
from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.browser.page import ComfyPage
from tests.conftest import Host
from tests.host import graphs
from tools.example_files import add_media
from tools.install import FRONT_END, FRONT_END_NEWEST

SHOTS = os.environ.get("LTX23_SHOTS")  # folder for screenshots, to look at
NOTE = "MarkdownNote"


@pytest.fixture(scope="module", params=[FRONT_END, FRONT_END_NEWEST])
def server(request: pytest.FixtureRequest, start_host: Callable[..., Host], host: Host) -> Host:
    """The shared server with the front end that this ComfyUI pins, and one with the newest."""
    server = host if request.param == FRONT_END else start_host("newest", front_end=request.param)
    add_media(server.base.input)
    return server


@pytest.fixture(scope="module")
def tab(chromium: Any, server: Host) -> Iterator[ComfyPage]:
    tab = ComfyPage(chromium, server.url)
    yield tab
    tab.page.close()


def small_ui(name: str) -> dict[str, Any]:
    """A shipped UI file with small sizes and a file name of its own; layout and links as shipped."""
    ui = json.loads((graphs.WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    values = {**graphs.values_of(name), "filename_prefix": f"browser/{name}"}
    for node in ui["nodes"]:
        names = [each["name"] for each in node.get("inputs", []) if "widget" in each]
        if "seed" in names:
            names.insert(names.index("seed") + 1, "control_after_generate")
        old = node.get("widgets_values", [])
        node["widgets_values"] = [values.get(key, value) for key, value in zip(names, old, strict=False)]
        node["widgets_values"] += old[len(names):]
    return ui


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
    assert state["missing"] == [] and state["toasts"] == [] and state["dialogs"] == []

    expected = graphs.workflow(name, f"browser/{name}")
    assert tab.export() == expected
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
        tab.page.wait_for_function(f"() => ({read})().width === {width}", timeout=20_000)
        values = tab.page.evaluate(read)
        assert (values["height"], values["seed"], values["frames"], values["steps"]) == (height, seed, 121, 0)
    tab.page.evaluate(choose, "auto")
    tab.page.wait_for_timeout(500)
    assert tab.page.evaluate(read)["width"] == 1536, "auto depends on the weights: nothing is filled in"


def test_shipped_files_are_what_the_front_end_writes() -> None:
    """Facts that hold without a page: the seed is fixed, the pack can be offered, the twin has the same nodes."""
    for name in graphs.NAMES:
        ui = json.loads((graphs.WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
        api = json.loads((graphs.WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
        assert {str(node["id"]): node["type"] for node in ui["nodes"] if node["type"] != NOTE} == {
            key: node["class_type"] for key, node in api.items()}
        for sampler in (node for node in ui["nodes"] if node["type"] == "LTX23Sampler"):
            assert "fixed" in sampler["widgets_values"]
        [overlay] = [node for node in ui["nodes"] if node["type"] == "LTX23Overlay"]
        assert set(overlay["widgets_values"]) == {"auto"}
        assert overlay["properties"]["models"][0]["url"].startswith("https://huggingface.co/Lightricks/")
        for node in ui["nodes"]:
            if node["type"].startswith("LTX23"):
                assert node["properties"]["cnr_id"] == "ltx23-node-pack" and node["properties"]["ver"]
        picture = Image.open(graphs.WORKFLOWS / f"{name}.jpg")
        assert picture.format == "JPEG" and 600 <= picture.width <= 1600


def test_sentences_are_shown(tab: ComfyPage) -> None:
    """What each chosen file is stands in the Overlay node, follows the choice, and is not saved."""
    tab.drop("sentences.json", json.dumps(small_ui("quick_start")))
    box = """() => window.app.graph._nodes.find((n) => n.type === "LTX23Overlay").ltx23Text.value"""
    tab.page.wait_for_function(f"() => ({box})().includes('LTX-2.3')", timeout=20_000)
    text = tab.page.evaluate(box)
    assert "checkpoint: ltx-2.3-tiny.safetensors, LTX-2.3, monolith, bf16, 9.1 MB" in text
    assert "text_encoder: gemma, Gemma 3 of 7 layers" in text
    tab.page.evaluate("""() => { const node = window.app.graph._nodes.find((n) => n.type === "LTX23Overlay");
        const widget = node.widgets.find((w) => w.name === "text_encoder");
        widget.value = "none"; widget.callback("none"); }""")
    tab.page.wait_for_function(f"() => !({box})().includes('text_encoder')", timeout=20_000)
    saved = tab.page.evaluate("""() => JSON.stringify(window.app.graph.serialize().nodes
        .find((n) => n.type === "LTX23Overlay").widgets_values)""")
    assert json.loads(saved) == ["auto", "none", *["auto"] * 6]


def test_a_broken_file_is_noticed(tab: ComfyPage) -> None:
    """The control: with a node that nobody has, the same checks do find something."""
    ui = small_ui("quick_start")
    ui["nodes"][0]["type"] = "LTX23NoSuchNode"
    ui["nodes"][0]["properties"]["Node name for S&R"] = "LTX23NoSuchNode"
    state = tab.drop("broken.json", json.dumps(ui))
    assert state["missing"] == ["LTX23NoSuchNode"]
    assert any("LTX23NoSuchNode" in text for text in state["dialogs"]), state


def test_refusal_reaches_the_page(chromium: Any, server: Host) -> None:
    """A size that cannot be: the page marks the sampler, and the words are there for those who ask."""
    tab = ComfyPage(chromium, server.url)
    ui = small_ui("quick_start")
    tab.drop("bad.json", json.dumps(ui))
    tab.page.evaluate("""() => { window.app.graph._nodes.find((n) => n.type === "LTX23Sampler")
        .widgets.find((w) => w.name === "width").value = 97; }""")
    tab.page.locator("[data-testid=queue-button] button, button[data-testid=queue-button]").first.click()
    tab.page.wait_for_function("() => window.app.lastNodeErrors && Object.keys(window.app.lastNodeErrors).length",
                               timeout=20_000)
    errors = tab.page.evaluate("() => JSON.stringify(window.app.lastNodeErrors)")
    assert "width is 97 pixels" in errors and "Use 96 or 128." in errors
    shoot(tab, server, "refusal")
    tab.page.close()
