// Sampler: choosing a recipe fills in its sizes, length, seed and steps; sizes step by 64 where the first stage runs at
// half of them; the prompt boxes are switched off where something linked takes their place. Without this file the node
// works the same: the recipe's values and what takes whose place stand in the tooltips.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { holder, origin, places, read, widget } from "./graph.js";

const NODE = "LTX23Sampler";
const LONG = "LTX23LongVideo";
const SMALLEST_STEP = 32;
const LOOK_MS = 300;

let recipes = null; // promise of recipe -> values of /ltx23/recipes

async function ask() {
  try {
    const answer = await api.fetchApi("/ltx23/recipes");
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

async function values(recipe) {
  recipes ??= ask();
  const known = await recipes;
  if (!known) recipes = null;
  return known?.[recipe]; // none for auto: it depends on the weights
}

async function setSteps(node) {
  const recipe = read(node, "recipe");
  const step = (await values(recipe))?.size_step ?? SMALLEST_STEP;
  for (const name of ["width", "height"]) {
    const options = holder(node, name)?.options;
    // Sizes go from min by step2; step is ten times that, as ever.
    if (options) Object.assign(options, { min: step, step: 10 * step, step2: step });
  }
}

async function fill(node, recipe) {
  const known = await values(recipe);
  if (!known || read(node, "recipe") !== recipe) return;
  for (const { name } of node.widgets) {
    const own = name in known ? holder(node, name) : undefined;
    if (own) own.value = known[name];
  }
  node.setDirtyCanvas?.(true, true);
}

// What takes the place of the prompt boxes: a sentence, or "".
function replaced({ node, hosts }) {
  if (origin(node, "context", hosts)) return "context is linked: its texts are used";
  const long = origin(node, "windows", hosts);
  if (long?.node.comfyClass !== LONG) return "";
  const prompts = holder(long.node, "prompts", long.hosts); // none where they are made in the run
  return !prompts || prompts.value?.trim() ? "windows is linked: the prompts of Long Video are used" : "";
}

function setBoxes(node, reason) {
  if (node.ltx23Reason === reason) return;
  node.ltx23Reason = reason;
  for (const name of ["prompt", "negative_prompt"]) {
    const box = widget(node, name);
    if (!box) continue;
    box.disabled = Boolean(reason);
    const element = box.element ?? box.inputEl;
    if (!element) continue;
    element.ltx23Hint ??= element.placeholder || "";
    element.readOnly = Boolean(reason);
    element.title = reason;
    element.placeholder = reason || element.ltx23Hint;
    element.style.opacity = reason ? "0.35" : "";
  }
}

// What is linked hangs on other nodes too, those outside a subgraph among them, of which no event of this node tells.
function look() {
  const reasons = new Map();
  for (const place of places()) {
    if (place.node.comfyClass !== NODE || reasons.get(place.node) === "") continue;
    reasons.set(place.node, replaced(place)); // of a node that stands in several places none, where one has none
  }
  for (const [node, reason] of reasons) setBoxes(node, reason);
}

// After a method of a node, something of ours; what it does itself stays.
function after(node, name, act) {
  const before = node[name];
  node[name] = function (...given) {
    const result = before?.apply(this, given);
    act(...given);
    return result;
  };
}

app.registerExtension({
  name: "ltx23.sampler",
  setup() {
    setInterval(() => document.hidden || look(), LOOK_MS);
  },
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    setTimeout(() => setSteps(node), 0); // one of a file, or of a subgraph, has its values a moment later
    const recipe = widget(node, "recipe");
    if (!recipe) return;
    after(recipe, "callback", (value, ...rest) => {
      setSteps(node);
      // Files that are loaded call this too; only a choice of the user fills in.
      if (!app.configuringGraph && rest.length) fill(node, value);
    });
  },
});
