// Retake: the stretch between start and end over the clip, as a bar to be moved and two ends to be dragged. They stop
// where what is made anew changes: at every eighth frame of picture, or every 0.04 s of sound.
import { isLinked, read } from "./graph.js";
import { clipOf, sourceOf } from "./timeline_graph.js";
import { filmOf } from "./timeline_film.js";
import { percent } from "./timeline_parts.js";
import { endAt, grid, isLength, retaken, startAt } from "./timeline_rules.js";

const BAR = { top: "4px", height: "54px" };

function state(node) {
  const [start, end, regenerate] = ["start", "end", "regenerate"].map((name) => read(node, name));
  const fixed = ["start", "end"].filter((name) => isLinked(node, name));
  const source = sourceOf(node);
  const film = source ? filmOf(source) : {};
  return { clip: clipOf(node), start, end, isSound: regenerate === "audio", fixed, film };
}

function draw(sheet, { clip, start, end, isSound, fixed, film }, write) {
  const made = clip.frames / clip.fps;
  const seconds = Math.max(made, film.seconds ?? 0);
  const wide = { left: "0%", width: percent((film.seconds || seconds) / seconds), ...BAR };
  sheet.part("clip", "clip", { ...wide, "background-image": film.picture ? `url(${film.picture})` : "none" });
  sheet.axis(seconds * clip.fps, clip.fps);
  if (start === undefined || end === undefined) return sheet.say("start or end is linked: known in the run");
  if (!isLength(clip.frames)) return sheet.say(`frames of Sampler is ${clip.frames}: 8 k + 1 is needed`, true);
  const cells = grid(clip.frames, clip.fps, isSound);
  const anew = retaken(cells, start, end);
  drawStretch(sheet, { start, end, seconds, made, cells, anew, there: film.seconds || seconds });
  drawHandles(sheet, { start, end, seconds, cells, fixed }, write);
  return say(sheet, { clip, start, end, made, film, cells, anew, isSound });
}

function span(from, to, seconds) {
  const [left, right] = [from, to].map((each) => Math.min(Math.max(each / seconds, 0), 1));
  return { left: percent(left), width: percent(Math.max(right - left, 0)), ...BAR };
}

function drawStretch(sheet, { start, end, seconds, made, cells, anew, there }) {
  sheet.part("before", "shade", span(0, Math.min(start, there), seconds));
  sheet.part("after", "shade", span(Math.min(end, there), there, seconds));
  if (anew) sheet.part("anew", "anew", span(cells.edge(anew[0]), cells.edge(anew[1]), seconds));
  if (made >= seconds - 0.05) return;
  sheet.part("cut", "cut", span(made, seconds, seconds), { text: "cut", title: "beyond Sampler's frames" });
}

function drawHandles(sheet, { start, end, seconds, cells, fixed }, write) {
  const within = (number) => Math.min(Math.max(number, 0), cells.count);
  const [first, last] = [within(cells.nearest(start)), within(cells.nearest(end))];
  const page = cells.nearest(1);
  const told = `${start} to ${end} s`;
  const numberAt = (fraction) => cells.nearest(fraction * seconds);
  const length = Math.max(last - first, 1);
  const both = (number) => write({ start: startAt(cells, number), end: endAt(cells, number + length) });
  sheet.handle("stretch", "wide", span(start, end, seconds), {
    label: "stretch", told, numberAt, page, at: first,
    least: 0, most: Math.max(cells.count - length, 0), set: fixed.length ? null : both,
  });
  const edge = (at) => ({ left: `calc(${percent(Math.min(at / seconds, 1))} - 6px)`, width: "12px", ...BAR });
  sheet.handle("start", "edge", edge(start), {
    label: "start", told: `${start} s`, numberAt, page, at: first, least: 0, most: Math.max(last - 1, 0),
    set: fixed.includes("start") ? null : (number) => write({ start: startAt(cells, number) }),
  });
  sheet.handle("end", "edge", edge(end), {
    label: "end", told: `${end} s`, numberAt, page, at: last, least: Math.min(first + 1, cells.count), most: cells.count,
    set: fixed.includes("end") ? null : (number) => write({ end: endAt(cells, number) }),
  });
}

function say(sheet, { clip, start, end, made, film, cells, anew, isSound }) {
  if (end <= start) return sheet.say("end is not after start", true);
  if (!anew) return sheet.say(`The stretch begins after the ${+made.toFixed(2)} s of Sampler`, true);
  if (film.seconds && film.seconds < made - 1.5 / clip.fps) {
    return sheet.say(`The clip lasts ${+film.seconds.toFixed(2)} s, Sampler makes ${+made.toFixed(2)} s`, true);
  }
  const [from, to] = anew.map((index) => cells.edge(index));
  const frames = `frames ${Math.round(from * clip.fps)} to ${Math.round(to * clip.fps) - 1}`;
  const what = isSound ? `sound from ${from.toFixed(2)} to ${to.toFixed(2)} s` : frames;
  return sheet.say(`${clip.said ? `${clip.said} · ` : ""}made anew: ${what}`);
}

export const retake = { state, draw };
