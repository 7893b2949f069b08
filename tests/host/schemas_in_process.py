"""Runs inside ComfyUI's source tree under strace, started by test_object_info_calls.py: every schema, as /object_info.

What the thread that builds the schemas asks of the model folder stands between two questions for names that mark it.
"""
from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

SOURCE, PACK, MODELS = map(Path, sys.argv[1:4])
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, str(SOURCE))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import folder_paths  # noqa: E402
from pack_by_path import import_pack  # noqa: E402

for kind in ("loras", "ltx23_overlays"):
    folder_paths.folder_names_and_paths[kind] = ([str(MODELS / kind)], {".safetensors"})


def main() -> None:
    """One round of schemas starts the look; the marked one comes when it is done."""
    extension = asyncio.run(import_pack(PACK).comfy_entrypoint())
    nodes = asyncio.run(extension.get_node_list())
    files = sys.modules["pack_x_path.nodes.model.files"].FILES
    for node in nodes:
        node.GET_NODE_INFO_V1()
    while not files.known():
        time.sleep(0.1)
    files.items()
    os.path.exists(MODELS / "loras" / "begin")
    infos = [node.GET_NODE_INFO_V1() for node in nodes]
    os.path.exists(MODELS / "loras" / "end")
    lora = next(info for info in infos if info["name"] == "LTX23LoRA")
    print(json.dumps({"nodes": len(infos), "loras": len(lora["input"]["required"]["lora"][1]["options"])}))


if __name__ == "__main__":
    main()
