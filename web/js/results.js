// The strip of Decode To File: the last runs and each result of a batch as small players, the newest first. A click puts
// the values of that run back into the graph, a double click opens the file. The server's history is what is shown, so the
// strip is there again after the page was. Without this file the node's text names the files.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { nodesOf, placeOf, root } from "./graph.js";
import { add } from "./parts.js";
import { restore } from "./restore.js";

const NODE = "LTX23DecodeToFile";
const RUNS = 24; // of the history, whoever queued them
const TILES = 16;
const HEIGHT = 118; // pixels
const DOUBLE_MS = 260; // within which a second click makes a double one
const STYLE = `
.ltx23-results { box-sizing: border-box; width: 100%; max-height: 118px; display: flex; align-items: flex-start; gap: 6px; overflow-x: auto; overflow-y: hidden;
  padding: 4px 2px; font: 10px/1.3 system-ui, sans-serif; color: var(--input-text, #ddd); }
.ltx23-results figure { position: relative; flex: 0 0 104px; margin: 0; cursor: pointer; border-radius: 5px; overflow: hidden;
  background: var(--comfy-input-bg, #222); border: 1px solid #8883; outline: none; }
.ltx23-results figure:hover, .ltx23-results figure:focus-visible { border-color: #64b5f6; }
.ltx23-results figure.now { border-color: #5fbf77; }
.ltx23-results figure.first:not(:first-child) { margin-left: 6px; }
.ltx23-results video, .ltx23-results .none { display: grid; place-items: center; width: 100%; height: 62px; object-fit: cover; background: #0006; }
.ltx23-results figcaption { padding: 2px 4px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.ltx23-results figcaption small { display: block; opacity: .6; font-size: 9px; overflow: hidden; text-overflow: ellipsis; }
.ltx23-results button { position: absolute; top: 2px; right: 2px; padding: 0 4px; border: 0; border-radius: 3px; font-size: 11px;
  line-height: 15px; color: #fff; background: #000a; cursor: pointer; opacity: 0; }
.ltx23-results figure:hover button, .ltx23-results button:focus { opacity: 1; }`;

function say(severity, summary, detail) {
  app.extensionManager?.toast?.add?.({ severity, summary, detail, life: 6000 });
}

// The runs of this workflow that ended with results of a node, the newest first.
async function runsOf(node) {
  const answer = await api.fetchApi(`/history?max_items=${RUNS}`);
  const history = answer.ok ? await answer.json() : {};
  const mine = root()?.id;
  const runs = [];
  for (const { prompt, outputs, status } of Object.values(history)) {
    const [, , graph, extra] = prompt ?? [];
    const theirs = extra?.extra_pnginfo?.workflow?.id;
    if (!theirs || theirs !== mine) continue; // another workflow may have a node of the same number
    for (const [id, made] of Object.entries(outputs ?? {})) {
      const isThis = graph?.[id]?.class_type === NODE && placeOf(id)?.node === node;
      const files = made?.images ?? made?.audio ?? [];
      if (isThis && files.length) runs.push({ graph, files, titles: made.text ?? [], time: finished(status) });
    }
  }
  return runs.reverse();
}

function finished(status) {
  const message = (status?.messages ?? []).find(([kind]) => kind === "execution_success");
  const time = message?.[1]?.timestamp;
  return time ? new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : "";
}

function address({ filename, subfolder, type }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

function open(file) {
  window.open(address(file), "_blank", "noopener");
}

function putBack(strip, figure, run) {
  const { count, left } = restore(run.graph);
  for (const each of strip.children) each.classList.toggle("now", each === figure);
  const what = count ? `${count} ${count > 1 ? "values" : "value"} of this run restored` : "The graph has the values of this run";
  const rest = left.length ? `Left as they are, since they are not to be had any more: ${left.join(", ")}.` : "";
  say(left.length ? "warn" : "info", `LTX-2.3: ${what}`, rest);
}

function picture(figure, file) {
  const isSound = /\.(m4a|wav|flac|mp3)$/i.test(file.filename);
  if (isSound) {
    add(figure, "div", "♪").className = "none";
    return;
  }
  const video = add(figure, "video");
  Object.assign(video, { src: address(file), muted: true, loop: true, preload: "metadata", playsInline: true });
  video.addEventListener("error", () => {
    const gone = document.createElement("div");
    gone.className = "none";
    gone.textContent = "file is gone";
    video.replaceWith(gone);
  });
  figure.addEventListener("mouseenter", () => video.play().catch(() => {}));
  figure.addEventListener("mouseleave", () => video.pause());
}

function tile(strip, run, index) {
  const file = run.files[index];
  const figure = add(strip, "figure");
  figure.tabIndex = 0;
  if (index === 0) figure.classList.add("first");
  picture(figure, file);
  const [seed] = (run.titles[index] ?? "").split(":");
  const batch = run.files.length > 1 ? `${index + 1}/${run.files.length}` : "";
  const caption = add(figure, "figcaption", seed.startsWith("seed") ? seed : file.filename);
  add(caption, "small", [run.time, batch].filter(Boolean).join(" · "));
  figure.title = `${file.filename}\nClick: put the values of this run back into the graph\nDouble click: open the file`;
  let timer = null;
  figure.addEventListener("click", () => {
    clearTimeout(timer);
    timer = setTimeout(() => putBack(strip, figure, run), DOUBLE_MS);
  });
  figure.addEventListener("dblclick", () => {
    clearTimeout(timer);
    open(file);
  });
  figure.addEventListener("keydown", (event) => {
    if (event.key === "Enter") putBack(strip, figure, run);
  });
  const button = add(figure, "button", "⤢");
  button.title = "Open the file";
  for (const kind of ["click", "dblclick"]) button.addEventListener(kind, (event) => event.stopPropagation());
  button.addEventListener("click", () => open(file));
}

// The page counts its own player among the inputs: the first run after a result would then be another one, and make the
// same clip again.
function leaveOut(node) {
  const player = node.widgets?.find((each) => each.name === "video-preview");
  if (player?.options) player.options.serialize = false;
}

class Strip {
  constructor(node) {
    this.node = node;
    this.shown = false;
    this.box = document.createElement("div");
    this.box.className = "ltx23-results";
    const height = () => (this.shown ? HEIGHT : 0);
    this.widget = node.addDOMWidget("results", "ltx23_results", this.box, {
      serialize: false, hideOnZoom: false, getMinHeight: height, getMaxHeight: height, getValue: () => "", setValue: () => {},
    });
    this.widget.serialize = false; // neither in the workflow nor in the prompt
    this.widget.hidden = true;
    this.widget.beforeQueued = () => leaveOut(node); // the page asks every widget before it queues
  }

  async update() {
    this.asked = (this.asked ?? 0) + 1;
    const { asked } = this;
    const runs = await runsOf(this.node);
    if (asked !== this.asked) return; // a later answer is newer
    const tiles = runs.flatMap((run) => run.files.map((_, index) => [run, index])).slice(0, TILES);
    this.box.replaceChildren();
    for (const [run, index] of tiles) tile(this.box, run, index);
    this.show(tiles.length > 0);
  }

  show(shown) {
    if (this.shown === shown) return;
    this.shown = shown;
    this.widget.hidden = !shown;
    const [width, height] = this.node.size;
    this.node.setSize([width, Math.max(height, this.node.computeSize()[1])]);
    this.node.setDirtyCanvas?.(true, true);
  }
}

function updateAll() {
  for (const node of nodesOf(NODE)) node.ltx23Strip?.update().catch(() => {}); // an older list is no fault
}

// A run is told to have ended before the history has it: how much before depends on the server.
async function updateAfter(id) {
  for (let asked = 0; id && asked < 100; asked += 1) {
    const answer = await api.fetchApi(`/history/${id}`).catch(() => null);
    if (answer?.ok && (await answer.json())[id]) break;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  updateAll();
}

app.registerExtension({
  name: "ltx23.results",
  setup() {
    add(document.head, "style", STYLE);
    api.addEventListener("execution_success", ({ detail }) => updateAfter(detail?.prompt_id));
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) node.ltx23Strip = new Strip(node);
  },
  afterConfigureGraph: () => setTimeout(updateAll, 0),
});
