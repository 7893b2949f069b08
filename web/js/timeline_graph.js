// What a timeline reads of the graph round its node: the Sampler it leads to, pictures and the clip that come in.
// Whatever cannot be told is undefined; nothing is changed.
import { api } from "../../../scripts/api.js";
import { following, hostsOf, isLinked, origin, read } from "./graph.js";

const SAMPLER = "LTX23Sampler";
const FARTHEST = 64; // nodes along a chain; graphs may have circles
const MOST_FRAMES = 100_000;
const GUESS = { frames: 121, fps: 24 };
const BATCHES = ["ImageBatch", "BatchImagesNode"];
const FILES = { LoadImage: "image", LoadImageOutput: "image", LoadVideo: "file" }; // the widget that names the file

function type(node) {
  return node.comfyClass ?? node.type ?? "";
}

// Frames and rate of the Sampler that a node leads to, and a sentence where they are guessed.
export function clipOf(node) {
  const kind = node.outputs?.[0]?.type;
  const sampler = [...following(node, kind)].find((each) => type(each.node) === SAMPLER);
  if (!sampler) return { ...GUESS, said: "no Sampler is linked: 121 frames are assumed" };
  const [frames, fps] = ["frames", "fps"].map((name) => Number(read(sampler.node, name, sampler.hosts)));
  if (frames >= 1 && frames <= MOST_FRAMES && fps > 0) return { frames, fps, said: "" };
  return { ...GUESS, said: "Sampler's frames or fps are not known here: 121 frames are assumed" };
}

// Address of a file of ComfyUI's folders, as a widget names it: "folder/name.png [input]".
function address(value) {
  const [, path, kind] = String(value).match(/^(.*?)(?: \[(input|output|temp)\])?$/s);
  const parts = path.split("/");
  const query = { filename: parts.pop(), subfolder: parts.join("/"), type: kind ?? "input" };
  return api.apiURL(`/view?${new URLSearchParams(query)}`);
}

function file({ node, hosts }) {
  const value = read(node, FILES[type(node)], hosts);
  return value ? address(value) : undefined;
}

// One picture; a file that may hold several is not told from here.
function stillOf(found) {
  return found && !/\.(gif|webp)&/i.test(found) ? [found] : undefined;
}

// Addresses of the pictures of a batch, in its order; undefined where they are made in the run.
export function picturesOf(node, name = "images", hosts = hostsOf(node), far = 0) {
  const from = origin(node, name, hosts);
  if (!from || far > FARTHEST) return undefined;
  const kind = type(from.node);
  if (kind.startsWith("ImageScale")) return picturesOf(from.node, "image", from.hosts, far + 1);
  if (kind.startsWith("LoadImage")) return stillOf(file(from));
  if (!BATCHES.includes(kind)) return undefined;
  const linked = from.node.inputs.filter((each) => each.link != null);
  const parts = linked.map((each) => picturesOf(from.node, each.name, from.hosts, far + 1));
  return parts.every(Boolean) ? parts.flat() : undefined;
}

// Address of the clip that is linked, where it is a file and plays at its own rate.
export function sourceOf(node) {
  if (isLinked(node, "images") || read(node, "source_fps") !== 0) return undefined;
  const from = origin(node, "video");
  return from && type(from.node) === "LoadVideo" ? file(from) : undefined;
}
