"""The tables official <-> diffusers on every name of the 22B files, and on those of other VAE plans."""
from __future__ import annotations

import json
from itertools import chain

import pytest

from ltx23_core.overlay.names.architecture import expected_tensors
from ltx23_core.overlay.names.layout import OFFICIAL
from ltx23_core.overlay.names.renames import FOLDERS, to_diffusers, to_official
from tests.support.overlay import manifest_22b, tiny_parts

STATISTICS = {"latents_mean", "latents_std"}  # stand in encoder and decoder


def names_22b() -> dict[str, list[str]]:
    """Component -> official names of its tensors."""
    names: dict[str, list[str]] = {component: [] for component in OFFICIAL.components}
    for key in manifest_22b()["tensors"]:
        for component, name in OFFICIAL.places(key):
            names[component].append(name)
    names["upsampler_x2"] = list(next(iter(manifest_22b()["upscalers"].values()))["tensors"])
    names["distilled_lora"] = [name.replace(".weight", f".lora_{half}.weight") for half in "AB"
                               for name in names["transformer"] if name.endswith(".weight")]
    return names


@pytest.mark.parametrize("component", names_22b())
def test_bijection_on_the_22b_names(component: str) -> None:
    names = names_22b()[component]
    theirs = [to_diffusers(component, name) for name in names]
    assert names and len(set(theirs)) == len(names)
    assert [to_official(component, name) for name in theirs] == names


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_sorts_into_its_components(folder: str) -> None:
    """Each key of a folder belongs to one component, the statistics to both halves of a VAE."""
    names = names_22b()
    renamed = {c: {to_diffusers(c, name) for name in names.get(c, ())} for c in FOLDERS[folder]}
    for key in set(chain(*renamed.values())):
        owners = [c for c in FOLDERS[folder] if to_official(c, key) is not None]
        assert owners == [c for c in FOLDERS[folder] if key in renamed[c]], key
        assert len(owners) == (2 if key in STATISTICS else 1), key


@pytest.mark.parametrize(("component", "official", "diffusers"), [
    ("transformer", "patchify_proj.weight", "proj_in.weight"),
    ("transformer", "audio_patchify_proj.bias", "audio_proj_in.bias"),
    ("transformer", "audio_adaln_single.emb.timestep_embedder.linear_1.bias",
     "audio_time_embed.emb.timestep_embedder.linear_1.bias"),
    ("transformer", "transformer_blocks.7.scale_shift_table_a2v_ca_video",
     "transformer_blocks.7.video_a2v_cross_attn_scale_shift_table"),
    ("transformer", "transformer_blocks.0.audio_attn2.q_norm.weight", "transformer_blocks.0.audio_attn2.norm_q.weight"),
    ("transformer", "scale_shift_table", "scale_shift_table"),
    ("connectors", "audio_embeddings_connector.transformer_1d_blocks.0.attn1.k_norm.weight",
     "audio_connector.transformer_blocks.0.attn1.norm_k.weight"),
    ("text_projection", "video_aggregate_embed.bias", "video_text_proj_in.bias"),
    ("video_encoder", "down_blocks.8.res_blocks.1.conv1.conv.weight", "encoder.mid_block.resnets.1.conv1.conv.weight"),
    ("video_encoder", "down_blocks.3.conv.conv.bias", "encoder.down_blocks.1.downsamplers.0.conv.conv.bias"),
    ("video_decoder", "up_blocks.8.res_blocks.0.conv2.conv.bias", "decoder.up_blocks.3.resnets.0.conv2.conv.bias"),
    ("video_decoder", "conv_in.conv.weight", "decoder.conv_in.conv.weight"),
    ("audio_decoder", "per_channel_statistics.std-of-means", "latents_std"),
    ("vocoder", "vocoder.ups.0.weight", "vocoder.upsamplers.0.weight"),
    ("vocoder", "bwe_generator.resblocks.1.acts2.0.downsample.lowpass.filter",
     "bwe_generator.resnets.1.acts2.0.downsample.filter"),
    ("vocoder", "vocoder.act_post.upsample.filter", "vocoder.act_out.upsample.filter"),
    ("distilled_lora", "adaln_single.linear.lora_A.weight", "transformer.time_embed.linear.lora_A.weight"),
])
def test_by_hand(component: str, official: str, diffusers: str) -> None:
    assert to_diffusers(component, official) == diffusers
    assert to_official(component, diffusers) == official


def test_other_numbers_of_steps() -> None:
    """A VAE of 3 or 6 steps has its middle block elsewhere."""
    vae = json.loads(tiny_parts()[1]["config"])["vae"]
    for steps in (3, 6):
        for component, part, stride in (("video_encoder", "encoder_blocks", "compress_all_res"),
                                        ("video_decoder", "decoder_blocks", "compress_all")):
            plan = [["res_x", {"num_layers": 1}]] + steps * [[stride, {"multiplier": 1}], ["res_x", {"num_layers": 1}]]
            names = list(expected_tensors(component, vae | {part: plan}))
            theirs = [to_diffusers(component, name, steps) for name in names]
            assert len(set(theirs)) == len(names) and sum(".mid_block." in name for name in theirs) == 4
            assert [to_official(component, name, steps) for name in theirs] == names


def test_what_does_not_belong() -> None:
    assert to_official("video_encoder", "decoder.conv_in.conv.weight") is None
    assert to_official("text_projection", "video_connector.learnable_registers") is None
    assert to_official("distilled_lora", "connectors.video_connector.x.lora_A.weight") is None
    with pytest.raises(ValueError, match="text_projection has no tensor"):
        to_diffusers("text_projection", "aggregate_embed.weight")
