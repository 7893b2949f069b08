// Shows in the Enhance Prompt node what was written, and a button that takes the text over into the field `edited`.
// Only the button changes an input, so that a queued prompt gives the same again. Without this file the node works the
// same: the text is its output.
import { app } from "../../../scripts/app.js";
import { holder } from "./graph.js";
import { whenExecuted } from "./runs.js";

const NODE = "LTX23EnhancePrompt";

function addText(node) {
  const element = document.createElement("textarea");
  element.readOnly = true;
  element.className = "comfy-multiline-input";
  element.placeholder = "What was written";
  const widget = node.addDOMWidget("written", "ltx23_text", element, {
    serialize: false, hideOnZoom: true, getMinHeight: () => 110, getValue: () => element.value, setValue: () => {},
  });
  widget.serialize = false; // neither in the workflow nor in the prompt
  node.ltx23Written = element;
}

function keep(node) {
  const edited = holder(node, "edited");
  const text = node.ltx23Written.value;
  if (!edited || !text) return;
  edited.value = text;
  edited.callback?.(text);
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "ltx23.enhance",
  setup() {
    whenExecuted(NODE, (node, { text }) => {
      if (text) node.ltx23Written.value = text.join("\n");
    });
  },
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    addText(node);
    const button = node.addWidget("button", "Keep and edit this text", null, () => keep(node), { serialize: false });
    button.serialize = false;
  },
});
