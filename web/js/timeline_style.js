// How the timelines look. Colours are the page's own where it has one, so that light themes fit too.
export const SHEET = "ltx23-timeline"; // the class of a timeline
const S = `.${SHEET}`;

export const STYLE = `
${S} { display: flex; flex-direction: column; box-sizing: border-box; padding: 2px 10px 0; overflow: hidden;
  font: 10px/1.3 sans-serif; color: var(--descrip-text, #999); user-select: none }
${S} .track { position: relative; flex: 1; min-height: 0; margin-bottom: 2px }
${S} .track > * { position: absolute; box-sizing: border-box }
${S} .said { height: 26px; overflow: hidden; overflow-wrap: anywhere; display: -webkit-box; -webkit-box-orient: vertical;
  -webkit-line-clamp: 2 }
${S} .said.wrong { color: var(--error-text, #ff4444) }
${S} button { margin-left: 6px; padding: 0 6px; border-radius: 4px; font: inherit; cursor: pointer;
  color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #555) }

${S} .axis { left: 0; right: 0; bottom: 25px; border-top: 1px solid currentColor; opacity: .5 }
${S} .tick { bottom: 0; height: 25px; padding: 3px 0 0 3px; white-space: pre; line-height: 1.1;
  border-left: 1px solid color-mix(in srgb, currentColor 45%, transparent) }

${S} .handle { cursor: ew-resize; touch-action: none; outline: none; border-radius: 4px }
${S} .handle.edge::after { content: ""; position: absolute; inset: 0 3px; border-radius: 3px;
  background: var(--pin, #64b5f6) }
${S} .handle.wide { border: 2px solid #64b5f6; cursor: grab }
${S} .handle.picture:focus { z-index: 1 }
${S} .handle:focus-visible, ${S} .handle.dragged { box-shadow: 0 0 0 2px var(--input-text, #fff) }
${S} .handle[aria-disabled=true] { cursor: not-allowed; filter: grayscale(1) }

${S} .bar, ${S} .text { height: 16px; padding: 0 4px; border-radius: 3px; overflow: hidden; white-space: nowrap;
  text-overflow: ellipsis; line-height: 16px; color: #fff; background: hsl(var(--hue) 35% 30%) }
${S} .bar { border: 1px solid hsl(var(--hue) 45% 52%); line-height: 14px; text-align: center;
  background: hsl(var(--hue) 42% 36%) }
${S} .held { height: 16px; border-radius: 3px 0 0 3px; pointer-events: none;
  background: repeating-linear-gradient(135deg, #0007 0 2px, transparent 2px 5px) }

${S} .picture { width: 56px; height: 42px; border: 2px solid var(--pin); overflow: hidden; text-align: center;
  line-height: 26px; font-size: 13px; color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222) }
${S} .picture img { width: 100%; height: 100%; object-fit: cover; display: block }
${S} .number { position: absolute; inset: auto 0 0; height: 13px; line-height: 13px; font-size: 10px; color: #fff;
  background: #0009 }
${S} .pin { width: 2px; background: var(--pin); pointer-events: none }

${S} .clip { border-radius: 3px; background: 0 / 100% 100% color-mix(in srgb, currentColor 14%, transparent) }
${S} .shade { background: #000a; pointer-events: none }
${S} .anew { background: #64b5f62e; border: 0 dashed #64b5f6; border-width: 0 1px; pointer-events: none }
${S} .cut { padding: 0 4px; overflow: hidden; line-height: 54px; color: #fff; pointer-events: none;
  background: repeating-linear-gradient(135deg, #0009 0 4px, #0005 4px 8px) }
`;
