// The button "Get missing files" of the Overlay node: what is missing, its size, the room for it, and the download with
// its progress. Without this file the node's text names the same files and their addresses.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { add, gigabytes, wanted } from "./parts.js";

const NODE = "LTX23Overlay";
const BUTTON = "Get missing files";
const ADDRESS = "/ltx23/get";
const POLL_MS = 700;

async function ask(body) {
  const options = body && { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  const answer = await api.fetchApi(ADDRESS, options);
  const found = await answer.json();
  if (found.error) throw new Error(found.error);
  return found;
}

function list(place, state) {
  const missing = state.files.filter((each) => !each.there);
  for (const file of missing) {
    const line = add(place, "div");
    const link = add(line, "a", file.name);
    link.href = file.address;
    link.target = "_blank";
    link.rel = "noopener";
    add(line, "span", `  ${gigabytes(file.size)} → ${file.folder}${file.gated ? " (accept its terms there first)" : ""}`);
  }
  const room = `${gigabytes(state.size)} in all; ${gigabytes(state.free)} free, of which ${gigabytes(state.reserved)} stay free`;
  add(place, "p", missing.length ? room : "Nothing is missing.");
  if (missing.length && !state.fits) add(place, "p", "That does not fit on this disk.");
  if (state.refused) add(place, "p", state.refused);
}

class Dialog {
  constructor() {
    this.box = document.createElement("dialog");
    this.box.className = "ltx23-get";
    this.box.style.cssText = "max-width: 46rem; padding: 1.2rem; line-height: 1.6; color: inherit; background: var(--comfy-menu-bg, #222)";
    add(this.box, "h3", BUTTON);
    this.files = add(this.box, "div");
    this.bar = add(this.box, "progress");
    this.bar.style.width = "100%";
    this.said = add(this.box, "p");
    this.start = this.button("Download", () => this.act("start"));
    this.stop = this.button("Stop", () => this.act("stop"));
    this.start.disabled = this.stop.disabled = true; // until it is known what is missing, and whether something runs
    this.button("Close", () => this.box.close());
    const escape = (event) => event.key === "Escape" && this.box.close(); // which the page takes for itself
    this.box.addEventListener("close", () => {
      window.removeEventListener("keydown", escape, true);
      this.box.remove();
    });
    window.addEventListener("keydown", escape, true);
    document.body.append(this.box);
    this.box.showModal();
  }

  button(text, act) {
    const button = add(this.box, "button", text);
    button.style.margin = "0 .5rem 0 0";
    button.addEventListener("click", act);
    return button;
  }

  async act(action) {
    try {
      await ask({ action, ...(await wanted()) });
      await this.follow();
    } catch (error) {
      this.said.textContent = error.message;
    }
  }

  show(state) {
    this.files.replaceChildren();
    list(this.files, state);
    this.bar.hidden = !state.running;
    this.bar.max = state.total || 1;
    this.bar.value = state.done;
    const isMissing = state.files.some((each) => !each.there);
    this.start.disabled = state.running || !isMissing || !state.fits || Boolean(state.refused);
    this.stop.disabled = !state.running;
    const now = `${state.name}: ${gigabytes(state.done)} of ${gigabytes(state.total)}`;
    this.said.textContent = state.running && state.total ? now : state.said;
  }

  // Until nothing runs; the download goes on where the dialog is closed.
  async follow() {
    if (this.following) return;
    this.following = true;
    try {
      let ran = false;
      for (;;) {
        const state = await ask({ action: "look", ...(await wanted()) });
        this.show(state);
        if (!state.running) break;
        ran = true;
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      }
      if (ran) await app.refreshComboInNodes(); // the lists show the new files, of which one may be waited for
      if (ran) app.canvas?.setDirty?.(true, true);
    } catch (error) {
      this.said.textContent = error.message;
    } finally {
      this.following = false;
    }
  }
}

app.registerExtension({
  name: "ltx23.get",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const button = node.addWidget("button", BUTTON, null, () => new Dialog().follow(), { serialize: false });
    button.serialize = false; // neither in the workflow nor in the prompt
  },
});
