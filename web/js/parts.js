// What several parts of the page share: sizes in words, elements without HTML, and what the graph needs. Registers nothing.
import { api } from "../../../scripts/api.js";
import { places, read } from "./graph.js";

export function gigabytes(bytes) {
  if (bytes && bytes < 1e8) return `${(bytes / 1e6).toFixed(1)} MB`;
  return bytes ? `${(bytes / 1e9).toFixed(1)} GB` : "size not published";
}

export function add(parent, tag, text = "") {
  const element = document.createElement(tag);
  element.textContent = text; // never HTML: names come from file systems and servers
  parent.append(element);
  return element;
}

// What this graph needs beside a checkpoint and its text encoder: parts of its recipes, and the LoRAs that it names.
export async function wanted() {
  const answer = await api.fetchApi("/ltx23/recipes");
  const recipes = answer.ok ? await answer.json() : {};
  const components = new Set();
  const files = new Set();
  for (const { node, hosts } of places()) {
    if (!node.comfyClass?.startsWith("LTX23")) continue;
    const [recipe, lora] = ["recipe", "lora"].map((name) => read(node, name, hosts));
    for (const each of recipes[recipe]?.needs ?? []) components.add(each);
    if (lora && lora !== "none") files.add(lora);
  }
  return { components: [...components], files: [...files] };
}
