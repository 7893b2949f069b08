// Which graph a run belongs to, of those that this page queued: several may be open in it, and nodes of two graphs may have
// one number. Registers nothing; errors.js tells what was queued.
import { api } from "../../../scripts/api.js";
import { placeOf, root } from "./graph.js";

const MOST = 1000;
const graphs = new Map(); // prompt id -> id of its workflow

export function remember(prompt, graph) {
  if (!prompt || !graph) return;
  graphs.set(prompt, graph);
  if (graphs.size > MOST) graphs.delete(graphs.keys().next().value);
}

// Whether what a run sends is for the graph that is open; of a run from before the page was loaded anew nothing is known.
export function isShown(prompt) {
  const graph = graphs.get(prompt);
  return graph === undefined || graph === root()?.id;
}

// act(node, output) when a node of a kind has run, or its result was kept.
export function whenExecuted(kind, act) {
  api.addEventListener("executed", ({ detail }) => {
    const node = placeOf(detail.display_node ?? detail.node)?.node;
    if (node?.comfyClass === kind && isShown(detail.prompt_id)) act(node, detail.output ?? {});
  });
}
