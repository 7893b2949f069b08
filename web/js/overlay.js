// The Overlay node's cockpit (drawn by cockpit.js), and lists that are fresh after R. Without this file, or where a front
// end changes too much for it, the node works the same: names are plain file names and the report is an output.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { draw } from "./cockpit.js";
import { following, holder, hostsOf, nodesOf, places, read } from "./graph.js";
import { whenExecuted } from "./runs.js";

const NODE = "LTX23Overlay";
const LISTED = [NODE, "LTX23LoRA", "LTX23ReferenceVideo"];
const INPUTS = ["checkpoint", "text_encoder", "upsampler", "distilled_lora", "text_projection", "video_vae", "audio_vae"];
const LOWEST = 115; // pixels that the cockpit has at least; it takes what the node has beside its inputs
const ROOMY = [340, 190]; // width, and height beside the least, of a node that is new on the page
const TOGETHER_MS = 150;
const AGAIN_MS = 1500;
const LOOK_MS = 300;
let files = null; // promise of what /ltx23/files answered; null where it is to be asked again

async function ask() {
  try {
    const answer = await api.fetchApi("/ltx23/files");
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

function renew(own, names, isOverlay) {
  if (!Array.isArray(own?.options?.values)) return;
  const words = own.options.values.filter((value) => value === "auto" || value === "none");
  own.options.values = [...new Set([...words.filter((word) => word === "auto" || !isOverlay), ...names, ...words])];
}

// The server's lists are those of its last look; these are of a look that was just made.
function relist(known) {
  for (const { node, hosts } of places()) {
    if (!LISTED.includes(node.comfyClass)) continue;
    for (const own of node.widgets ?? []) {
      const names = known.lists?.[own.name];
      if (!names) continue;
      const shown = holder(node, own.name, hosts); // that of a subgraph's node
      for (const each of new Set([own, shown])) renew(each, names, node.comfyClass === NODE);
    }
  }
}

// What the Load behind this Overlay, and the Samplers, are set to is what the card is to do.
function question(node) {
  const hosts = hostsOf(node);
  const load = [...following(node, "LTX23_OVERLAY", hosts)].find((each) => each.node.comfyClass === "LTX23Load");
  const value = (place, name) => place && read(place.node, name, place.hosts);
  const samplers = [...places()].filter((each) => each.node.comfyClass === "LTX23Sampler");
  const asked = {
    files: Object.fromEntries(INPUTS.map((name) => [name, read(node, name, hosts) ?? "auto"])),
    variant: read(node, "variant", hosts),
    memory: value(load, "memory") ?? "auto",
    recipes: samplers.map((each) => value(each, "recipe")),
  };
  return { asked: JSON.stringify(asked), chosen: value(load, "weight_dtype") ?? "as stored" };
}

function show(node) {
  if (node.ltx23State) draw(node.ltx23Box, node.ltx23State, question(node).chosen, node.ltx23Report);
}

async function look(node) {
  const { asked } = question(node);
  node.ltx23Asked = asked;
  const answer = await api.fetchApi("/ltx23/cockpit", { method: "POST", body: asked, headers: { "Content-Type": "application/json" } });
  const state = await answer.json();
  if (node.ltx23Asked !== asked) return; // another choice was made meanwhile
  if (state.error) node.ltx23Box.textContent = state.error;
  if (state.error) return;
  node.ltx23State = state;
  show(node);
  if (state.unread) setTimeout(() => update(node), AGAIN_MS);
}

// Changes come several at once, such as when a file is opened: the last one asks.
function update(node) {
  clearTimeout(node.ltx23Timer);
  node.ltx23Timer = setTimeout(async () => {
    try {
      files ??= ask();
      const known = await files;
      if (known) relist(known);
      else files = null;
      await look(node);
    } catch {
      node.ltx23Box.textContent = "The server does not answer."; // the node works the same
    }
  }, TOGETHER_MS);
}

function updateAll() {
  nodesOf(NODE).forEach(update);
}

// What is chosen, here and in other nodes, changes what is needed and what the card is to do; not every change has an event.
function lookForChanges() {
  for (const node of nodesOf(NODE)) {
    const { asked, chosen } = question(node);
    if (asked + chosen === node.ltx23Seen) continue;
    node.ltx23Seen = asked + chosen;
    update(node);
  }
}

function addCockpit(node) {
  const box = document.createElement("div");
  box.className = "ltx23-cockpit";
  box.textContent = "Looking into the model folders …";
  const widget = node.addDOMWidget("found", "ltx23_cockpit", box, {
    serialize: false, hideOnZoom: false, getMinHeight: () => LOWEST, getValue: () => "", setValue: () => {},
  });
  widget.serialize = false; // neither in the workflow nor in the prompt
  node.ltx23Box = box;
}

app.registerExtension({
  name: "ltx23.overlay",
  setup() {
    setInterval(() => document.hidden || lookForChanges(), LOOK_MS);
    whenExecuted(NODE, (node, { text }) => {
      if (text) node.ltx23Report = text.join("\n");
      update(node);
    });
  },
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    addCockpit(node);
    const [width, height] = node.computeSize();
    node.setSize([Math.max(width, ROOMY[0]), height + ROOMY[1]]); // one from a file gets its own size after this
  },
  refreshComboInNodes() {
    files = ask();
    files.then((known) => known && relist(known)); // LoRA nodes have lists too
    updateAll();
  },
});
