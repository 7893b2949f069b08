"""Translations as the server hands them out: complete against the schemas of a real ComfyUI."""
from __future__ import annotations

from tests.conftest import Host


def test_the_server_hands_them_out_and_they_are_complete(host: Host) -> None:
    told = host.client.get("/i18n")
    for language, parts in told.items():
        nodes = parts.get("nodeDefs", {})
        ours = {name: node for name, node in nodes.items() if name.startswith("LTX23")}
        assert len(ours) == 31, language
        for name, node in ours.items():
            info = host.client.node_info(name)
            inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
            assert set(node["inputs"]) == set(inputs), (language, name)
            assert len(node["outputs"]) == len(info["output"]), (language, name)
    assert "zh" in told
