"""Bad input: what the client is told, before a run and in it."""
from __future__ import annotations

import shutil

import pytest

from tests.conftest import Host
from tests.host import graphs
from tests.host.client import ClientError, Graph
from tools.example_files import add_media


def refusal(host: Host, graph: Graph) -> dict[str, list[str]]:
    """The details of each node's errors; fails if the server takes the graph."""
    with pytest.raises(ClientError) as caught:
        host.client.queue(graph)
    errors = caught.value.body["node_errors"]
    return {errors[node]["class_type"]: [error["details"] for error in errors[node]["errors"]] for node in errors}


@pytest.mark.parametrize(("change", "words"), [
    ({"width": 770}, ("width is 770 pixels", "a multiple of 32", "Use 768 or 800.")),
    ({"height": 500}, ("height is 500 pixels", "a multiple of 32", "Use 480 or 512.")),
    ({"recipe": "distilled", "width": 736}, ("width is 736 pixels", "a multiple of 64", "Use 704 or 768.")),
    ({"frames": 120}, ("frames is 120", "8 k + 1", "Use 113 or 121.")),
    ({"recipe": "three_stage"}, ("recipe is 'three_stage'", "one_stage", "Choose auto.")),
    ({"width": 0}, ("width is 0 pixels", "Use 32 or 64.")),
    ({"width": 20000}, ("width is 20000", "32 to 8192")),
    ({"frames": 8_000_001}, ("frames is 8000001", "1 to 10001")),
    ({"fps": float("nan")}, ("fps is nan", "1 to 120")),
    ({"stages": "third"}, ("stages is 'third'", "one of all, first, second", "Choose all.")),
    ({"noise_device": "gpu"}, ("noise_device is 'gpu'", "one of auto, cpu", "Choose auto.")),
])
def test_settings_are_refused_before_the_run(host: Host, change: dict, words: tuple[str, ...]) -> None:
    details = refusal(host, graphs.workflow("quick_start", "bad", **change))
    assert list(details) == ["LTX23Sampler"]
    assert all(word in details["LTX23Sampler"][0] for word in words), details


def told(host: Host, graph: Graph) -> dict[tuple[str, str], list[str]]:
    """(node, input) -> everything that the answer says of it."""
    with pytest.raises(ClientError) as caught:
        host.client.queue(graph)
    found: dict[tuple[str, str], list[str]] = {}
    for node, entry in caught.value.body["node_errors"].items():
        for error in entry["errors"]:
            found.setdefault((node, error["extra_info"]["input_name"]), []).append(error["details"])
    return found


@pytest.mark.parametrize(("name", "change"), [
    ("quick_start", {"seed": -1}), ("quick_start", {"batch": 65, "steps": 10_001}), ("quick_start", {"steps": "many"}),
    ("quick_start", {"width": 1000, "height": 700}), ("quick_start", {"frames": 10, "recipe": "x", "height": 65}),
    ("quick_start", {"checkpoint": "gone.safetensors", "text_encoder": "gone"}), ("quick_start", {"audio_vae": "x"}),
    ("quick_start", {"checkpoint": "none"}), ("quick_start", {"variant": "turbo"}),
    ("quick_start", {"filename_prefix": "../x"}), ("quick_start", {"precision": "fp4", "attention": "fast"}),
    ("keyframes", {"at_frames": "0;1", "strengths": "x"}), ("retake", {"start": 1.0, "end": 0.5}),
    ("long_video", {"window": 18, "overlap": 9}), ("image_to_video", {"strength": 2.0, "crf": 99}),
    ("audio_to_video", {"noise": float("nan")}), ("two_stage_apart", {"kind": "x3"}),
    ("enhance_prompt", {"max_tokens": 0}), ("text_to_video", {"negative_prompt": "a\0b"}),
])
def test_one_message_at_each_wrong_input(host: Host, name: str, change: dict) -> None:
    """As many entries as there are wrong inputs, each with the sentence that names its input."""
    add_media(host.base.input)
    found = told(host, graphs.workflow(name, "bad", **change))
    wrong = {"end"} if name == "retake" else set(change)
    assert {key for _, key in found} == wrong
    for (_, key), details in found.items():
        assert len(details) == 1 and key in details[0].partition(" - ")[2] or "invalid literal" in details[0], found


def test_two_nodes_are_told_their_own(host: Host) -> None:
    graph = graphs.workflow("two_stage_apart", "bad")
    first, second = sorted(key for key, node in graph.items() if node["class_type"] == "LTX23Sampler")
    graph[first]["inputs"]["width"] = graph[second]["inputs"]["width"] = 130
    found = told(host, graph)
    assert set(found) == {(first, "width"), (second, "width")}
    graph[second]["inputs"] |= {"width": 128, "height": 65}
    found = told(host, graph)
    assert all("width is 130" in text for (node, _), texts in found.items() for text in texts if node == first)
    assert all("height is 65" in text for (node, _), texts in found.items() for text in texts if node == second)


def test_what_cannot_be_is_refused_before_gemma_is_read(host: Host) -> None:
    """Also where another node would encode the prompt, and the parts of a long video."""
    graph = graphs.workflow("quick_start", "bad", recipe="distilled_one_stage", steps=30)
    sampler = graphs.node_id(graph, "LTX23Sampler")
    model = graph[sampler]["inputs"]["model"]
    graph["70"] = {"class_type": "LTX23LongVideo", "inputs": {
        "model": model, "prompts": "Never read.", "window": 33, "overlap": 8, "overlap_strength": 1.0, "resume": False}}
    graph["71"] = {"class_type": "LTX23Prompt", "inputs": {
        "model": model, "prompt": "Never read either.", "negative_prompt": ""}}
    graph[sampler]["inputs"] |= {"windows": ["70", 0], "context": ["71", 0]}
    run = host.client.run(graph)
    assert run.error is not None and run.error["node_type"] == "LTX23Sampler", run.error
    assert "steps is 30" in run.error["exception_message"] and "71" not in run.executed
    graph[sampler]["inputs"] |= {"recipe": "one_stage", "steps": 1}
    run = host.client.run(graph)
    assert run.ok and "71" in run.executed, run.error


@pytest.mark.parametrize(("change", "words"), [
    ({"checkpoint": "gone.safetensors"}, ("'gone.safetensors', which is not in models/checkpoints or models/diffusion",
                                          graphs.CHECKPOINT, "press R")),
    ({"text_encoder": "gone"}, ("'gone', which is not in models/text_encoders", "there: gemma", "Gemma 3 12B")),
    ({"upsampler": "gone.safetensors"}, ("is not in models/latent_upscale_models",)),
    ({"checkpoint": "../../secret.safetensors"}, ("checkpoint is no name of a list: '../../secret",)),
    ({"checkpoint": "C:\\secret.safetensors"}, ("checkpoint is no name of a list", "without a drive")),
    ({"distilled_lora": "\\\\server\\share\\x.safetensors"}, ("distilled_lora is no name of a list",)),
    ({"text_encoder": "../checkpoints"}, ("text_encoder is no name of a list: '../checkpoints'",)),
    ({"checkpoint": "gemma"}, ("checkpoint is models/text_encoders/gemma, which cannot be used there: Gemma 3 of",)),
    ({"video_vae": graphs.CHECKPOINT}, ("video_vae is", "cannot be used there: LTX-2.3", "Choose it as checkpoint.")),
    ({"distilled_lora": graphs.UPSCALER}, ("cannot be used there: LTX-2.3 latent upscaler x2",)),
    ({"variant": "turbo"}, ("variant is 'turbo'", "Choose auto.")),
])
def test_files_are_refused_before_the_run(host: Host, change: dict, words: tuple[str, ...]) -> None:
    details = refusal(host, graphs.workflow("quick_start", "bad", **change))
    assert list(details) == ["LTX23Overlay"]
    assert all(word in details["LTX23Overlay"][0] for word in words), details


@pytest.mark.parametrize("prefix", ["../outside", "/tmp/outside", "", "C:outside", "a:stream", "a\0b",
                                    "\\\\server\\share\\x"])
def test_file_name_stays_in_the_output_folder(host: Host, prefix: str) -> None:
    details = refusal(host, graphs.workflow("quick_start", prefix))
    [message, *_] = details["LTX23DecodeToFile"]
    expected = ("a name inside ComfyUI's output folder", "or control character in a name", "a text of characters")
    assert any(words in message for words in expected), message


def test_stg_blocks_must_be_numbers(host: Host) -> None:
    graph = graphs.workflow("quick_start", "bad")
    names = host.client.node_info("LTX23Guidance")["input"]["required"]
    graph["20"] = {"class_type": "LTX23Guidance",
                   "inputs": {key: spec[1]["default"] for key, spec in names.items()} | {"video_stg_blocks": "28;x"}}
    graph[graphs.node_id(graph, "LTX23Sampler")]["inputs"]["guidance"] = ["20", 0]
    assert "video_stg_blocks is '28;x'" in refusal(host, graph)["LTX23Guidance"][0]


def failure(host: Host, graph: Graph, node: str) -> str:
    """The message of a run that fails in a node."""
    run = host.client.run(graph)
    assert run.error is not None and run.error["node_type"] == node, (run.error, run.executed)
    message = run.error["exception_message"].rstrip("\n")
    assert "\n" not in message, "ComfyUI shows only the first line"
    assert "Expected: " in message and "Next: " in message, message
    return message


def test_linked_values_are_checked_in_the_run(host: Host) -> None:
    """A linked widget is unknown to validation; the same words come as the node's error."""
    graph = graphs.workflow("quick_start", "bad")
    graph["30"] = {"class_type": "PrimitiveInt", "inputs": {"value": 770}}
    graph[graphs.node_id(graph, "LTX23Sampler")]["inputs"]["width"] = ["30", 0]
    assert "Use 768 or 800." in failure(host, graph, "LTX23Sampler")


@pytest.mark.parametrize(("name", "change", "words"), [
    ("quick_start", {"text_encoder": "none"}, ("text_encoder is none", "Sampler will need", "Choose auto, or gemma.")),
    ("text_to_video", {"text_encoder": "none"}, ("text_encoder is none", "Prompt will need", "Choose auto, or gemma.")),
    ("enhance_prompt", {"text_encoder": "none"}, ("Sampler, Enhance Prompt will need",)),
    ("distilled", {"upsampler": "none"}, ("upsampler is none", "Choose auto, or ltx-2.3-tiny-")),
    ("two_stage_apart", {"upsampler": "none"}, ("upsampler is none", "Latent Upscale")),
    ("two_stage", {"distilled_lora": "none"}, ("distilled_lora is none", "distilled LoRA", "auto, or ltx-2.3-tiny-")),
])
def test_overlay_says_what_the_nodes_behind_it_will_need(host: Host, name: str, change: dict,
                                                         words: tuple[str, ...]) -> None:
    [[where, texts]] = told(host, graphs.workflow(name, "bad", **change)).items()
    assert where == ("1", *change) and len(texts) == 1
    assert all(word in texts[0] for word in words), texts


def test_what_no_output_asks_for_is_not_missed(host: Host) -> None:
    """A Prompt node that nothing leads to an output, and an edited text, which Gemma does not write."""
    graph = graphs.workflow("enhance_prompt", "bad", text_encoder="none")
    enhance = graphs.node_id(graph, "LTX23EnhancePrompt")
    alone = {key: graph[key] for key in ("1", "2", enhance)}
    alone["80"] = {"class_type": "LTX23Prompt", "inputs": {
        "model": ["2", 0], "prompt": "Never read.", "negative_prompt": ""}}
    assert "text encoder" in told(host, alone)["1", "text_encoder"][0]
    alone[enhance]["inputs"]["edited"] = "A lighthouse."
    assert host.client.run(alone).ok


def test_distilled_recipe_needs_no_lora_where_the_weights_are_distilled(host: Host) -> None:
    graph = graphs.workflow("quick_start", "fine", recipe="distilled_one_stage", steps=0, distilled_lora="none")
    assert "distilled LoRA" in told(host, graph)["1", "distilled_lora"][0]
    graph["1"]["inputs"]["variant"] = "distilled"
    assert host.client.run(graph).ok


def test_stg_block_that_the_model_lacks(host: Host) -> None:
    graph = graphs.workflow("quick_start", "bad")
    names = host.client.node_info("LTX23Guidance")["input"]["required"]
    graph["20"] = {"class_type": "LTX23Guidance", "inputs": {key: spec[1]["default"] for key, spec in names.items()}}
    graph[graphs.node_id(graph, "LTX23Sampler")]["inputs"]["guidance"] = ["20", 0]
    assert "STG block 28" in failure(host, graph, "LTX23Sampler")


def test_frame_of_an_image_outside_the_clip(host: Host) -> None:
    graph = graphs.workflow("image_to_video", "bad", frame=99)
    load, condition = (graphs.node_id(graph, name) for name in ("LoadImage", "LTX23ImageCondition"))
    graph[load] = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}}
    graph[condition]["inputs"]["image"] = [load, 0]
    assert "frame 99 of a clip of 17 frames" in failure(host, graph, "LTX23Sampler")


def test_latent_of_another_model(host: Host) -> None:
    graph = graphs.workflow("quick_start", "bad")
    decoder = graphs.node_id(graph, "LTX23DecodeToFile")
    graph["40"] = {"class_type": "EmptyLTXVLatentVideo",
                   "inputs": {"width": 96, "height": 64, "length": 17, "batch_size": 1}}
    graph[decoder]["inputs"]["video"] = ["40", 0]
    assert "the video latent has shape" in failure(host, graph, "LTX23DecodeToFile")


@pytest.mark.parametrize(("name", "content", "words"), [
    ("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 46149321190\n",
     ("Git LFS pointer, 73 bytes: the download never happened (the real file has 46.1 GB)", "git lfs pull")),
    ("empty.safetensors", b"", ("models/checkpoints/empty.safetensors", "empty file: the download did not begin")),
    ("page.safetensors", b"<!DOCTYPE html><html>", ("HTML page saved as .safetensors",)),
])
def test_files_that_are_no_weights(host: Host, name: str, content: bytes, words: tuple[str, ...]) -> None:
    file = host.base.models / "checkpoints" / name
    file.write_bytes(content)
    try:
        message = refusal(host, graphs.workflow("quick_start", "bad", checkpoint=name))["LTX23Overlay"][0]
    finally:
        file.unlink()
    assert all(word in message for word in words), message


def test_truncated_checkpoint(host: Host) -> None:
    source = host.models[graphs.CHECKPOINT]
    cut = source.with_name("cut.safetensors")
    shutil.copyfile(source, cut)
    with cut.open("rb+") as file:
        file.truncate(source.stat().st_size - 1000)
    try:
        message = refusal(host, graphs.workflow("quick_start", "bad", checkpoint=cut.name))["LTX23Overlay"][0]
    finally:
        cut.unlink()
    assert "cut.safetensors, which cannot be used there" in message
    assert "truncated: header promises 9070608 bytes, file has 9069608" in message


def test_wrong_kind_of_file(host: Host) -> None:
    """An upscaler where the checkpoint belongs is named as what it is."""
    upscaler = host.models[graphs.UPSCALER]
    wrong = host.base.models / "checkpoints" / "wrong.safetensors"
    shutil.copyfile(upscaler, wrong)
    try:
        message = refusal(host, graphs.workflow("quick_start", "bad", checkpoint=wrong.name))["LTX23Overlay"][0]
    finally:
        wrong.unlink()
    assert "upscaler" in message


def test_a_good_run_follows(host: Host) -> None:
    assert host.client.run(graphs.workflow("quick_start", "after", frames=9)).ok
