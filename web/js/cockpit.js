// What the Overlay node shows before a run: its files as a ticked list, and what this card can do with them. Draws only;
// overlay.js asks the server and places it. Registers nothing.
import { add, gigabytes } from "./parts.js";

// Its size is that of its place (`contain`): else, in Nodes 2.0, a long list pushes the node over those below it.
const STYLE = `
.ltx23-cockpit { box-sizing: border-box; width: 100%; height: 100%; min-height: 115px; contain: size; overflow-y: auto; padding: 6px 8px; border-radius: 6px;
  font: 11px/1.4 system-ui, sans-serif; color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222); }
.ltx23-cockpit .head { font-weight: 600; font-size: 12px; margin-bottom: 2px; }
.ltx23-cockpit .row { display: grid; grid-template-columns: 14px 1fr auto; column-gap: 4px; margin-top: 4px; }
.ltx23-cockpit .name { overflow-wrap: anywhere; color: inherit; }
.ltx23-cockpit a.name { text-decoration: underline dotted; }
.ltx23-cockpit .size { white-space: nowrap; font-variant-numeric: tabular-nums; }
.ltx23-cockpit .small { grid-column: 2 / -1; opacity: .65; font-size: 10px; }
.ltx23-cockpit .good { color: #5fbf77; } .ltx23-cockpit .bad { color: #e5735f; } .ltx23-cockpit .idle { opacity: .6; }
.ltx23-cockpit h4 { margin: 8px 0 0; padding-top: 5px; font-size: 11px; border-top: 1px solid #8884; font-weight: 600; }
.ltx23-cockpit h4 span { font-weight: 400; opacity: .65; }
.ltx23-cockpit .bar { grid-column: 2 / -1; height: 4px; margin: 2px 0; border-radius: 2px; background: #8883; overflow: hidden; }
.ltx23-cockpit .bar i { display: block; height: 100%; background: #5fbf77; }
.ltx23-cockpit .now .name { font-weight: 600; }
.ltx23-cockpit details { margin-top: 8px; } .ltx23-cockpit summary { cursor: pointer; }
.ltx23-cockpit pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; margin: 4px 0; }`;

// Headings, by what is wrong. Those of chosen files go before what else is missing.
const CHOSEN = ["absent", "unfit", "off"];
const WRONG = {
  absent: "A chosen file is not there",
  unfit: "A chosen file cannot be used for this",
  off: "None is chosen for what this graph needs",
  together: "These files cannot be used together",
  plan: "Everything is here, but there is no plan for it",
};

function styled() {
  if (document.getElementById("ltx23-cockpit-style")) return;
  add(document.head, "style", STYLE).id = "ltx23-cockpit-style";
}

function make(parent, tag, kind, text = "") {
  const element = add(parent, tag, text);
  element.className = kind;
  return element;
}

function row(parent, mark, kind, size) {
  const line = make(parent, "div", "row");
  make(line, "span", kind, mark);
  return { line, ends: () => make(line, "span", "size", size) };
}

function drawFile(place, file) {
  const { line, ends } = row(place, "✓", "good", gigabytes(file.size));
  make(line, "span", "name", file.name).title = file.sentence;
  ends();
  make(line, "span", "small", [file.variant, file.format, file.parts.join(", ")].filter(Boolean).join(" · "));
}

function drawMissing(place, file) {
  const { line, ends } = row(place, file.needed ? "✗" : "○", file.needed ? "bad" : "idle", gigabytes(file.size));
  const link = make(line, "a", file.needed ? "name" : "name idle", file.name);
  Object.assign(link, { href: file.address, target: "_blank", rel: "noopener" });
  ends();
  const why = `${file.needed ? "missing" : "not there"}: ${file.parts.join(", ")}, for ${file.purposes.join(" and ")} → ${file.folder}`;
  make(line, "span", "small", file.broken || why);
}

function verdict(state) {
  const lacking = state.missing.filter((each) => each.needed);
  if (state.unread) return ["Looking into the model folders …", "idle"];
  if (CHOSEN.includes(state.wrong)) return [WRONG[state.wrong], "bad"];
  if (!lacking.length) return state.wrong ? [WRONG[state.wrong], "bad"] : ["✓ Everything for this graph is here", "good"];
  const size = lacking.reduce((sum, each) => sum + each.size, 0);
  return [`${lacking.length} ${lacking.length > 1 ? "files are" : "file is"} missing, ${gigabytes(size)}`, "bad"];
}

// Of the plan's sentence what comes behind the room that is free, which stands in the heading.
function sentence(plan) {
  return plan.line.replace(/^[^:]*: /, "");
}

function drawPlan(place, plan, chosen) {
  const [mark, kind] = plan.fits ? ["✓", "good"] : ["✗", "bad"];
  const { line, ends } = row(place, mark, kind, gigabytes(plan.weights));
  if (plan.weight_dtype === chosen) line.classList.add("now");
  make(line, "span", "name", plan.weight_dtype + (plan.weight_dtype === chosen ? " (chosen in Load)" : ""));
  ends();
  const [resident, blocks] = plan.share;
  const bar = make(make(line, "div", "bar"), "i", "");
  bar.style.width = `${blocks ? (100 * resident) / blocks : 0}%`;
  make(line, "span", "small", sentence(plan));
}

function drawCard(box, state, chosen) {
  if (!state.plans.length) return;
  const [width, height, frames] = state.card.size;
  const room = state.plans[0].line.match(/^[^:]*/)[0];
  const title = make(box, "h4", "", state.card.name);
  add(title, "span", ` · ${room} · ${width}x${height}, ${frames} frames`);
  // Where the system manages memory all plans say the same: the one of Load is enough.
  const plans = state.card.bytes ? state.plans : state.plans.filter((each) => each.weight_dtype === chosen);
  for (const plan of plans.length ? plans : state.plans.slice(0, 1)) drawPlan(box, plan, chosen);
  if (plans.length > 1) make(box, "div", "small idle", "All but “as stored” are lossy. The bar: what of the transformer stays on the card.");
}

// Everything anew: `state` is the answer of /ltx23/cockpit, `chosen` the weight_dtype of Load, `report` that of the last run.
export function draw(box, state, chosen, report) {
  styled();
  const open = box.querySelector("details")?.open;
  box.replaceChildren();
  make(box, "div", `head ${verdict(state)[1]}`, verdict(state)[0]);
  for (const line of state.problem.split("\n").filter(Boolean)) make(box, "div", "bad", line);
  for (const file of state.missing.filter((each) => each.needed)) drawMissing(box, file);
  for (const file of state.files) drawFile(box, file);
  for (const file of state.missing.filter((each) => !each.needed)) drawMissing(box, file);
  drawCard(box, state, chosen);
  const text = report || state.reasons.join("\n");
  if (!text) return;
  const details = add(box, "details");
  details.open = Boolean(open);
  add(details, "summary", report ? "Report of the last run" : "Why these files");
  add(details, "pre", text);
}
