"""What the page learns about the nodes: complete, explained, and the same as the documentation's list."""
from __future__ import annotations

import re
from urllib.parse import quote

import pytest

from tests.conftest import ROOT, Host
from tests.host import graphs
from tests.host.test_overlay_node import wait_until_read

NODES = {"LTX23Overlay": "Overlay", "LTX23Load": "Load", "LTX23Prompt": "Prompt",
         "LTX23ImageCondition": "Image Condition", "LTX23Guidance": "Guidance", "LTX23Sampler": "Sampler",
         "LTX23DecodeVideo": "Decode Video", "LTX23DecodeAudio": "Decode Audio", "LTX23DecodeToFile": "Decode To File",
         "LTX23Fetch": "Fetch", "LTX23LatentUpscale": "Latent Upscale", "LTX23LongVideo": "Long Video",
         "LTX23GuidanceRange": "Guidance Range", "LTX23NAG": "NAG", "LTX23APG": "APG", "LTX23Solver": "Solver",
         "LTX23Sigmas": "Sigmas", "LTX23EnhancePrompt": "Enhance Prompt",
         "LTX23Keyframe": "Keyframes", "LTX23ReferenceVideo": "Reference Video", "LTX23SourceAudio": "Source Audio",
         "LTX23SourceVideo": "Source Video", "LTX23Retake": "Retake", "LTX23Extend": "Extend",
         "LTX23Inpaint": "Inpaint", "LTX23LoRA": "LoRA", "LTX23ReferenceVoice": "Reference Voice",
         "LTX23ToNative": "To Native (MODEL, CLIP, VAE)", "LTX23LatentsToNative": "Latents To Native",
         "LTX23LatentsFromNative": "Latents From Native", "LTX23ContextToNative": "Context To Native"}
CLIP, CLIP_AUDIO = ["video", "images"], ["video", "images", "audio"]

# Ids, names and order are promises to saved workflows: only append here, never change.
WIDGETS = {
    "LTX23Overlay": ["checkpoint", "text_encoder", "upsampler", "distilled_lora", "variant", "text_projection",
                     "video_vae", "audio_vae"],
    "LTX23Load": ["overlay", "precision", "attention", "lora_mode", "memory", "weight_dtype",
                  "matmul_dtype", "devices"],
    "LTX23Prompt": ["model", "prompt", "negative_prompt", "prompt_cache"],
    "LTX23ImageCondition": ["image", "frame", "strength", "crf", "conditions", "placement"],
    "LTX23Guidance": ["video_cfg", "video_stg", "video_modality", "video_rescale", "audio_cfg", "audio_stg",
                      "audio_modality", "audio_rescale", "video_stg_blocks", "audio_stg_blocks", "video_skip_step",
                      "audio_skip_step", "video_cfg_star", "audio_cfg_star"],
    "LTX23Sampler": ["model", "prompt", "recipe", "width", "height", "frames", "fps", "seed", "steps", "context",
                     "conditions", "guidance", "sigmas", "negative_prompt", "solver", "start_video", "start_audio",
                     "stages", "streams", "audio_stage", "batch", "noise_device", "windows",
                     "easy_cache"],
    "LTX23DecodeVideo": ["model", "video"],
    "LTX23DecodeAudio": ["model", "audio"],
    "LTX23DecodeToFile": ["model", "video", "audio", "filename_prefix", "fps"],
    "LTX23Fetch": ["file", "download"],
    "LTX23LatentUpscale": ["model", "video", "kind"],
    "LTX23LongVideo": ["model", "prompts", "window", "overlap", "overlap_strength", "resume", "negative_prompt"],
    "LTX23GuidanceRange": ["from_sigma", "to_sigma", "guidance", "otherwise"],
    "LTX23NAG": ["scale", "tau", "alpha", "streams", "guidance"],
    "LTX23APG": ["eta", "norm_threshold", "momentum", "streams", "guidance"],
    "LTX23Solver": ["name", "eta", "s_noise", "gamma"],
    "LTX23Sigmas": ["schedule", "steps", "tokens", "terminal", "stretch", "max_shift", "base_shift"],
    "LTX23EnhancePrompt": ["model", "prompt", "seed", "edited", "image", "max_tokens", "instructions"],
    "LTX23Keyframe": ["images", "at_frames", "strengths", "placement", "crf", "conditions"],
    "LTX23ReferenceVideo": ["strength", "attention_strength", "lora", *CLIP, "mask", "downscale", "temporal",
                            "source_fps", "conditions", "model"],
    "LTX23SourceAudio": ["audio", "start", "noise", "conditions"],
    "LTX23SourceVideo": [*CLIP, "source_fps", "conditions"],
    "LTX23Retake": ["start", "end", "regenerate", *CLIP_AUDIO, "source_fps", "conditions"],
    "LTX23Extend": ["direction", "blend", *CLIP_AUDIO, "source_fps", "conditions"],
    "LTX23Inpaint": ["mask", *CLIP, "source_fps", "conditions"],
    "LTX23LoRA": ["model", "lora", "strength", "video", "audio", "cross", "stages", "mode"],
    "LTX23ReferenceVoice": ["audio", "identity_guidance", "seconds", "conditions"],
    "LTX23ToNative": ["overlay"],
    "LTX23LatentsToNative": ["video", "audio"],
    "LTX23LatentsFromNative": ["latent", "fps"],
    "LTX23ContextToNative": ["context"],
}
OUTPUTS = {
    "LTX23Overlay": ["LTX23_OVERLAY", "STRING"], "LTX23Load": ["LTX23_MODEL"], "LTX23Prompt": ["LTX23_CONTEXT"],
    "LTX23ImageCondition": ["LTX23_CONDITIONS"], "LTX23Guidance": ["LTX23_GUIDANCE"],
    "LTX23Sampler": ["LATENT", "LATENT", "FLOAT"], "LTX23DecodeVideo": ["IMAGE"], "LTX23DecodeAudio": ["AUDIO"],
    "LTX23DecodeToFile": ["VIDEO"], "LTX23Fetch": ["STRING", "STRING"],
    "LTX23LatentUpscale": ["LATENT", "FLOAT"], "LTX23LongVideo": ["LTX23_WINDOWS"],
    "LTX23GuidanceRange": ["LTX23_GUIDANCE"], "LTX23NAG": ["LTX23_GUIDANCE"], "LTX23APG": ["LTX23_GUIDANCE"],
    "LTX23Solver": ["LTX23_SOLVER"], "LTX23Sigmas": ["SIGMAS"],
    "LTX23EnhancePrompt": ["STRING"],
    **{name: ["LTX23_CONDITIONS"] for name in ("LTX23Keyframe", "LTX23ReferenceVideo", "LTX23SourceAudio",
                                              "LTX23SourceVideo", "LTX23Retake", "LTX23Extend", "LTX23Inpaint",
                                              "LTX23ReferenceVoice")},
    "LTX23LoRA": ["LTX23_MODEL", "STRING"],
    "LTX23ToNative": ["MODEL", "CLIP", "VAE", "VAE"], "LTX23LatentsToNative": ["LATENT"],
    "LTX23LatentsFromNative": ["LATENT", "LATENT"], "LTX23ContextToNative": ["CONDITIONING", "CONDITIONING"],
}
OFFICIAL = {"width": 768, "height": 512, "frames": 121, "fps": 24.0, "seed": 10, "steps": 0, "recipe": "auto"}


def inputs(info: dict) -> dict[str, list]:
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


def test_all_nodes_and_no_others(host: Host) -> None:
    found = {name: info for name, info in host.client.get("/object_info").items() if name.startswith("LTX23")}
    assert set(found) == set(NODES)
    for name, info in found.items():
        shown = info["display_name"]
        assert shown.startswith("LTX-2.3 ") and NODES[name] in shown, shown
    assert {info["category"] for info in found.values()} == {"LTX-2.3"}
    assert {info["python_module"] for info in found.values()} == {f"custom_nodes.{host.pack}"}


@pytest.mark.parametrize("name", NODES)
def test_everything_is_explained(host: Host, name: str) -> None:
    info = host.client.node_info(name)
    assert info["description"].endswith(".")
    for key, (_, options) in inputs(info).items():
        assert len(options.get("tooltip", "")) > 15 and options["tooltip"].endswith("."), f"{name}.{key}"
    assert all(tip and tip.endswith(".") for tip in info["output_tooltips"]), name


@pytest.mark.parametrize("name", NODES)
def test_numbers_name_their_default_in_the_tooltip(host: Host, name: str) -> None:
    for key, (kind, options) in inputs(host.client.node_info(name)).items():
        if kind in ("INT", "FLOAT") and "default" in options:
            assert re.search(r"\b[Dd]efault", options["tooltip"]), f"{name}.{key}"
            assert {"min", "max"} <= set(options), f"{name}.{key} has no range"


@pytest.mark.parametrize("name", NODES)
def test_names_and_order_are_kept(host: Host, name: str) -> None:
    info = host.client.node_info(name)
    order = info["input_order"]
    assert [*order.get("required", []), *order.get("optional", [])] == WIDGETS[name]
    assert info["output"] == OUTPUTS[name]


def test_defaults_are_the_official_ones(host: Host) -> None:
    found = inputs(host.client.node_info("LTX23Sampler"))
    assert {key: found[key][1]["default"] for key in OFFICIAL} == OFFICIAL
    assert found["seed"][1]["control_after_generate"] is True
    guidance = inputs(host.client.node_info("LTX23Guidance"))
    assert [guidance[key][1]["default"] for key in WIDGETS["LTX23Guidance"]] == [
        3, 1, 3, 0.7, 7, 1, 3, 0.7, "28", "28", 0, 0, False, False]


def test_rare_inputs_are_advanced(host: Host) -> None:
    advanced = {(name, key) for name in NODES for key, (_, options) in inputs(host.client.node_info(name)).items()
                if options.get("advanced")}
    assert advanced == {
        *((f"LTX23{name}", "source_fps") for name in ("ReferenceVideo", "SourceVideo", "Retake", "Extend", "Inpaint")),
        ("LTX23ImageCondition", "placement"), ("LTX23Keyframe", "crf"), ("LTX23ReferenceVideo", "downscale"),
        ("LTX23ReferenceVideo", "temporal"), ("LTX23ReferenceVoice", "seconds"),
        ("LTX23Overlay", "text_projection"), ("LTX23Overlay", "video_vae"), ("LTX23Overlay", "audio_vae"),
        ("LTX23Load", "precision"), ("LTX23Load", "attention"), ("LTX23Load", "lora_mode"), ("LTX23Load", "memory"),
        ("LTX23Load", "weight_dtype"), ("LTX23Load", "matmul_dtype"), ("LTX23Load", "devices"),
        ("LTX23ImageCondition", "crf"),
        ("LTX23Guidance", "video_stg_blocks"), ("LTX23Guidance", "audio_stg_blocks"), ("LTX23Sampler", "steps"),
        ("LTX23Sampler", "negative_prompt"), ("LTX23Sampler", "stages"), ("LTX23Sampler", "audio_stage"),
        ("LTX23Sampler", "batch"), ("LTX23Sampler", "noise_device"), ("LTX23Sampler", "easy_cache"),
        ("LTX23LongVideo", "resume"), ("LTX23Prompt", "prompt_cache"),
        ("LTX23LongVideo", "negative_prompt"), ("LTX23Guidance", "video_skip_step"),
        ("LTX23Guidance", "audio_skip_step"), ("LTX23Guidance", "video_cfg_star"), ("LTX23Guidance", "audio_cfg_star"),
        ("LTX23APG", "momentum"), ("LTX23Solver", "s_noise"), ("LTX23Solver", "gamma"), ("LTX23Sigmas", "tokens"),
        ("LTX23Sigmas", "terminal"), ("LTX23Sigmas", "stretch"), ("LTX23Sigmas", "max_shift"),
        ("LTX23Sigmas", "base_shift"), ("LTX23EnhancePrompt", "max_tokens"),
        ("LTX23EnhancePrompt", "instructions"),
        *(("LTX23LoRA", name) for name in ("video", "audio", "cross", "stages", "mode"))}


def test_lists_show_the_model_folders(host: Host) -> None:
    wait_until_read(host)
    found = inputs(host.client.node_info("LTX23Overlay"))
    options = {key: found[key][1]["options"] for key in WIDGETS["LTX23Overlay"]}
    assert options["checkpoint"] == ["auto", "ltx-2.3-tiny.safetensors"]
    assert options["text_encoder"] == ["auto", "gemma", "none"]
    assert options["upsampler"] == ["auto", *sorted(f"ltx-2.3-tiny-{name}.safetensors" for name in (
        "spatial-upscaler-x1.5", "spatial-upscaler-x2", "temporal-upscaler-x2")), "none"]
    assert options["distilled_lora"] == ["auto", "ltx-2.3-tiny-distilled-lora.safetensors", "none"]
    assert {key: spec[1]["default"] for key, spec in found.items()} == dict.fromkeys(WIDGETS["LTX23Overlay"], "auto")


@pytest.mark.parametrize("name", NODES)
def test_help_page_is_served(host: Host, name: str) -> None:
    page = host.client.request(f"/extensions/{host.pack}/docs/{name}/en.md").decode()
    assert page.startswith(f"# {NODES[name]}\n")


def test_no_help_page_without_a_node() -> None:
    pages = {page.parent.name for page in (ROOT / "web" / "docs").glob("*/en.md")}
    assert pages == set(NODES)


def test_templates_are_the_ui_files_only(host: Host) -> None:
    listed = host.client.get("/workflow_templates")[host.pack]
    assert sorted(listed) == sorted(path.stem for path in graphs.WORKFLOWS.glob("*.json"))
    assert all(graphs.ui_file(name).stem in listed for name in graphs.NAMES)
    for name in listed:
        for suffix in (".json", ".jpg"):
            assert host.client.request(f"/api/workflow_templates/{host.pack}/{quote(name)}{suffix}")
