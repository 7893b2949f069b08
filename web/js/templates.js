// ComfyUI lists a pack's workflows in the order in which the disk holds them, and the page shows them so: "03, 17, 10".
// Here our own list comes in the order of its numbers. Lists of other packs are handed on as they came; without this file
// the dialog has the same workflows, unsorted.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

// This file's address is /extensions/PACK/js/templates.js, and the lists stand under the same name of the folder.
const PACK = decodeURIComponent(new URL(import.meta.url).pathname.split("/").at(-3));

app.registerExtension({
  name: "ltx23.templates",
  setup() {
    const before = api.getWorkflowTemplates;
    if (typeof before !== "function") return;
    api.getWorkflowTemplates = async function (...given) {
      const lists = await before.apply(this, given);
      if (Array.isArray(lists?.[PACK])) lists[PACK].sort();
      return lists;
    };
  },
});
