// Long Video: a bar for each window, hatched where it takes over what the one before made; below them the prompts, each
// over the time that it acts in. The end of the first window sets `window`, the beginning of the second `overlap`.
import { isLinked, read, widget } from "./graph.js";
import { clipOf } from "./timeline_graph.js";
import { percent } from "./timeline_parts.js";
import { promptsOf, windowProblem, windowsOf } from "./timeline_rules.js";

const GRAIN = 8; // pixel frames of a latent frame
const MOST = 300; // windows that are drawn
const LANES = [0, 19];
const TEXT_LANE = 41;

function hue(prompt) {
  return 174 + 67 * Math.max(prompt, 0);
}

function latents(window) {
  return (window - 1) / GRAIN + 1;
}

function seconds(frames, clip) {
  return `${+(frames / clip.fps).toFixed(2)} s`;
}

function state(node) {
  const [window, overlap, text] = ["window", "overlap", "prompts"].map((name) => read(node, name));
  const fixed = ["window", "overlap"].filter((name) => isLinked(node, name));
  const limits = ["window", "overlap"].map((name) => {
    const { min, max } = widget(node, name)?.options ?? {};
    return { min, max };
  });
  return { clip: clipOf(node), window, overlap, text: text ?? null, fixed, limits };
}

function draw(sheet, { clip, window, overlap, text, fixed, limits }, write) {
  sheet.axis(clip.frames, clip.fps);
  if (window === undefined || overlap === undefined) return sheet.say("window or overlap is linked: known in the run");
  const problem = windowProblem(clip.frames, window, overlap);
  if (problem) return sheet.say(problem, true);
  const prompts = promptsOf(text);
  const windows = windowsOf(clip.frames, window, overlap, prompts.length);
  windows.slice(0, MOST).forEach((each, index) => drawWindow(sheet, each, index, clip));
  if (text === null) drawPrompt(sheet, { begin: 0, end: clip.frames, prompt: -1 }, "prompts are linked", clip);
  else drawPrompts(sheet, windows.slice(0, MOST), prompts, clip);
  drawHandles(sheet, { clip, window, overlap, fixed, limits, windows }, write);
  const unused = prompts.map((_, index) => index).filter((index) => !windows.some(({ prompt }) => prompt === index));
  if (unused.length && !clip.said) {
    const which = unused.map((index) => index + 1).join(", ");
    return sheet.say(unused.length > 1 ? `Prompts ${which} act in no window` : `Prompt ${which} acts in no window`, true);
  }
  const length = clip.said || `${seconds(clip.frames, clip)}, ${clip.frames} frames`;
  if (windows.length === 1) return sheet.say(`${length} · one window: an ordinary run`);
  return sheet.say(`${length} · ${windows.length} windows of ${seconds(window, clip)}`);
}

function drawWindow(sheet, { begin, held, end, prompt }, index, clip) {
  const place = { left: percent(begin / clip.frames), top: `${LANES[index % 2]}px` };
  const takes = held > begin ? `; takes over ${held - begin} frames` : "";
  const acts = prompt >= 0 ? `; prompt ${prompt + 1}` : "";
  const span = `frames ${begin} to ${end - 1}, ${seconds(begin, clip)} to ${seconds(end, clip)}`;
  const title = `Window ${index + 1}: ${span}${takes}${acts}`;
  const wide = { ...place, width: percent((end - begin) / clip.frames), "--hue": hue(prompt) };
  sheet.part(`window ${index}`, "bar", wide, { text: `${index + 1}`, title });
  if (held > begin) sheet.part(`held ${index}`, "held", { ...place, width: percent((held - begin) / clip.frames) });
}

function drawPrompts(sheet, windows, prompts, clip) {
  const spans = [];
  for (const { held, begin, end, prompt } of windows) {
    const from = Math.max(held, begin);
    if (spans.at(-1)?.prompt === prompt) spans.at(-1).end = end;
    else spans.push({ begin: from, end, prompt });
  }
  for (const span of spans) drawPrompt(sheet, span, prompts[span.prompt] ?? "Sampler's prompt", clip);
}

function drawPrompt(sheet, { begin, end, prompt }, text, clip) {
  const [left, width] = [percent(begin / clip.frames), percent((end - begin) / clip.frames)];
  const number = prompt >= 0 ? `${prompt + 1}  ` : "";
  const style = { left, width, top: `${TEXT_LANE}px`, "--hue": hue(prompt) };
  sheet.part(`prompt ${begin}`, "text", style, { text: number + text, title: text });
}

// Both count in latent frames.
function drawHandles(sheet, { clip, window, overlap, fixed, limits, windows }, write) {
  const [length, kept] = [latents(window), overlap / GRAIN];
  const [ofWindow, ofOverlap] = limits;
  const numberAt = (fraction) => latents(fraction * clip.frames);
  const told = (frames) => `${frames} frames, ${seconds(frames, clip)}`;
  const size = { width: "10px", height: "16px", "--pin": `hsl(${hue(0)} 70% 62%)` };
  const at = (frame, lane) => ({ left: `calc(${percent(frame / clip.frames)} - 5px)`, top: `${LANES[lane]}px`, ...size });
  sheet.handle("end", "edge", at(windows[0].end, 0), {
    label: "window", told: told(window), numberAt, page: 3, at: length,
    least: Math.max(latents(ofWindow.min ?? 17), kept + 1), most: latents(ofWindow.max ?? 481),
    set: fixed.includes("window") ? null : (number) => write({ window: GRAIN * (number - 1) + 1 }),
  });
  // Of two windows the second ends with the video and may begin before its time.
  if (windows.length < 2 || windows[0].end - overlap !== windows[1].begin) return;
  sheet.handle("begin", "edge", at(windows[1].begin, 1), {
    label: "overlap", told: told(overlap), numberAt, page: 3, at: length - kept,
    least: length - Math.min(length - 1, (ofOverlap.max ?? 472) / GRAIN),
    most: length - (ofOverlap.min ?? GRAIN) / GRAIN,
    set: fixed.includes("overlap") ? null : (number) => write({ overlap: GRAIN * (length - number) }),
  });
}

export const longVideo = { state, draw };
