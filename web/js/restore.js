// Puts the values of an earlier run back into the graph: those that the run's own graph held, by node, class and name of
// the input, and only where all of them still exist and can take the value. Links, sizes, and nodes that were added since
// stay as they are. Registers nothing.
import { app } from "../../../scripts/app.js";
import { holder, placeOf } from "./graph.js";

function takes(node, widget, value) {
  const values = widget.options?.values;
  if (Array.isArray(values)) return values.includes(value);
  // What another pack's widget sends may be something else than what it holds: those are left alone.
  if (widget.serializeValue && !node.comfyClass.startsWith("LTX23")) return false;
  return typeof widget.value === typeof value;
}

// -> {count: values that changed, left: "Node.input" of those that could not be put back}.
export function restore(prompt) {
  const left = [];
  let count = 0;
  for (const [id, { class_type: kind, inputs }] of Object.entries(prompt)) {
    const place = placeOf(id);
    if (place?.node.comfyClass !== kind) continue;
    const { node, hosts } = place;
    for (const [name, value] of Object.entries(inputs ?? {})) {
      if (value === null || typeof value === "object") continue; // a link, or what no widget of one value holds
      const widget = holder(node, name, hosts);
      if (!widget || widget.value === value) continue;
      if (!takes(node, widget, value)) {
        left.push(`${node.title}.${name}`);
        continue;
      }
      widget.value = value;
      widget.callback?.(value);
      if (widget.value !== value) widget.value = value; // a callback of another pack may have put its own there
      count += 1;
    }
  }
  app.canvas?.setDirty?.(true, true);
  return { count, left };
}
