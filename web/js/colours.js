// Colours of the pack's own sockets and links, and a word where a run changed nothing. Without this file they are grey.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { placeOf } from "./graph.js";

const COLOURS = {
  LTX23_OVERLAY: "#d9a441", LTX23_MODEL: "#b39ddb", LTX23_CONTEXT: "#ffa931", LTX23_CONDITIONS: "#64b5f6",
  LTX23_GUIDANCE: "#e57373", LTX23_SOLVER: "#81c784", LTX23_WINDOWS: "#4db6ac",
};

// Sockets of one node; the page's own tables, below, are made anew with each choice of its colours.
function paintNode(node) {
  for (const slot of [...(node.inputs ?? []), ...(node.outputs ?? [])]) {
    const colour = COLOURS[slot.type];
    if (colour) Object.assign(slot, { color_on: colour, color_off: colour });
  }
}

function paint() {
  const kinds = window.LGraphCanvas?.link_type_colors;
  if (kinds) Object.assign(kinds, COLOURS);
  const slots = app.canvas?.default_connection_color_byType;
  if (slots) Object.assign(slots, COLOURS);
  for (const [kind, colour] of Object.entries(COLOURS))
    document.documentElement.style.setProperty(`--color-datatype-${kind}`, colour);
}

// Nothing of the pack ran, since nothing was changed: without a word that looks as if Run did not work.
function sayWhenUnchanged() {
  let cached = new Set();
  let ran = false;
  api.addEventListener("execution_start", () => {
    cached = new Set();
    ran = false;
  });
  api.addEventListener("execution_cached", ({ detail }) => {
    cached = new Set((detail.nodes ?? []).map(String));
  });
  api.addEventListener("executing", ({ detail }) => {
    const id = String(detail?.node ?? detail ?? "");
    if (id && id !== "null" && !cached.has(id)) ran = true;
  });
  api.addEventListener("execution_success", () => {
    const ours = [...cached].some((id) => placeOf(id)?.node.comfyClass === "LTX23Sampler");
    if (!ours || ran) return;
    app.extensionManager?.toast?.add?.({
      severity: "info", summary: "LTX-2.3: nothing changed", life: 5000,
      detail: "Every value is that of the last run, so its result stands. Change the seed for another video.",
    });
  });
}

app.registerExtension({
  name: "ltx23.colours",
  setup() {
    paint();
    setTimeout(paint, 1000);
    sayWhenUnchanged();
  },
  nodeCreated: paintNode,
  afterConfigureGraph: paint,
});
