// What the timelines show, as numbers: where the windows of a long video lie, which prompt acts in which, what Retake
// makes anew. These are the library's rules (ltx23_core: plan/windows.py, geometry.py, conditioning/retake.py);
// tests/browser/test_timeline.py holds both against each other.

const GRAIN = 8; // pixel frames of a latent frame
const SOUND_GRAIN = 4; // mel frames of an audio latent
const [HOP, RATE] = [160, 16000]; // samples a mel frame and samples a second
const LATENTS_A_SECOND = 25;
const HUNDREDTH = 1e-6; // of 0.01 s: what rounding leaves of a number that has two digits

// First pixel frame of a latent frame: the first of a clip covers one frame, the others eight.
function firstFrame(latent) {
  return Math.max(GRAIN * (latent - 1) + 1, 0);
}

export function isLength(frames) {
  return Number.isInteger(frames) && frames >= 1 && frames % GRAIN === 1;
}

// Why there are no such windows, or "". An overlap is only asked for where one window is not all.
export function windowProblem(frames, window, overlap) {
  if (!isLength(frames)) return `frames is ${frames}: 8 k + 1 is needed`;
  if (!isLength(window)) return `window is ${window}: 8 k + 1 is needed`;
  if (frames <= window) return "";
  const isFit = overlap >= GRAIN && overlap % GRAIN === 0 && overlap < window;
  return isFit ? "" : `overlap is ${overlap}: a multiple of 8 below the window is needed`;
}

// Windows as {begin, held, end, prompt} in pixel frames: begin to held is taken over from the window before, held to
// end is added. prompt: which of `count` acts, from 0; -1 where there are none.
export function windowsOf(frames, window, overlap, count) {
  const length = (window - 1) / GRAIN + 1;
  const total = (frames - 1) / GRAIN + 1;
  const windows = [];
  for (let start = 0, made = 0; ; start = Math.min(start + length - overlap / GRAIN, total - length)) {
    const end = Math.min(start + length, total);
    const share = (made + end) / 2 / total;
    const prompt = Math.min(Math.trunc(share * count), count - 1);
    windows.push({ begin: firstFrame(start), held: firstFrame(made), end: firstFrame(end), prompt });
    if (end === total) return windows;
    made = end;
  }
}

// The prompts of a text, divided by lines of three or more dashes; empty ones are left out.
export function promptsOf(text) {
  const parts = String(text ?? "").split(/\n/).reduce((found, line) => {
    if (/^[ \t]*-{3,}[ \t]*\r?$/.test(line)) found.push([]);
    else found.at(-1).push(line);
    return found;
  }, [[]]);
  return parts.map((lines) => lines.join("\n").trim()).filter(Boolean);
}

// Where latents begin and end, in seconds and float32 as in the library. edge(count) is the end of the last one.
export function grid(frames, fps, isSound) {
  if (isSound) {
    const edge = (index) => Math.fround((Math.max(SOUND_GRAIN * (index - 1) + 1, 0) * HOP) / RATE);
    const place = (seconds) => ((seconds * RATE) / HOP - 1) / SOUND_GRAIN + 1;
    return { count: halfToEven((frames / fps) * LATENTS_A_SECOND), edge, nearest: nearest(edge, place) };
  }
  const edge = (index) => Math.fround(firstFrame(index) / Math.fround(fps));
  const place = (seconds) => (seconds * fps - 1) / GRAIN + 1;
  return { count: (frames - 1) / GRAIN + 1, edge, nearest: nearest(edge, place) };
}

// The first latent is shorter than the others, so that its beginning has no place among theirs.
function nearest(edge, place) {
  return (seconds) => {
    const found = Math.max(Math.round(place(seconds)), 0);
    return found === 1 && seconds < edge(1) / 2 ? 0 : found;
  };
}

function halfToEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

// Latents [first, last) that a stretch overlaps, which are made anew; null where there are none.
export function retaken(cells, start, end) {
  const [from, to] = [Math.fround(start), Math.fround(end)];
  let first = Math.min(Math.max(cells.nearest(start) - 2, 0), cells.count);
  while (first < cells.count && cells.edge(first + 1) <= from) first += 1;
  let last = Math.min(cells.nearest(end) + 2, cells.count);
  while (last > first && cells.edge(last - 1) >= to) last -= 1;
  return last > first ? [first, last] : null;
}

// Edges as start and end of a stretch, in hundredths of a second that touch no further latent.
export function startAt(cells, index) {
  return Math.ceil(cells.edge(index) * 100 - HUNDREDTH) / 100;
}

export function endAt(cells, index) {
  return Math.floor(cells.edge(index) * 100 + HUNDREDTH) / 100;
}

// The whole numbers of a list with commas; null where it is none.
export function numbersOf(text) {
  const parts = String(text ?? "").split(",");
  return parts.every((part) => /^\s*[+-]?\d+\s*$/.test(part)) ? parts.map(Number) : null;
}

// `count` frame numbers from the first frame to the last.
export function spread(count, frames) {
  const at = Array.from({ length: count }, (_, index) => Math.round((index * (frames - 1)) / Math.max(count - 1, 1)));
  return at.map((frame) => written(frame, frames)).join(", ");
}

// The last frame is written as -1, which stays the last one where the length changes.
export function written(frame, frames) {
  return frame > 0 && frame === frames - 1 ? -1 : frame;
}
