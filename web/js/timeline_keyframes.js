// Keyframes: each picture stands at its frame and is dragged to another one. The model takes any frame of the video,
// not only those at which a latent frame begins, so a picture goes by single frames.
import { isLinked, read } from "./graph.js";
import { clipOf, picturesOf } from "./timeline_graph.js";
import { percent } from "./timeline_parts.js";
import { numbersOf, spread, written } from "./timeline_rules.js";

const [WIDE, HIGH] = [56, 42]; // pixels of a picture

function state(node) {
  const isFixed = isLinked(node, "at_frames");
  const [text, strengths] = [read(node, "at_frames") ?? null, read(node, "strengths")];
  return { clip: clipOf(node), text, strengths, isFixed, isEmpty: !isLinked(node, "images"), pictures: picturesOf(node) ?? null };
}

function draw(sheet, { clip, text, strengths, isFixed, isEmpty, pictures }, write) {
  sheet.axis(clip.frames, clip.fps);
  if (text === null) return sheet.say("at_frames is linked: known in the run");
  const numbers = numbersOf(text);
  if (!numbers) return sheet.say(`at_frames is "${text}": numbers with commas are needed`, true);
  const frames = numbers.map((number) => (number < 0 ? number + clip.frames : number));
  const set = (index, frame, direction) => {
    const free = freeFrom(frames.filter((_, other) => other !== index), frame, direction, clip.frames);
    const all = numbers.with(index, clip.said ? free : written(free, clip.frames));
    if (free !== null) write({ at_frames: all.join(", ") });
  };
  frames.forEach((frame, index) => {
    const move = isFixed ? null : (to, direction) => set(index, to, direction);
    const [strength, picture] = [strengthOf(strengths, index), pictures?.[index]];
    drawPicture(sheet, { index, frame, clip, strength, picture }, move);
  });
  return say(sheet, { clip, numbers, frames, isFixed, isEmpty, pictures }, write);
}

// The nearest frame that no other picture has: onwards, else back; null where there is none.
function freeFrom(taken, frame, direction, frames) {
  for (const step of [direction, -direction]) {
    let free = frame;
    while (taken.includes(free)) free += step;
    if (free >= 0 && free < frames) return free;
  }
  return null;
}

function strengthOf(text, index) {
  const all = String(text ?? "").split(",");
  return Number(all.length === 1 ? all[0] : all[index]);
}

function drawPicture(sheet, { index, frame, clip, strength, picture }, set) {
  const isThere = frame >= 0 && frame < clip.frames;
  const middle = percent((Math.min(Math.max(frame, 0), clip.frames - 1) + 0.5) / clip.frames);
  const pin = isThere ? "#64b5f6" : "#ff4444";
  sheet.part(`pin ${index}`, "pin", { left: `calc(${middle} - 1px)`, top: `${HIGH}px`, bottom: "25px", "--pin": pin });
  const left = `clamp(0px, calc(${middle} - ${WIDE / 2}px), calc(100% - ${WIDE}px))`;
  const firmly = strength >= 0 && strength < 1 ? `, strength ${strength}` : "";
  const element = sheet.handle(`picture ${index}`, "picture", { left, top: "0px", "--pin": pin }, {
    label: `picture ${index + 1}`, told: `frame ${frame}, ${+(frame / clip.fps).toFixed(2)} s${firmly}`,
    at: frame, least: 0, most: clip.frames - 1, page: Math.round(clip.fps), set,
    numberAt: (fraction) => fraction * clip.frames,
  });
  fill(element, picture, index + 1, frame);
}

// The picture, or its number until it is there, and its frame over it.
function fill(element, picture, number, frame) {
  element.ltx23Frame ??= Object.assign(document.createElement("div"), { className: "number" });
  element.ltx23Frame.textContent = frame;
  if (element.ltx23Picture === (picture ?? number)) return;
  element.ltx23Picture = picture ?? number;
  element.replaceChildren(`${number}`, element.ltx23Frame);
  if (!picture) return;
  const image = Object.assign(document.createElement("img"), { alt: "", draggable: false });
  image.addEventListener("load", () => {
    if (element.ltx23Picture === picture) element.replaceChildren(image, element.ltx23Frame);
  });
  image.src = picture;
}

function say(sheet, { clip, numbers, frames, isFixed, isEmpty, pictures }, write) {
  const beyond = numbers.find((_, index) => frames[index] < 0 || frames[index] >= clip.frames);
  const [count, given] = [pictures?.length ?? numbers.length, numbers.length];
  if (count !== given) {
    const act = ["Spread evenly", () => write({ at_frames: spread(count, clip.frames) })];
    return sheet.say(`${count} pictures, ${given} frame numbers`, true, isFixed || clip.said ? undefined : act);
  }
  if (new Set(frames).size < given) return sheet.say("Two pictures have the same frame", true);
  if (beyond !== undefined && !clip.said) {
    return sheet.say(`Frame ${beyond} is not among the ${clip.frames} frames of Sampler`, true);
  }
  const length = clip.said || `${clip.frames} frames, ${+(clip.frames / clip.fps).toFixed(2)} s`;
  const places = `pictures at ${numbers.join(", ")}`;
  return sheet.say(`${length} · ${isEmpty ? `${places}, of which none is linked yet` : places}`);
}

export const keyframes = { state, draw };
