"""What the Overlay node lists: each part once, at the file that it really comes from; what is missing with its size."""
from __future__ import annotations

from ltx23_core.overlay.shelf.choose import choose
from tests.support.node_modules import node_module
from tests.unit.shelf.test_choose import ALL, item

parts = node_module("nodes.model.parts")
CHECKPOINT = item("dev.safetensors", ALL, variant="dev", size_bytes=int(46.1e9))
VAE = item("vae.safetensors", ("video_decoder", "video_encoder"), size_bytes=int(1.5e9))
GEMMA = item("gemma", ("text_encoder", "tokenizer"), size_bytes=int(24e9))


def listed(choice: object) -> dict[str, list[str]]:
    return {file["name"]: file["parts"] for file in parts.files_of(choice)}


def test_each_part_at_its_file() -> None:
    everything = [CHECKPOINT, VAE, GEMMA]
    auto = listed(choose(everything, {}))
    assert auto["dev.safetensors"][:3] == ["transformer", "connectors", "text projection"]
    assert "video decoder" in auto["dev.safetensors"] and "vae.safetensors" not in auto
    assert auto["gemma"] == ["text encoder", "tokenizer"]
    asked = listed(choose(everything, {"video_vae": VAE}))
    assert asked["vae.safetensors"] == ["video decoder", "video encoder"]
    assert "video decoder" not in asked["dev.safetensors"] and "vocoder" in asked["dev.safetensors"]


def test_a_text_encoder_of_its_own_goes_before_that_of_the_checkpoint() -> None:
    both = item("both.safetensors", (*ALL, "text_encoder"), variant="dev")
    found = listed(choose([both, GEMMA], {"text_encoder": GEMMA}))
    assert found["gemma"] == ["text encoder", "tokenizer"] and "text encoder" not in found["both.safetensors"]


def test_what_is_missing_and_for_whom() -> None:
    choice = choose([CHECKPOINT], {})
    missing = {file["name"]: file for file in parts.missing_of(choice, set())}
    gemma = missing["gemma_3_12B_it.safetensors"]
    assert gemma["needed"] and gemma["size"] == 24_400_000_000 and gemma["folder"] == "models/text_encoders"
    assert gemma["parts"] == ["text encoder"] and gemma["address"].startswith("https://huggingface.co/")
    upscaler = next(file for name, file in missing.items() if "upscaler-x2" in name)
    assert not upscaler["needed"], "no recipe of the graph needs it"
    assert not any("x1.5" in name for name in missing), "nothing asks for it"
    needed = parts.missing_of(choice, {"upsampler_x2"})
    assert [file["needed"] for file in needed if file["name"] == upscaler["name"]] == [True]


def test_parts_of_one_file_are_fetched_once() -> None:
    alone = item("alone.safetensors", ("transformer",), variant="dev")
    vae = [file for file in parts.missing_of(choose([alone], {}), set()) if "audio_vae" in file["name"]]
    assert [file["parts"] for file in vae] == [["audio decoder", "audio encoder", "vocoder"]]
    assert vae[0]["purposes"] == ["sound", "source audio"]
