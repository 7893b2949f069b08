// What a node of ours says during and after a run, seen whole: the page gives every such text the room of two lines and
// cuts off the others, and newer front ends take them all away as a run ends. Without this file that is so.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { placeOf } from "./graph.js";

const WIDGET = "$$node-text-preview"; // as both front ends call it
const LINE = 16; // pixels on the page
const AROUND = 28; // above, below and between
const LETTER = 7.2; // pixels of one, rather too many; lines are broken anywhere
const SIDES = 44;
const PROMPT = 50; // that a prompt box keeps beside its least

function heightOf(text, width) {
  const room = Math.max(width - SIDES, LETTER);
  const lines = text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil((line.length * LETTER) / room)), 0);
  return LINE * lines + AROUND;
}

function fit(node) {
  const widget = node.widgets?.find((each) => each.name === WIDGET);
  if (!widget?.options) return;
  const [width, height] = node.size;
  const tall = heightOf(String(widget.value ?? ""), width);
  widget.options.getMinHeight = () => tall;
  const boxes = node.widgets.filter((each) => each.element?.tagName === "TEXTAREA").length;
  const least = node.computeSize()[1] + boxes * PROMPT;
  if (least > height) node.setSize([width, least]);
  node.setDirtyCanvas?.(true, true);
}

// The text that the page took away, in a box of ours until the node speaks again.
function keep(node, text) {
  if (node.graph?.getNodeById(node.id) !== node) return; // the node itself was removed
  if (!node.ltx23Said) addBox(node);
  const { box, widget } = node.ltx23Said;
  box.textContent = text;
  box.style.display = "";
  widget.hidden = false;
  node.setDirtyCanvas(true, true);
}

function addBox(node) {
  const box = document.createElement("div");
  box.style.cssText = "white-space: pre-wrap; overflow-wrap: anywhere; overflow: hidden; font-size: 12px; line-height: 16px; padding: 4px 8px";
  const height = () => (node.ltx23Said.widget.hidden ? 0 : heightOf(box.textContent, node.size[0]));
  node.ltx23Said = { box, widget: { hidden: true } }; // asked for its height while it is made
  const widget = node.addDOMWidget("said", "ltx23_said", box, {
    serialize: false, hideOnZoom: false, getMinHeight: height, getMaxHeight: height,
    getValue: () => box.textContent, setValue: () => {},
  });
  widget.serialize = false; // neither in the workflow nor in the prompt
  node.ltx23Said.widget = widget;
}

function hide(node) {
  if (!node.ltx23Said) return;
  node.ltx23Said.widget.hidden = true;
  node.ltx23Said.box.style.display = "none";
}

// The page calls onRemove of a widget that it takes away.
function watch(node, widget) {
  if (node.ltx23Watched === widget) return;
  node.ltx23Watched = widget;
  const { onRemove } = widget;
  widget.onRemove = function (...given) {
    setTimeout(() => keep(node, node.ltx23Text), 0);
    return onRemove?.apply(this, given);
  };
}

function spoke(node, text) {
  const widget = node.widgets?.find((each) => each.name === WIDGET);
  if (!widget) return;
  node.ltx23Text = text;
  hide(node);
  watch(node, widget);
  fit(node);
}

app.registerExtension({
  name: "ltx23.lines",
  setup() {
    api.addEventListener("progress_text", ({ detail }) => {
      const node = placeOf(detail?.nodeId ?? "")?.node;
      if (node?.comfyClass?.startsWith("LTX23")) setTimeout(() => spoke(node, detail.text), 0); // after the page has put it there
    });
  },
});
