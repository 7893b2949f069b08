// The moving preview of Sampler: the server sends the frames of a step as one picture, side by side, and here they follow
// one another. It is there while the node runs and then gives its room back. Without this file the page shows the picture
// with all frames, as other clients do.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { nodesOf, placeOf } from "./graph.js";
import { isShown } from "./runs.js";

const NODE = "LTX23Sampler";
const HEIGHT = 240; // pixels on the page
const SLOWEST_MS = 250; // a frame is shown at most that long

class Player {
  constructor(node) {
    this.node = node;
    this.open = false;
    this.ended = 0; // runs that ended
    this.canvas = document.createElement("canvas");
    this.canvas.className = "ltx23-preview";
    this.canvas.style.cssText = "width: 100%; height: 100%; object-fit: contain; background: #0004; display: none";
    const height = () => (this.open ? HEIGHT : 0);
    this.widget = node.addDOMWidget("preview", "ltx23_preview", this.canvas, {
      serialize: false, hideOnZoom: false, getMinHeight: height, getMaxHeight: height, getValue: () => "", setValue: () => {},
    });
    this.widget.serialize = false; // neither in the workflow nor in the prompt
    this.widget.hidden = true;
  }

  show(open) {
    if (this.open === open) return;
    this.open = open;
    this.widget.hidden = !open;
    this.canvas.style.display = open ? "" : "none";
    const [width, height] = this.node.size;
    this.node.setSize([width, Math.max(height + (open ? HEIGHT : -HEIGHT), 100)]);
    this.node.setDirtyCanvas?.(true, true);
    if (!open) clearInterval(this.timer);
  }

  end() {
    this.ended += 1;
    this.show(false);
  }

  async play({ image, columns, count, seconds }) {
    const { ended } = this;
    const picture = new Image();
    picture.src = image;
    await picture.decode();
    if (ended !== this.ended) return; // the run was over before its picture was ready: nothing would close it again
    const width = Math.floor(picture.width / columns);
    const height = Math.floor(picture.height / Math.ceil(count / columns));
    this.canvas.width = width;
    this.canvas.height = height;
    const pen = this.canvas.getContext("2d");
    clearInterval(this.timer);
    let at = 0;
    const draw = () => {
      const [x, y] = [(at % columns) * width, Math.floor(at / columns) * height];
      pen.drawImage(picture, x, y, width, height, 0, 0, width, height);
      at = (at + 1) % count;
    };
    draw();
    if (count > 1) this.timer = setInterval(draw, Math.min((1000 * seconds) / count, SLOWEST_MS));
    this.show(true);
  }
}

// This page plays the previews of its runs; told as soon as it has a name, since a run may be quicker than the answer.
let registered = null;

function register() {
  if (!api.clientId) return;
  registered = api.clientId;
  const body = JSON.stringify({ client: api.clientId });
  api.fetchApi("/ltx23/player", { method: "POST", body, headers: { "Content-Type": "application/json" } }).catch(() => {});
}

app.registerExtension({
  name: "ltx23.preview",
  setup() {
    register();
    for (const event of ["reconnected", "execution_start"]) api.addEventListener(event, register);
    api.addEventListener("ltx23.preview", ({ detail }) => {
      if (isShown(detail.prompt)) placeOf(detail.node)?.node.ltx23Player?.play(detail);
    });
    api.addEventListener("status", () => registered !== api.clientId && register());
    for (const event of ["execution_success", "execution_error", "execution_interrupted"])
      api.addEventListener(event, () => nodesOf(NODE).forEach((node) => node.ltx23Player?.end()));
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) node.ltx23Player = new Player(node);
  },
});
