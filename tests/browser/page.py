"""ComfyUI's page in a real browser: drop a file, see what the page says, run, look at the result."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

READY_MS, RUN_MS = 120_000, 180_000

READY = "() => window.app?.graph && window.LiteGraph?.registered_node_types?.LTX23Sampler"
DROP = """async ([name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name, {type: "application/json"}));
  const target = document.querySelector("#graph-canvas");
  for (const kind of ["dragenter", "dragover", "drop"])
    target.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true,
                                              clientX: 700, clientY: 500}));
}"""
STATE = """() => ({
  types: window.app.graph._nodes.map((node) => node.type),
  missing: window.app.graph._nodes.map((node) => node.type)
    .filter((type) => !(type in window.LiteGraph.registered_node_types)),
  toasts: [...document.querySelectorAll(".p-toast-message")].map((each) => each.innerText),
  dialogs: [...document.querySelectorAll(".p-dialog, [data-testid=error-overlay]")].map((each) => each.innerText),
})"""
LISTEN = """() => {
  window.seen = {previews: 0, executed: [], errors: []};
  const api = window.app.api ?? window.comfyAPI?.api?.api;
  api.addEventListener("b_preview", () => { window.seen.previews += 1; });
  api.addEventListener("executed", (event) => window.seen.executed.push(String(event.detail.node)));
  api.addEventListener("execution_error", (event) => window.seen.errors.push(event.detail.exception_message));
}"""
FIT = """() => {
  const nodes = window.app.graph._nodes, canvas = window.app.canvas;
  const low = [0, 1].map((i) => Math.min(...nodes.map((n) => n.pos[i] - (i ? 40 : 0))));
  const high = [0, 1].map((i) => Math.max(...nodes.map((n) => n.pos[i] + n.size[i])));
  const scale = Math.min(1500 / (high[0] - low[0]), 700 / (high[1] - low[1]), 1);
  canvas.ds.scale = scale;
  canvas.ds.offset = [100 / scale - low[0], 200 / scale - low[1]];
  canvas.setDirty(true, true);
}"""
# The result: videos of the input folder, which Load Video shows, are none.
VIDEO = """() => [...document.querySelectorAll("video")].filter((video) => !video.currentSrc.includes("type=input"))
  .map((video) => [video.videoWidth, video.videoHeight, video.readyState, video.duration])
  .find(([width, , ready]) => width > 0 && ready >= 2)"""
RUN_BUTTON = "[data-testid=queue-button] button, button[data-testid=queue-button]"


class ComfyPage:
    """One open tab; `errors` collects what scripts threw."""

    def __init__(self, browser: Any, url: str) -> None:
        self.page = browser.new_page(viewport={"width": 1700, "height": 1000})
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url, wait_until="domcontentloaded")
        self.page.wait_for_function(READY, timeout=READY_MS)
        self.page.wait_for_timeout(2000)  # the page restores its last graph after it says it is ready
        self.page.evaluate(LISTEN)

    def drop(self, name: str, text: str) -> dict[str, Any]:
        """Drop a file on the canvas; what the page then has and says."""
        self.page.evaluate("() => window.app.graph.clear()")
        self.page.evaluate(DROP, [name, text])
        self.page.wait_for_function("() => window.app.graph._nodes.length > 0", timeout=20_000)
        self.page.wait_for_timeout(2500)  # toasts and dialogs come a moment later
        return self.page.evaluate(STATE)

    def export(self) -> dict[str, Any]:
        """The API form that the page makes of its graph; of what newer pages note about nodes only the title."""
        made = "async () => JSON.stringify((await window.app.graphToPrompt()).output)"
        graph = json.loads(self.page.evaluate(made))
        return {key: node | {"_meta": {"title": node["_meta"]["title"]}} for key, node in graph.items()}

    def run(self) -> list[float]:
        """Press Run; width, height, ready state and seconds of the video that then plays."""
        self.page.locator(RUN_BUTTON).first.click()
        self.page.wait_for_function(f"() => window.seen.errors.length || ({VIDEO})()", timeout=RUN_MS)
        assert self.seen["errors"] == []
        return self.page.evaluate(VIDEO)

    @property
    def seen(self) -> dict[str, Any]:
        """Previews, executed nodes and errors since the page opened."""
        return self.page.evaluate("() => window.seen")

    def screenshot(self, path: Path) -> None:
        """The window with the whole graph in it."""
        self.page.evaluate(FIT)
        self.page.wait_for_timeout(1200)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path))
