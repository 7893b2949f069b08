// ComfyUI repeats a sentence of a node under every input that its class judges in the graph. Where two nodes of one class
// are wrong in different inputs, each would have both: here each sentence stays once, under the input that it names. Of
// other nodes, and of our other entries, nothing is touched; without this file the page shows the repetitions.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { remember } from "./runs.js";

function sentence(entry) {
  const name = entry?.extra_info?.input_name ?? "";
  return String(entry?.details ?? "").slice(name.length).replace(/^ - /, "");
}

function tidy(errors) {
  for (const node of Object.values(errors ?? {})) {
    if (!node?.class_type?.startsWith("LTX23") || !Array.isArray(node.errors)) continue;
    const best = new Map(); // sentence -> the entry that stays
    for (const entry of node.errors.filter((each) => each.type === "custom_validation_failed")) {
      const text = sentence(entry);
      const isNamed = text.startsWith(`${entry.extra_info?.input_name} `);
      if (!best.has(text) || isNamed) best.set(text, entry);
    }
    node.errors = node.errors.filter((each) => each.type !== "custom_validation_failed" || best.get(sentence(each)) === each);
  }
}

app.registerExtension({
  name: "ltx23.errors",
  setup() {
    const before = api.queuePrompt;
    api.queuePrompt = async function (...given) {
      try {
        const answer = await before.apply(this, given);
        tidy(answer?.node_errors);
        remember(answer?.prompt_id, given[1]?.workflow?.id);
        return answer;
      } catch (error) {
        tidy(error?.response?.node_errors);
        throw error;
      }
    };
  },
});
