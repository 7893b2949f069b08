// What the timelines are drawn with: a sheet of elements over an axis of time, and handles for mouse and keyboard.
import { SHEET, STYLE } from "./timeline_style.js";

const TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800];
const MOST_TICKS = 7;
const KEYS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 };

function addStyle() {
  if (document.getElementById(SHEET)) return;
  const style = document.createElement("style");
  style.id = SHEET;
  style.textContent = STYLE;
  document.head.append(style);
}

export function percent(fraction) {
  return `${+(100 * fraction).toFixed(4)}%`;
}

// Elements by name. Those of the drawing before stay the same ones, so that focus, a drag and pictures are not lost.
export class Sheet {
  constructor() {
    addStyle();
    this.root = document.createElement("div");
    this.root.className = SHEET;
    this.track = this.root.appendChild(document.createElement("div"));
    this.track.className = "track";
    this.said = this.root.appendChild(document.createElement("div"));
    this.parts = new Map();
    // The page would move the node, and act on keys.
    this.root.addEventListener("pointerdown", (event) => event.button === 0 && event.stopPropagation());
  }

  draw(make) {
    this.drawn = new Set();
    make(this);
    for (const [key, element] of this.parts) {
      if (this.drawn.has(key)) continue;
      element.remove();
      this.parts.delete(key);
    }
  }

  // The element of a name: made once; text, title and place are set anew.
  part(key, kind, style = {}, { text, title } = {}) {
    this.drawn.add(key);
    let element = this.parts.get(key);
    if (!element) {
      element = this.track.appendChild(document.createElement("div"));
      this.parts.set(key, element);
    }
    const isDragged = element.classList.contains("dragged");
    element.className = kind + (isDragged ? " dragged" : "");
    for (const [name, value] of Object.entries(style)) element.style.setProperty(name, value);
    if (text !== undefined && element.textContent !== text) element.textContent = text;
    if (title !== undefined) element.title = title;
    return element;
  }

  // A line below the track; `act` is a button in it as [text, function].
  say(text, isWrong = false, act = undefined) {
    this.said.className = isWrong ? "said wrong" : "said";
    this.said.title = text;
    this.said.replaceChildren(text);
    if (!act) return;
    const button = this.said.appendChild(document.createElement("button"));
    button.textContent = act[0];
    button.addEventListener("click", act[1]);
  }

  // Seconds, and frames below them.
  axis(frames, fps) {
    const seconds = frames / fps;
    const step = TICKS.find((each) => seconds / each <= MOST_TICKS) ?? seconds / MOST_TICKS;
    this.part("axis", "axis");
    for (let index = 0; index * step <= seconds * 0.93; index += 1) {
      const at = +(index * step).toFixed(3);
      const text = `${at} s\n${Math.round(at * fps)}`;
      this.part(`tick ${index}`, "tick", { left: percent(at / seconds) }, { text, title: "seconds; frames" });
    }
  }

  // Something to drag, or to move with the keys, along whole numbers.
  //   at: its number now; least, most: its ends; page: how far PageUp and PageDown go; label, told: what it is, and
  //   its value in words; numberAt(fraction): the number at a place of the track; set(number, direction): null where it
  //   cannot be moved.
  handle(key, kind, style, control) {
    const element = this.part(key, `handle ${kind}`, style, { title: `${control.label}: ${control.told}` });
    if (!element.ltx23Control) this.listen(element);
    element.ltx23Control = control;
    const values = { label: control.label, valuetext: control.told, disabled: !control.set,
      valuemin: control.least, valuemax: control.most, valuenow: control.at };
    Object.assign(element, { role: "slider", tabIndex: 0 });
    for (const [name, value] of Object.entries(values)) element.setAttribute(`aria-${name}`, value);
    return element;
  }

  listen(element) {
    element.addEventListener("keydown", (event) => onKey(event, element.ltx23Control));
    // For the page's undo, which waits for this event of what has the focus.
    element.addEventListener("keyup", () => element.dispatchEvent(new Event("change")));
    element.addEventListener("pointerdown", (event) => {
      const grip = this.numberAt(event, element) - element.ltx23Control.at; // where it is held
      if (event.button !== 0 || !element.ltx23Control.set) return;
      element.setPointerCapture(event.pointerId);
      element.classList.add("dragged");
      element.onpointermove = (moved) => move(element.ltx23Control, this.numberAt(moved, element) - grip);
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      element.addEventListener(end, () => {
        element.onpointermove = null;
        element.classList.remove("dragged");
      });
    }
  }

  numberAt(event, element) {
    const box = this.track.getBoundingClientRect();
    return element.ltx23Control.numberAt((event.clientX - box.left) / (box.width || 1));
  }
}

function move(control, number) {
  const within = Math.min(Math.max(Math.round(number), control.least), control.most);
  if (!control.set || !Number.isFinite(within) || within === control.at) return;
  control.set(within, Math.sign(within - control.at));
}

function onKey(event, control) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const steps = { ...KEYS, PageUp: control.page, PageDown: -control.page, Home: -Infinity, End: Infinity };
  if (!(event.key in steps)) return;
  event.preventDefault();
  event.stopPropagation();
  move(control, Math.min(Math.max(control.at + steps[event.key], control.least), control.most));
}
