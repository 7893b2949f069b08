// Choosing a recipe in the Sampler fills in its sizes, length, seed and steps. Without this file the node works the same:
// the recipe's values stand in its tooltip.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

let recipes = null; // promise of recipe -> values of /ltx23/recipes

async function ask() {
  try {
    const answer = await api.fetchApi("/ltx23/recipes");
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

async function fill(node, recipe) {
  recipes ??= ask();
  const known = await recipes;
  if (!known) recipes = null;
  const values = known?.[recipe]; // none for auto: it depends on the weights
  if (!values || node.widgets.find(({ name }) => name === "recipe").value !== recipe) return;
  for (const widget of node.widgets) if (widget.name in values) widget.value = values[widget.name];
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "ltx23.sampler",
  nodeCreated(node) {
    if (node.comfyClass !== "LTX23Sampler") return;
    const widget = node.widgets?.find(({ name }) => name === "recipe");
    if (!widget) return;
    const before = widget.callback;
    widget.callback = function (value, ...rest) {
      const result = before?.apply(this, [value, ...rest]);
      // Files that are loaded call this too; only a choice of the user fills in.
      if (!app.configuringGraph && rest.length) fill(node, value);
      return result;
    };
  },
});
