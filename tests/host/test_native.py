"""To ComfyUI's own nodes and back, on a ComfyUI that has LTX-2.3 of its own; an older one says so before a run."""
from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from tests.conftest import ROOT, Host
from tests.goldens.harness import CHECKPOINT
from tests.host.client import ClientError
from tests.host.test_workflows import load_latent
from tools.host import clean_environment
from tools.install import TREE, Place

TINY = ROOT / "tiny"
CHECKER = Path(__file__).with_name("native_in_process.py")
SIZE = {"width": 128, "height": 64}
FRAMES = 17


def comfy_is_new_enough() -> bool:
    return (Place(ROOT).comfy().source / "comfy" / "ldm" / "lightricks" / "av_model.py").is_file()


NEW = pytest.mark.skipif(not comfy_is_new_enough(), reason=(
    f"ComfyUI {Place(ROOT).comfy().version} has no LTX-2.3 of its own: name a tree of 0.33 or newer with {TREE}"))


@pytest.mark.skipif(comfy_is_new_enough(), reason="this ComfyUI has LTX-2.3 of its own")
def test_an_older_comfyui_says_so_before_the_run(host: Host) -> None:
    graph = {"1": {"class_type": "LTX23Overlay", "inputs": {"checkpoint": "auto", "text_encoder": "none"}},
             "2": {"class_type": "LTX23ToNative", "inputs": {"overlay": ["1", 0]}},
             "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}}}
    with pytest.raises(ClientError) as error:
        host.client.run(graph)
    assert "has no LTX-2.3 of its own" in str(error.value) and "Update ComfyUI to 0.33.0" in str(error.value)


@NEW
def test_every_weight_of_comfyuis_classes_is_filled_and_none_left_over() -> None:
    """At the true size, on the meta device."""
    comfy = Place(ROOT).comfy()
    done = subprocess.run([comfy.python, CHECKER, comfy.source], check=False, capture_output=True, text=True,
                          env=clean_environment())
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == dict.fromkeys(("model", "vae", "audio_vae", "clip"), [[], []])


def audio_file(path: Path) -> None:
    """The trained audio VAE with the golden vocoder: ComfyUI's vocoder must have three dilations in a block."""
    tensors, config = {}, {}
    for file, prefix in ((TINY / "ltx-2.3-tiny-world.safetensors", "audio_vae"), (CHECKPOINT, "vocoder")):
        with safe_open(file, framework="pt") as source:
            tensors |= {key: source.get_tensor(key) for key in source.keys() if key.startswith(f"{prefix}.")}
            config[prefix] = json.loads(source.metadata()["config"])[prefix]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"config": json.dumps(config)})


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def picture(host: Host, entry: dict[str, str]) -> np.ndarray:
    return np.asarray(Image.open(host.client.file(entry))).astype(int)


@NEW
def test_a_graph_of_comfyuis_own_nodes(start_host: Callable[..., Host]) -> None:
    """Its sampler and decoders on our overlay and prompt, and each way between the nodes, in one run."""
    host = start_host("native", options=("--cpu",), models=False)
    host.base.add_model("checkpoints", TINY / "ltx-2.3-tiny-world.safetensors")
    shutil.copytree(TINY / "gemma", host.base.models / "text_encoders" / "gemma")
    audio_file(host.base.models / "vae" / "ltx-2.3-audio.safetensors")
    graph = {
        "overlay": node("LTX23Overlay", checkpoint="auto", text_encoder="auto", upsampler="none",
                        distilled_lora="none", audio_vae="ltx-2.3-audio.safetensors"),
        "native": node("LTX23ToNative", overlay=["overlay", 0]),
        "load": node("LTX23Load", overlay=["overlay", 0], precision="auto", attention="auto"),
        "prompt": node("LTX23Prompt", model=["load", 0], prompt="A red ball bounces to the right on a blue background.",
                       negative_prompt=""),
        "texts": node("LTX23ContextToNative", context=["prompt", 0]),
        "rate": node("LTXVConditioning", positive=["texts", 0], negative=["texts", 1], frame_rate=24.0),
        "pictures": node("EmptyLTXVLatentVideo", **SIZE, length=FRAMES, batch_size=1),
        "sounds": node("LTXVEmptyLatentAudio", frames_number=FRAMES, frame_rate=24.0, batch_size=1,
                       audio_vae=["native", 3]),
        "both": node("LTXVConcatAVLatent", video_latent=["pictures", 0], audio_latent=["sounds", 0]),
        "sampler": node("KSampler", model=["native", 0], positive=["rate", 0], negative=["rate", 1],
                        latent_image=["both", 0], seed=1, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple",
                        denoise=1.0),
        "ours": node("LTX23LatentsFromNative", latent=["sampler", 0]),
        "file": node("LTX23DecodeToFile", model=["load", 0], video=["ours", 0], audio=["ours", 1],
                     filename_prefix="native"),
        "back": node("LTX23LatentsToNative", video=["ours", 0], audio=["ours", 1]),
        "frames": node("VAEDecode", samples=["back", 0], vae=["native", 2]),
        "frames_ours": node("LTX23DecodeVideo", model=["load", 0], video=["sampler", 0]),
        "sound": node("LTXVAudioVAEDecode", samples=["ours", 1], audio_vae=["native", 3]),
        "saved": node("SaveImage", images=["frames", 0], filename_prefix="theirs"),
        "saved_ours": node("SaveImage", images=["frames_ours", 0], filename_prefix="ours"),
        "saved_sound": node("SaveAudio", audio=["sound", 0], filename_prefix="sound"),
        "latent": node("SaveLatent", samples=["ours", 0], filename_prefix="video"),
    }
    run = host.client.run(graph)
    assert run.ok, run.error
    theirs, ours = run.outputs["saved"]["images"], run.outputs["saved_ours"]["images"]
    assert len(theirs) == len(ours) == FRAMES
    for one, other in zip(theirs, ours, strict=True):
        assert np.abs(picture(host, one) - picture(host, other)).max() <= 1
    latent = load_latent(host.client.file(run.outputs["latent"]["latents"][0]))
    assert latent.shape == (1, 128, 3, 2, 4) and np.isfinite(latent).all() and latent.std() > 0.1
    assert run.outputs["file"]["images"] and run.outputs["saved_sound"]["audio"]
    [said] = {text for key, text in run.texts if key == "native"}
    assert said == "loaded for ComfyUI's own nodes: model, vae, audio_vae", "clip is not linked"
    assert "unet missing" not in host.log and "unet unexpected" not in host.log
    assert "Missing VAE keys" not in host.log and "IMPORT FAILED" not in host.log
    lacking = {**graph, "overlay": node("LTX23Overlay", checkpoint="auto", text_encoder="none"),
               "clip": node("CLIPTextEncode", clip=["native", 1], text="a"),
               "shown": node("PreviewAny", source=["clip", 0])}
    with pytest.raises(ClientError, match="there is no text encoder, which ToNative will need"):
        host.client.run({key: lacking[key] for key in ("overlay", "native", "clip", "shown")})
    wrong = {**graph, "clip": node("CLIPTextEncode", clip=["native", 1], text="a"),
             "shown": node("PreviewAny", source=["clip", 0])}
    failed = host.client.run({key: wrong[key] for key in ("overlay", "native", "clip", "shown")})
    assert "Gemma 3 12B" in failed.error["exception_message"] and failed.error["node_type"] == "LTX23ToNative"
