"""The timelines of Long Video, Keyframes and Retake in the real page: what they show is what the library does, and what
is dragged or moved with the keys is in the node's own values and in the prompt."""
from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from ltx23_core.conditioning.retake import region_mask
from ltx23_core.geometry import VideoGrid, audio_latent_length, audio_positions, video_positions, window_problem
from ltx23_core.plan.windows import Timeline, Windows, first_frame, plan_windows, prompts_of
from tests.browser.page import WAIT_MS, ComfyPage
from tests.conftest import Host

SHOTS = os.environ.get("LTX23_SHOTS")  # folder for screenshots, to look at
FRAMES, FPS = 409, 24
PROMPTS = "A fox walks.\n---\nIt stops.\n--- \n\n---\nIt runs."
DRIVEN = {"LTX23LongVideo": ("window", "overlap"), "LTX23Keyframe": ("at_frames",), "LTX23Retake": ("start", "end")}
VALUES = {"LTX23LongVideo": 6, "LTX23Keyframe": 4, "LTX23Retake": 4}  # that a saved node has, as without a timeline

# Two Samplers: a long one behind Long Video and Keyframes, one of the clip's 17 frames behind Retake.
BUILD = """([frames, prompts]) => {
  const { app, LiteGraph } = window;
  app.graph.clear();
  const add = (type, x, y, values) => {
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    Object.assign(node, { pos: [x, y] });
    for (const [name, value] of Object.entries(values)) node.widgets.find((each) => each.name === name).value = value;
    return node;
  };
  const link = (from, slot, to, name) => from.connect(slot, to, to.inputs.findIndex((each) => each.name === name));
  const [made, short] = [frames, 17].map((frames, index) => add("LTX23Sampler", 1250, 150 + 800 * index, { frames }));
  // Front end 1.49.6 gives a node of an id that was there before the values of that one: all that counts is set.
  const long = add("LTX23LongVideo", 120, 150, { prompts, window: 121, overlap: 24 });
  const keyframe = add("LTX23Keyframe", 540, 150, { at_frames: "0, 60" });
  const retake = add("LTX23Retake", 890, 150, { start: 0.2, end: 0.5 });
  const [one, two] = [0, 1].map((index) => add("LoadImage", 300 * index, 1000, { image: "example.png" }));
  const batch = add("ImageBatch", 600, 1000, {});
  const video = add("LoadVideo", 900, 1000, { file: "example.mp4" });
  link(long, 0, made, "windows");
  link(keyframe, 0, made, "conditions");
  link(one, 0, batch, "image1");
  link(two, 0, batch, "image2");
  link(batch, 0, keyframe, "images");
  link(video, 0, retake, "video");
  link(retake, 0, short, "conditions");
  window.built = { add, link, made, long, keyframe, retake };
  Object.assign(app.canvas.ds, { scale: 1, offset: [0, 0] });
  app.canvas.setDirty(true, true);
}"""
READY = """() => document.querySelectorAll(".ltx23-timeline [role=slider]").length === 7
  && document.querySelectorAll(".ltx23-timeline img").length === 2
  && document.querySelector(".ltx23-timeline .clip").style.backgroundImage.startsWith("url")"""
STILL = """async () => {
  const places = () => JSON.stringify([...document.querySelectorAll(".ltx23-timeline [role=slider]")]
    .map((each) => each.getBoundingClientRect()));
  const before = places();
  for (let frame = 0; frame < 20; frame += 1) await new Promise(requestAnimationFrame);
  return places() === before;
}"""
BARS = """() => [...document.querySelectorAll(".ltx23-timeline .bar")]
  .map((bar) => [bar, bar.style.left, bar.style.width]).map(([, ...place]) => place.map(parseFloat))"""
RULES = """async ([pack, cases]) => {
  const rules = await import(`/extensions/${pack}/js/timeline_rules.js`);
  const windows = cases.windows.map(([frames, window, overlap, count]) =>
    rules.windowProblem(frames, window, overlap) ? null : rules.windowsOf(frames, window, overlap, count));
  const anew = cases.stretches.map(([frames, fps, sound, start, end]) =>
    rules.retaken(rules.grid(frames, fps, sound), start, end));
  const edges = cases.edges.map(([frames, fps, sound, first, last]) => {
    const cells = rules.grid(frames, fps, sound);
    const [start, end] = [rules.startAt(cells, first), rules.endAt(cells, last)];
    return [start, end, cells.nearest(start), cells.nearest(end)];
  });
  return { windows, anew, edges, prompts: cases.texts.map(rules.promptsOf) };
}"""


def library_windows(frames: int, window: int, overlap: int, count: int) -> list[dict[str, int]] | None:
    """What the library makes of it, as the page's rules say it; None where it refuses."""
    if frames % 8 != 1 or window_problem(window, overlap if frames > window else None):
        return None
    windows = plan_windows(frames, FPS, window, overlap)
    timeline = Timeline(Windows(window, overlap, prompts=tuple(range(count))), tuple(windows))
    return [{"begin": first_frame(each.video[0]), "held": first_frame(each.video[0] + each.held[0]),
             "end": first_frame(each.video[1]), "prompt": timeline.prompt(each, -1)} for each in windows]


def library_stretch(frames: int, fps: float, sound: bool, start: float, end: float) -> list[int] | None:
    """First and last + 1 of the latents that Retake makes anew."""
    positions = video_positions(VideoGrid((frames - 1) // 8 + 1, 1, 1), fps)
    if sound:
        positions = audio_positions(audio_latent_length(frames, fps))
    open_ones = region_mask(positions, start, end)[0, :, 0].nonzero()[:, 0].tolist()
    return [open_ones[0], open_ones[-1] + 1] if open_ones else None


def cases() -> dict[str, list[Any]]:
    """Values as a user may give them, good and bad, always the same."""
    draw = random.Random(13)
    windows, stretches, edges = [], [], []
    for _ in range(300):
        fps = draw.choice([24, 25, 23.976, 30000 / 1001, 60, 8])
        frames = draw.choice([draw.randrange(1, 1200, 8), draw.randrange(1, 1200)])
        window = draw.choice([draw.randrange(17, 482, 8), draw.randrange(9, 482)])
        windows.append([frames, window, draw.choice([24, draw.randrange(8, 200, 8), draw.randrange(1, 480)]),
                        draw.randrange(9)])
        frames, sound = draw.randrange(17, 1200, 8), draw.random() < 0.5
        start, length = round(draw.uniform(0, frames / fps), 2), draw.choice([0.01, 0.04, 1, 30])
        stretches.append([frames, fps, sound, start, round(start + draw.uniform(0.01, 1) * length, 2)])
        cells = (frames - 1) // 8 + 1
        if sound:
            cells = audio_latent_length(frames, fps)
        first = draw.randrange(cells)
        edges.append([frames, fps, sound, first, draw.randrange(first, cells) + 1])
    texts = ["", "one", PROMPTS, "a\r\n---\r\nb", "a\n--\nb", "---\na\n \t-----\t\nb\n---", "a --- b"]
    return {"windows": windows, "stretches": stretches, "edges": edges, "texts": texts}


def test_the_pages_rules_are_the_librarys(tab: ComfyPage, server: Host) -> None:
    asked = cases()
    told = tab.page.evaluate(RULES, [server.pack, asked])
    expected = [library_windows(*case) for case in asked["windows"]]
    assert told["windows"] == expected
    assert 60 < expected.count(None) < 240, "both kinds are tried"
    assert told["anew"] == [library_stretch(*case) for case in asked["stretches"]]
    assert told["prompts"] == [prompts_of(text) for text in asked["texts"]]
    for case, (start, end, *indices) in zip(asked["edges"], told["edges"], strict=True):
        frames, fps, sound, first, last = case
        assert start < end and library_stretch(frames, fps, sound, start, end) == [first, last], case
        assert indices == [first, last], "what was set is found again"


class Hand:
    """A user's hand on the sliders of the built graph."""

    def __init__(self, tab: ComfyPage) -> None:
        self.page = tab.page

    def values(self) -> dict[str, Any]:
        read = """(driven) => Object.fromEntries(Object.entries(driven).flatMap(([type, names]) => {
          const { widgets } = window.app.graph._nodes.find((node) => node.type === type);
          return names.map((name) => [name, widgets.find((each) => each.name === name).value]); }))"""
        return self.page.evaluate(read, DRIVEN)

    def slider(self, label: str) -> Any:
        return self.page.locator(f'.ltx23-timeline [role=slider][aria-label="{label}"]')

    def drag(self, label: str, share: float) -> None:
        """Drag by a share of the whole track."""
        slider = self.slider(label)
        box, track = slider.bounding_box(), slider.locator("xpath=..").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + share * track["width"], y, steps=3)
        self.page.mouse.up()

    def press(self, label: str, *keys: str) -> None:
        self.slider(label).focus()
        for key in keys:
            self.page.keyboard.press(key)

    def said(self, kind: str) -> str:
        return self.page.evaluate("""(kind) => {
          const { ltx23Timeline } = window.app.graph._nodes.find((each) => each.type === kind);
          ltx23Timeline.look();
          return ltx23Timeline.sheet.said.textContent; }""", kind)


def use(tab: ComfyPage, server: Host, vue: bool) -> Hand:
    """The built graph, on the canvas or as Nodes 2.0."""
    if server.base.root.name.startswith("newest"):
        tab.page.evaluate("(on) => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", vue)
    elif vue:
        pytest.skip("Nodes 2.0 is looked at in the newest front end")
    tab.page.evaluate(BUILD, [FRAMES, PROMPTS])
    tab.page.wait_for_function(READY, timeout=WAIT_MS)
    tab.page.wait_for_function(STILL, timeout=WAIT_MS)  # the page has laid the nodes out
    return Hand(tab)


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "nodes2"])
def test_what_is_dragged_is_what_is_queued(tab: ComfyPage, server: Host, vue: bool) -> None:
    hand = use(tab, server, vue)
    hand.drag("window", 24 / FRAMES)
    hand.drag("overlap", -8 / FRAMES)
    assert (hand.values()["window"], hand.values()["overlap"]) == (145, 32)
    shown = [[each["begin"], each["end"]] for each in library_windows(FRAMES, 145, 32, 3)]
    shares = [[100 * begin / FRAMES, 100 * (end - begin) / FRAMES] for begin, end in shown]
    assert tab.page.evaluate(BARS) == [pytest.approx(each, abs=0.001) for each in shares]
    assert hand.said("LTX23LongVideo") == f"17.04 s, 409 frames · {len(shown)} windows of 6.04 s"

    hand.drag("picture 2", 100 / FRAMES)
    first, second = map(int, hand.values()["at_frames"].split(", "))
    assert first == 0 and abs(second - 160) <= 2, "within a pixel"
    hand.press("picture 2", "ArrowRight", "PageUp")
    assert hand.values()["at_frames"] == f"0, {second + 1 + FPS}"
    hand.press("picture 2", "Home")
    assert hand.values()["at_frames"] == "0, 1", "frame 0 is taken"
    hand.press("picture 2", "End")
    assert hand.values()["at_frames"] == "0, -1"

    hand.press("end", "ArrowRight")
    hand.drag("start", -0.5)
    assert (hand.values()["start"], hand.values()["end"]) == (0, 0.7)
    hand.press("start", "ArrowRight", "ArrowRight")
    hand.drag("stretch", -8 / 17)
    assert hand.said("LTX23Retake") == "made anew: frames 1 to 8"
    if SHOTS:
        kind = "nodes2" if vue else "canvas"
        tab.page.screenshot(path=str(Path(SHOTS) / f"{server.base.root.name}-timeline-{kind}.png"))

    expected = {"window": 145, "overlap": 32, "at_frames": "0, -1", "start": 0.05, "end": 0.37}
    assert hand.values() == expected
    queued = {node["class_type"]: node["inputs"] for node in tab.export().values()}
    saved = json.loads(tab.page.evaluate("() => JSON.stringify(window.app.graph.serialize())"))
    for kind, names in DRIVEN.items():
        assert {name: queued[kind][name] for name in names} == {name: expected[name] for name in names}
        assert "timeline" not in queued[kind]
        [node] = [node for node in saved["nodes"] if node["type"] == kind]
        assert len(node["widgets_values"]) == VALUES[kind]
    assert tab.errors == []


def test_undo_takes_a_key_back(tab: ComfyPage, server: Host) -> None:
    hand = use(tab, server, vue=False)
    hand.drag("window", 24 / FRAMES)
    hand.press("window", "ArrowLeft")
    assert hand.values()["window"] == 137
    tab.page.wait_for_timeout(300)
    tab.page.keyboard.press("Control+z")
    tab.page.wait_for_function("""() => window.app.graph._nodes.find((node) => node.type === "LTX23LongVideo")
      .widgets.find((each) => each.name === "window").value === 145""", timeout=WAIT_MS)


ODD = """() => {
  const { add, link, made, long, keyframe, retake } = window.built;
  link(add("PrimitiveInt", 0, 800, { value: 65 }), 0, long, "window");
  link(made, 2, retake, "start");
  const [one, two] = [0, 1].map(() => add("Reroute", 0, 900, {}));
  one.connect(0, two, 0);
  two.connect(0, one, 0);
  two.connect(0, keyframe, keyframe.inputs.findIndex((each) => each.name === "images"));
  keyframe.widgets.find((each) => each.name === "at_frames").value = "0, 500";
}"""


def test_what_is_linked_and_odd_graphs(tab: ComfyPage, server: Host) -> None:
    """A primitive is followed and cannot be dragged; what a run makes is said to be unknown; nothing throws."""
    hand = use(tab, server, vue=False)
    before = hand.values()
    tab.page.evaluate(ODD)
    count = len(plan_windows(FRAMES, FPS, 65, 24))
    assert hand.said("LTX23LongVideo") == f"17.04 s, 409 frames · {count} windows of 2.71 s"
    assert hand.slider("window").get_attribute("aria-disabled") == "true"
    hand.drag("window", 0.2)
    hand.press("window", "ArrowRight")
    assert hand.values() == {**before, "at_frames": "0, 500"}
    assert hand.said("LTX23Retake") == "start or end is linked: known in the run"
    assert hand.said("LTX23Keyframe") == "Frame 500 is not among the 409 frames of Sampler"
    for text, said in (("0, 1.5", "numbers with commas"), ("0, 408, -1", "same frame"), ("", "numbers with commas")):
        tab.page.evaluate("(text) => { window.built.keyframe.widgets[0].value = text; }", text)
        assert said in hand.said("LTX23Keyframe"), text
    tab.page.evaluate("() => window.app.graph.remove(window.built.made)")
    assert "no Sampler is linked" in hand.said("LTX23LongVideo")
    tab.page.evaluate("() => window.app.graph.clear()")
    tab.page.wait_for_timeout(600)
    assert tab.errors == []
