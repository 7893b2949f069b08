// Timelines in Long Video, Keyframes and Retake: windows and the prompts that act in them, pictures at their frames,
// the stretch that is made anew. Dragging, or the arrow keys on what is focused, writes the node's own values; the
// timeline itself is saved nowhere. Without this file the nodes work the same.
import { app } from "../../../scripts/app.js";
import { widget } from "./graph.js";
import { Sheet } from "./timeline_parts.js";
import { keyframes } from "./timeline_keyframes.js";
import { longVideo } from "./timeline_long.js";
import { retake } from "./timeline_retake.js";

// Of a node: state(node), plain values that are looked at again and again; draw(sheet, state, write), when they
// changed.
const VIEWS = { LTX23LongVideo: longVideo, LTX23Keyframe: keyframes, LTX23Retake: retake };
const HEIGHT = 141; // pixels in the node, of which the page takes a margin
const LEAST = HEIGHT - 20;
const WIDTH = 330; // of the shipped workflows' nodes
const LOOK_MS = 250;
const timelines = new Set();

// Elements over the canvas keep the wheel from it; Nodes 2.0 hands it on itself.
function zoom(event) {
  if (!window.LiteGraph?.vueNodesMode) app.canvas?.processMouseWheel?.(event);
}

class Timeline {
  constructor(node, view) {
    Object.assign(this, { node, view, sheet: new Sheet(), seen: "" });
    this.sheet.root.addEventListener("wheel", zoom);
    this.sheet.root.style.minHeight = `${LEAST}px`; // Nodes 2.0 asks nothing else
    const height = () => HEIGHT;
    const shown = node.addDOMWidget("timeline", "ltx23_timeline", this.sheet.root, {
      serialize: false, hideOnZoom: false, getMinHeight: height, getMaxHeight: height,
      getValue: () => "", setValue: () => {},
    });
    shown.serialize = false; // neither in the workflow nor in the prompt
    const [width, tall] = node.size; // of a new node; a file brings its own
    node.setSize?.([Math.max(width, WIDTH), tall + HEIGHT]);
  }

  // What it shows hangs on other nodes too, of which no event of this node tells.
  look() {
    if (!this.node.graph) return;
    try {
      const state = this.view.state(this.node);
      const seen = JSON.stringify(state);
      if (seen === this.seen) return;
      this.seen = seen;
      this.sheet.draw((sheet) => this.view.draw(sheet, state, (values) => this.write(values)));
    } catch (error) {
      console.debug("LTX-2.3: a timeline cannot be drawn", error);
      this.sheet.say("This graph's timeline cannot be drawn.");
    }
  }

  write(values) {
    for (const [name, value] of Object.entries(values)) {
      const own = widget(this.node, name);
      if (!own || own.value === value) continue;
      own.value = value;
      own.callback?.(value, app.canvas, this.node);
    }
    this.look();
    this.node.graph?.setDirtyCanvas?.(true, true);
  }
}

function add(node) {
  const view = VIEWS[node.comfyClass];
  if (!view || !node.addDOMWidget) return;
  const timeline = new Timeline(node, view);
  node.ltx23Timeline = timeline;
  timelines.add(timeline);
  const { onAdded, onRemoved } = node;
  node.onAdded = function (...given) {
    timelines.add(timeline);
    return onAdded?.apply(this, given);
  };
  node.onRemoved = function (...given) {
    timelines.delete(timeline);
    return onRemoved?.apply(this, given);
  };
}

app.registerExtension({
  name: "ltx23.timeline",
  setup() {
    setInterval(() => {
      if (!document.hidden) for (const timeline of timelines) timeline.look();
    }, LOOK_MS);
  },
  nodeCreated: add,
});
