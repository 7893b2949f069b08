"""LTX23Overlay on a real server: files in many folders, what auto takes, lists, the report, the memory, other files."""
from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import Host
from tests.goldens.harness import CHECKPOINT, GEMMA
from tests.host import graphs
from tests.host.client import ClientError, Graph
from tests.host.test_refusals import refusal
from tests.support.overlay import write_sparse

INPUTS = ("checkpoint", "text_encoder", "upsampler", "distilled_lora", "variant", "text_projection", "video_vae",
          "audio_vae")
SPLITS = {"diffusion_models/sub/tiny-dev_transformer_only.safetensors": ("model.diffusion_model.",),
          "text_encoders/projection.safetensors": ("text_embedding_projection.",),
          "vae/LTX23_video_vae.safetensors": ("vae.",),
          "checkpoints/LTX23_audio_vae.safetensors": ("audio_vae.", "vocoder.")}
SDXL = {"model.diffusion_model.input_blocks.0.0.weight": ("F16", (4, 4)), "conditioner.embedders.1.model.ln.weight":
        ("F16", (4,)), "model.diffusion_model.label_emb.0.0.weight": ("F16", (4, 4))}


def write_part(path: Path, prefixes: tuple[str, ...]) -> None:
    """A split file with some of the tiny checkpoint's tensors and its metadata."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with safe_open(CHECKPOINT, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefixes)}
        save_file(tensors, path, metadata=file.metadata())


@pytest.fixture(scope="module")
def split_host(start_host: Callable[..., Host]) -> Host:
    """A server that has the tiny model as split files in several folders, among files that are not for it."""
    host = start_host("split", models=False)
    for name, prefixes in SPLITS.items():
        write_part(host.base.models / name, prefixes)
    shutil.copytree(GEMMA, host.base.models / "text_encoders" / "gemma")
    write_sparse(host.base.models / "checkpoints" / "sd_xl.safetensors", SDXL)
    (host.base.models / "checkpoints" / "ltx-2.3-22b-dev.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 46149321190\n")
    (host.base.models / "vae" / "taeltx2_3.pth").write_bytes(b"PK\x03\x04" + bytes(500))
    return host


def wait_until_read(host: Host) -> None:
    """Ask as the page does, until the server has looked into every file."""
    deadline = time.monotonic() + 200
    while any(file["sentence"].startswith("not looked at") for file in host.client.get("/ltx23/files")["files"]):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def options(host: Host, all_read: bool = True) -> dict[str, list[str]]:
    """The node's lists, after the page's question made the server look: a schema itself never touches a folder.

    Args:
        all_read: ask until every header is read.
    """
    if all_read:
        wait_until_read(host)
    else:
        host.client.get("/ltx23/files")
    info = host.client.node_info("LTX23Overlay")["input"]
    return {key: spec[1]["options"] for key, spec in {**info["required"], **info["optional"]}.items()}


def overlay_only(host: Host, **inputs: str) -> Graph:
    return {"1": {"class_type": "LTX23Overlay", "inputs": {**dict.fromkeys(INPUTS, "auto"), **inputs}},
            "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}}}


def report(host: Host, **inputs: str) -> str:
    run = host.client.run(overlay_only(host, **inputs))
    assert run.ok, run.error
    return run.outputs["1"]["text"][0] if "1" in run.outputs else run.outputs["2"]["text"][0]


def test_lists_hold_only_what_can_be_used(split_host: Host) -> None:
    assert options(split_host) == {
        "checkpoint": ["auto", "sub/tiny-dev_transformer_only.safetensors"], "text_encoder": ["auto", "gemma", "none"],
        "upsampler": ["auto", "none"], "distilled_lora": ["auto", "none"], "variant": ["auto", "dev", "distilled"],
        "text_projection": ["auto", "projection.safetensors"], "video_vae": ["auto", "LTX23_video_vae.safetensors"],
        "audio_vae": ["auto", "LTX23_audio_vae.safetensors"]}


def test_auto_puts_split_files_together(split_host: Host) -> None:
    text = report(split_host)
    print(text)
    for words in (
            "auto: checkpoint: sub/tiny-dev_transformer_only.safetensors, of 1: with the files here it makes a",
            "transformer: ", " of sub/tiny-dev_transformer_only.safetensors", " of gemma/model.safetensors",
            "vocoder: ",
            " of checkpoints/LTX23_audio_vae.safetensors", " of vae/LTX23_video_vae.safetensors",
            "no upsampler_x2 (for the two-stage recipes): ltx-2.3-spatial-upscaler-x2-1.1.safetensors, 1.0 GB -> "
            "models/latent_upscale_models: https://huggingface.co/Lightricks/LTX-2.3/resolve/main/ltx-2.3-spatial",
            "* models/diffusion_models/sub/tiny-dev_transformer_only.safetensors: LTX-2.3 dev, transformer, bf16,",
            "left out: 3", "models/checkpoints/sd_xl.safetensors: SDXL checkpoint, fp16",
            "ltx-2.3-22b-dev.safetensors: Git LFS pointer", "models/vae/taeltx2_3.pth: Python pickle"):
        assert words in text, words
    assert "nothing is missing" not in text and "text_encoder (for" not in text


def test_split_files_make_a_video(split_host: Host) -> None:
    run = split_host.client.run(graphs.workflow("quick_start", "split", frames=9))
    assert run.ok, run.error


def test_other_models_are_explained_when_named(split_host: Host) -> None:
    message = refusal(split_host, overlay_only(split_host, checkpoint="sd_xl.safetensors"))["LTX23Overlay"][0]
    assert "models/checkpoints/sd_xl.safetensors, which cannot be used there: SDXL checkpoint, fp16" in message
    message = refusal(split_host, overlay_only(split_host, checkpoint="sub\\gone.safetensors"))["LTX23Overlay"][0]
    assert "there: sub/tiny-dev_transformer_only.safetensors" in message


def test_names_with_backslashes_are_found(split_host: Host) -> None:
    text = report(split_host, checkpoint="sub\\tiny-dev_transformer_only.safetensors", video_vae=next(iter(
        options(split_host)["video_vae"][1:])))
    assert "auto: checkpoint" not in text and " of sub/tiny-dev_transformer_only.safetensors" in text


def test_page_gets_the_sentences(split_host: Host) -> None:
    found = split_host.client.get("/ltx23/files")
    sentences = {file["name"]: file["sentence"] for file in found["files"]}
    assert sentences["sd_xl.safetensors"].startswith("SDXL checkpoint, fp16")
    assert found["auto"] == {
        "checkpoint": "sub/tiny-dev_transformer_only.safetensors", "text_encoder": "gemma", "upsampler": "",
        "text_projection": "projection.safetensors", "video_vae": "LTX23_video_vae.safetensors",
        "audio_vae": "LTX23_audio_vae.safetensors"}
    assert found["missing"] == []


def test_a_better_file_is_taken_and_the_node_runs_again(split_host: Host) -> None:
    first = split_host.client.run(overlay_only(split_host))
    again = split_host.client.run(overlay_only(split_host))
    assert first.ok and "1" in again.cached
    whole = split_host.base.models / "checkpoints" / "my ltx-dev dév.safetensors"
    shutil.copyfile(CHECKPOINT, whole)
    try:
        run = split_host.client.run(overlay_only(split_host))
        assert run.ok and "1" not in run.cached
        text = report(split_host)
        assert f"auto: checkpoint: {whole.name}, of 2: with the files here it makes a complete set, it goes" in text
        assert f"of checkpoints/{whole.name}" in text and "of sub/tiny-dev" not in text
    finally:
        whole.unlink()


def test_nothing_there(start_host: Callable[..., Host]) -> None:
    host = start_host("empty", models=False)
    assert options(host)["checkpoint"] == ["auto"]
    message = refusal(host, overlay_only(host))["LTX23Overlay"][0]
    for words in ("ComfyUI's model folders have no LTX-2.3 weights", "models/checkpoints",
                  "https://huggingface.co/Lightricks/LTX-2.3/resolve/main/ltx-2.3-22b-dev.safetensors",
                  "gemma_3_12B_it.safetensors, 24.4 GB"):
        assert words in message


@pytest.fixture(scope="module")
def crowded_host(start_host: Callable[..., Host]) -> Iterator[Host]:
    """200 files of the true number of tensors, each with a header of its own."""
    from tests.support.overlay import lora_22b

    host = start_host("crowded", models=False)
    folder = host.base.models / "loras"
    first = lora_22b(folder / "style-000.safetensors")
    with first.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        head = file.read(length)
    body = first.stat().st_size - 8 - length
    for i in range(1, 200):
        own = b'{"__metadata__":{"number":"%d"},' % i + head[1:]
        with (folder / f"style-{i:03}.safetensors").open("wb") as file:
            file.write(len(own).to_bytes(8, "little") + own)
            file.truncate(8 + len(own) + body)
            file.seek(-1, os.SEEK_END)
            file.write(b"\x3f")
    yield host


def seconds_until_read(host: Host) -> float:
    """What the server computes until it has looked into each file: of a busy machine the same."""
    process = psutil.Process(host.server.process.pid)
    start = process.cpu_times()
    wait_until_read(host)
    end = process.cpu_times()
    return end.user + end.system - start.user - start.system


def test_200_files_are_listed_at_once(crowded_host: Host, record_property: Callable[[str, object], None]) -> None:
    """The names come first, without the files; what they are is found in the background, once, and remembered."""
    host = crowded_host
    deadline = time.monotonic() + 100
    while len(options(host, all_read=False)["distilled_lora"]) < 202:
        assert time.monotonic() < deadline
    seconds = {"first": seconds_until_read(host)}
    time.sleep(1.2)
    seconds["again"] = seconds_until_read(host)
    host.client.close()
    host.server.stop()
    host.server.start()
    host.client = type(host.client)(host.url, host.base.root)
    seconds["after a restart"] = seconds_until_read(host)
    assert len(options(host, all_read=False)["distilled_lora"]) == 202
    sentences = {file["sentence"] for file in host.client.get("/ltx23/files")["files"]}
    assert sentences == {"LTX-2.3 LoRA, official names, rank 32 to 384, bf16, 7.6 GB"}
    record_property("reading_seconds", seconds)
    print("200 files:", {name: round(value, 3) for name, value in seconds.items()})
    assert seconds["again"] < seconds["first"] / 4 and seconds["after a restart"] < seconds["first"] / 2


def test_a_broken_memory_is_ignored(split_host: Host) -> None:
    file = split_host.base.models / "ltx23_overlays" / "files.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    assert set(content) == {"tables", "facts", "files"} and len(content["files"]) >= 8
    file.write_bytes(b'{"tables": 1')
    split_host.client.close()
    split_host.server.stop()
    split_host.server.start()
    split_host.client = type(split_host.client)(split_host.url, split_host.base.root)
    assert "sub/tiny-dev_transformer_only.safetensors" in options(split_host)["checkpoint"]
    assert os.path.getsize(file) > 1000


def test_the_cockpit_says_what_comes_from_where(split_host: Host) -> None:
    """What the page shows before a run: parts at their files, plans, and nothing of where on the computer that is."""
    options(split_host)
    asked = {"files": {}, "recipes": ["two_stage"], "variant": "auto", "memory": "auto"}
    told = split_host.client.post("/ltx23/cockpit", asked)
    found = {file["name"]: file["parts"] for file in told["files"]}
    assert "transformer" in found["sub/tiny-dev_transformer_only.safetensors"] and found["gemma"][0] == "text encoder"
    lacking = {file["name"]: file["needed"] for file in told["missing"]}
    assert lacking == {"ltx-2.3-spatial-upscaler-x2-1.1.safetensors": True,
                       "ltx-2.3-22b-distilled-lora-384-1.1.safetensors": True}
    assert told["problem"] == "" and told["card"]["name"] == "CPU"
    assert [plan["weight_dtype"] for plan in told["plans"]] == ["as stored", "fp8_e4m3fn", "fp8_scaled", "int8", "Q8_0",
                                                                "Q4_K"]
    assert all(plan["fits"] and "peak" in plan["line"] for plan in told["plans"])
    assert not list((split_host.base.models / "ltx23_overlays").glob("*cockpit*"))
    for wrong in ("../../etc/passwd", "/etc/passwd", "no-such.safetensors"):
        told = split_host.client.post("/ltx23/cockpit", {**asked, "files": {"checkpoint": wrong}})
        assert "checkpoint" in told["problem"] and told["plans"] == [] and told["wrong"] in ("absent", "unfit")
        assert [file["name"] for file in told["files"]] == ["gemma"], "nothing that nobody chose is ticked"
        assert not any("transformer" in file["parts"] for file in told["missing"]), "none is to be fetched for it"
        assert str(split_host.base.root) not in str(told)
    lost = {"text_encoder": "gone", "video_vae": "gone.sft"}
    told = split_host.client.post("/ltx23/cockpit", {**asked, "files": lost})
    assert told["wrong"] == "absent" and told["problem"].count("'gone") == 2 and told["problem"].count("\n") == 1
    shown = {part for file in told["files"] for part in file["parts"]}
    assert "transformer" in shown and not shown & {"text encoder", "tokenizer", "video decoder", "video encoder"}
    assert not any(set(file["parts"]) & {"text encoder", "video decoder"} for file in told["missing"])
    told = split_host.client.post("/ltx23/cockpit", {**asked, "files": {"text_encoder": "none"}})
    assert told["wrong"] == "off" and told["problem"] == ("text_encoder is none, and this graph needs it. Next: Choose "
                                                          "auto, or gemma.") and told["plans"]
    assert not any("text encoder" in file["parts"] for file in told["missing"]), "it is there"
    files = {"checkpoint": "auto", "text_encoder": "auto", "distilled_lora": "auto", "upsampler": "none"}
    said = " ".join(refusal(split_host, graphs.workflow("two_stage", "bad", **files))["LTX23Overlay"])
    assert "ltx-2.3-spatial-upscaler-x2" in said and "models/latent_upscale_models" in said, "there is none to choose"
    assert "distilled LoRA" in said and "models/loras" in said and "Get missing files" in said
    told = split_host.client.post("/ltx23/cockpit", {**asked, "files": {"upsampler": "none"}})
    assert told["wrong"] == "" and "x2 upscaler" in [part for file in told["missing"] for part in file["parts"]]
    told = split_host.client.post("/ltx23/cockpit", {**asked, "memory": "many"})
    assert told["wrong"] == "plan" and "memory" in told["problem"] and len(told["files"]) > 1
    for odd in ({"files": {"checkpoint": 3}}, {"files": ["x"]}, {"files": {"vae": None, "checkpoint": "x" * 5000}}):
        with pytest.raises(ClientError, match="names no files"):
            split_host.client.post("/ltx23/cockpit", odd)
    assert split_host.client.post("/ltx23/cockpit", {"files": {}, "memory": ["x"], "recipes": 7})["files"]
