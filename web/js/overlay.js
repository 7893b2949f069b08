// Shows in the Overlay node what each chosen file is, and after a run the report. Without this file, or where a front
// end changes too much for it, the node works the same: names are plain file names and the report is an output.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const NODE = "LTX23Overlay";
const LISTED = [NODE, "LTX23LoRA", "LTX23ReferenceVideo"];
const INPUTS = ["checkpoint", "text_encoder", "upsampler", "distilled_lora", "text_projection", "video_vae", "audio_vae"];
let files = null; // promise of what /ltx23/files answered; null where it is to be asked again

async function ask() {
  try {
    const answer = await api.fetchApi("/ltx23/files");
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

function sentence(known, name) {
  const file = known.files.find((each) => each.name === name && each.usable) ?? known.files.find((each) => each.name === name);
  return file?.sentence ?? "not in the model folders";
}

// What the recipes of the graph's samplers need beside the rest: lines, each once.
function needed(known) {
  const samplers = (app.graph?._nodes ?? []).filter((each) => each.comfyClass?.startsWith("LTX23Sampler"));
  const recipes = samplers.map((each) => each.widgets?.find(({ name }) => name === "recipe")?.value);
  return [...new Set(recipes.flatMap((recipe) => known.needed?.[recipe] ?? []))];
}

// The server's lists are those of its last look; these are of a look that was just made.
function relist(known) {
  for (const node of app.graph?._nodes ?? []) {
    if (!LISTED.includes(node.comfyClass)) continue;
    for (const widget of node.widgets ?? []) {
      const names = known.lists?.[widget.name];
      if (!names || !Array.isArray(widget.options?.values)) continue;
      const words = widget.options.values.filter((value) => value === "auto" || value === "none");
      widget.options.values = [...new Set([...words.filter((word) => word === "auto" || node.comfyClass !== NODE), ...names, ...words])];
    }
  }
}

function describe(node, known) {
  const lines = [];
  for (const { name, value } of node.widgets) {
    if (!INPUTS.includes(name) || value === "none") continue;
    const chosen = value === "auto" ? known.auto[name] : value;
    if (chosen?.includes(", ")) lines.push(`${name}: ${chosen}`);
    else if (chosen) lines.push(`${name}: ${value === "auto" ? `${chosen}, ` : ""}${sentence(known, chosen)}`);
  }
  lines.push(...known.missing, ...needed(known));
  const others = known.files.filter((each) => !each.usable).length;
  if (others) lines.push(`${others} other files left out; the report says why`);
  return lines.join("\n");
}

function show(node, text) {
  if (node.ltx23Text) node.ltx23Text.value = text;
}

async function update(node) {
  files ??= ask();
  const known = await files;
  if (!known) {
    files = null;
    return;
  }
  relist(known);
  show(node, describe(node, known));
}

function addText(node) {
  const element = document.createElement("textarea");
  element.readOnly = true;
  element.className = "comfy-multiline-input";
  element.placeholder = "What the files are";
  const widget = node.addDOMWidget("found", "ltx23_text", element, {
    serialize: false, hideOnZoom: true, getMinHeight: () => 110, getValue: () => element.value, setValue: () => {},
  });
  widget.serialize = false; // neither in the workflow nor in the prompt
  node.ltx23Text = element;
}

app.registerExtension({
  name: "ltx23.overlay",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    addText(node);
    for (const widget of node.widgets) {
      if (!INPUTS.includes(widget.name)) continue;
      const before = widget.callback;
      widget.callback = function (...values) {
        const result = before?.apply(this, values);
        update(node);
        return result;
      };
    }
    const executed = node.onExecuted;
    node.onExecuted = function (message) {
      executed?.apply(this, [message]);
      if (message?.text) show(node, message.text.join("\n"));
    };
    update(node);
  },
  loadedGraphNode(node) {
    if (node.comfyClass === NODE) update(node);
  },
  refreshComboInNodes() {
    files = null;
    for (const node of app.graph?._nodes ?? []) if (LISTED.includes(node.comfyClass)) update(node);
  },
});
