"""Bad input: what the client is told, before a run and in it."""
from __future__ import annotations

import shutil

import pytest

from tests.conftest import Host
from tests.host import graphs
from tests.host.client import ClientError, Graph


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
    ({"width": 1000, "height": 700}, ("width is 1000 and height is 700 pixels", "Use 992x704 or 1024x704.")),
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


@pytest.mark.parametrize("change", [{"seed": -1}, {"batch": 65, "steps": 10_001}, {"steps": "many"}])
def test_numbers_that_stand_alone_are_refused_by_the_host(host: Host, change: dict) -> None:
    """One error under each wrong input, and no other."""
    details = refusal(host, graphs.workflow("quick_start", "bad", **change))["LTX23Sampler"]
    assert sorted(each.partition(",")[0] for each in details) == sorted(change)


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
    ({"checkpoint": "gone.safetensors"}, ("'gone.safetensors' is not in models/checkpoints or models/diffusion_models",
                                          graphs.CHECKPOINT, "press R")),
    ({"text_encoder": "gone"}, ("'gone' is not in models/text_encoders", "there: gemma", "Gemma 3 12B")),
    ({"upsampler": "gone.safetensors"}, ("is not in models/latent_upscale_models",)),
    ({"checkpoint": "../../secret.safetensors"}, ("checkpoint is no name of a list: '../../secret",)),
    ({"checkpoint": "C:\\secret.safetensors"}, ("checkpoint is no name of a list", "without a drive")),
    ({"distilled_lora": "\\\\server\\share\\x.safetensors"}, ("distilled_lora is no name of a list",)),
    ({"text_encoder": "../checkpoints"}, ("text_encoder is no name of a list: '../checkpoints'",)),
    ({"checkpoint": "gemma"}, ("models/text_encoders/gemma cannot be used as checkpoint: Gemma 3 of", "transformer")),
    ({"video_vae": graphs.CHECKPOINT}, ("cannot be used as video_vae: LTX-2.3", "Choose it as checkpoint.")),
    ({"distilled_lora": graphs.UPSCALER}, ("cannot be used as distilled_lora: LTX-2.3 latent upscaler x2",)),
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
    assert "STG blocks are '28;x'" in refusal(host, graph)["LTX23Guidance"][0]


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


def test_missing_text_encoder(host: Host) -> None:
    message = failure(host, graphs.workflow("quick_start", "bad", text_encoder="none"), "LTX23Sampler")
    assert "text_encoder" in message and "gemma_3_12B_it" in message


def test_missing_upsampler(host: Host) -> None:
    graph = graphs.workflow("quick_start", "bad", recipe="distilled", width=128, steps=0, distilled_lora=graphs.LORA,
                            upsampler="none")
    message = failure(host, graph, "LTX23Sampler")
    assert "ltx-2.3-spatial-upscaler-x2" in message and "latent_upscale_models" in message


def test_distilled_recipe_on_dev_weights(host: Host) -> None:
    graph = graphs.workflow("quick_start", "bad", recipe="distilled_one_stage", steps=0, distilled_lora="none")
    assert "distilled LoRA" in failure(host, graph, "LTX23Sampler")


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
    assert "cut.safetensors cannot be used as checkpoint" in message
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
