"""What auto takes of a folder: a table of situations with the true names and shapes of the 22B, and the reasons."""
from __future__ import annotations

from typing import NamedTuple

import pytest

from ltx23_core.overlay.packed.sizes import STAY
from ltx23_core.overlay.shelf.choose import choose
from tests.support.folder import item

DEV, DISTILLED = "ltx-2.3-22b-dev", "ltx-2.3-22b-distilled"
CK, DM, TE, LO, UP = "checkpoints", "diffusion_models", "text_encoders", "loras", "latent_upscale_models"
GEMMA = ("gemma", f"{TE}/gemma_3_12B_it.safetensors")
GEMMA_FP8 = ("gemma fp8", f"{TE}/gemma_3_12B_it_fp8_scaled.safetensors")
GEMMA_FP4 = ("gemma nvfp4", f"{TE}/gemma_3_12B_it_fp4_mixed.safetensors")
GEMMA_Q4 = ("gemma Q4_K", f"{TE}/gemma-3-12b-it-Q4_K_M.gguf")
GEMMA_Q8 = ("gemma Q8_0", f"{TE}/gemma-3-12b-it-Q8_0.gguf")
PROJECTION = ("projection", f"{TE}/ltx-2.3_text_projection_bf16.safetensors")
VIDEO = ("video vae", "vae/LTX23_video_vae_bf16.safetensors")
AUDIO = ("audio vae", "vae/LTX23_audio_vae_bf16.safetensors")
REST = (GEMMA, PROJECTION, VIDEO, AUDIO)
SMALL_REST = (GEMMA_Q4, PROJECTION, VIDEO, AUDIO)
DEV_FILE = ("whole", f"{CK}/{DEV}.safetensors")
DISTILLED_FILE = ("whole", f"{CK}/{DISTILLED}-1.1.safetensors")
DEV_FP8 = ("whole fp8", f"{CK}/{DEV}-fp8.safetensors")
LORA = ("lora 384", f"{LO}/{DISTILLED}-lora-384-1.1.safetensors")
LORA_111 = ("lora 111", f"{LO}/ltx_2.3_22b_distilled_1.1_lora_dynamic_fro09_avg_rank_111_bf16.safetensors")
X2 = ("x2", f"{UP}/ltx-2.3-spatial-upscaler-x2-1.1.safetensors")
X2_OLD = ("x2", f"{UP}/ltx-2.3-spatial-upscaler-x2-1.0.safetensors")


def q(kind: str, variant: str = DEV, folder: str = "unet") -> tuple[str, str]:
    """A GGUF transformer of a type."""
    return f"gguf {kind}", f"{folder}/{variant}-{kind}.gguf"


Q8, Q6, Q5, Q4, Q3, Q2 = map(q, ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"))
FP8_STAYS, NVFP4_STAYS = "fp8" in STAY, "nvfp4" in STAY


class Situation(NamedTuple):
    """Files, the device's GB (0: no limit), what is expected of some roles (None: nothing), words of the reasons."""

    name: str
    files: tuple[tuple[str, str], ...]
    gigabytes: float
    expected: dict[str, tuple[str, str] | None]
    words: str = ""


SITUATIONS = [
    # -- cost on the device --------------------------------------------------------------------------------------------
    Situation("fp8 becomes bf16 while it is read: 38 GB on 25", (DEV_FP8, Q4, *REST), 25.3,
              {"checkpoint": DEV_FP8 if FP8_STAYS else Q4}, "" if FP8_STAYS else "takes 39"),
    Situation("the same on 80 GB", (DEV_FP8, Q4, *REST), 80, {"checkpoint": DEV_FP8}, "fp8 scaled is more exact"),
    Situation("bf16 on 80 GB", (DEV_FILE, DEV_FP8, Q8, GEMMA), 80, {"checkpoint": DEV_FILE}, "bf16 is more exact"),
    Situation("bf16 on 38.5 GB: exactly one block too much", (DEV_FILE, Q8, *REST), 38.5, {"checkpoint": Q8},
              "takes 39.0 GB on the device, which has room for 38.5 GB"),
    Situation("bf16 on 40 GB", (DEV_FILE, Q8, *REST), 40, {"checkpoint": DEV_FILE}),
    Situation("without a limit", (DEV_FILE, Q8, Q2, *REST), 0, {"checkpoint": DEV_FILE}),
    Situation("the largest GGUF that fits 24 GB", (Q8, Q6, Q4, Q2, *REST), 24, {"checkpoint": Q8}),
    Situation("the largest that fits 20 GB", (Q8, Q6, Q5, Q4, Q2, *REST), 20, {"checkpoint": Q6}),
    Situation("the largest that fits 16 GB", (Q8, Q6, Q5, Q4, Q2, *REST), 16, {"checkpoint": Q5}),
    Situation("the largest that fits 14 GB", (Q8, Q6, Q5, Q4, Q2, *REST), 14, {"checkpoint": Q4}),
    Situation("the largest that fits 12 GB", (Q8, Q6, Q5, Q4, Q3, Q2, *REST), 12, {"checkpoint": Q3}),
    Situation("none fits 8 GB: the smallest, streamed", (Q8, Q6, Q5, Q4, Q2, *REST), 8, {"checkpoint": Q2},
              "none of them fits into the device"),
    Situation("one alone that does not fit", (DEV_FILE, GEMMA), 24, {"checkpoint": DEV_FILE},
              "it does not fit into the device as a whole"),
    Situation("bf16 and nvfp4 on 24 GB", (DEV_FILE, ("whole nvfp4", f"{CK}/{DEV}-nvfp4.safetensors"), Q4, *REST), 24,
              {"checkpoint": Q4}, "GGUF Q4_K is more exact than NVFP4" if NVFP4_STAYS else ""),
    Situation("bf16 and nvfp4 alone on 24 GB",
              (DEV_FILE, ("whole nvfp4", f"{CK}/{DEV}-nvfp4.safetensors"), *REST), 24,
              {"checkpoint": ("whole nvfp4", f"{CK}/{DEV}-nvfp4.safetensors") if NVFP4_STAYS else DEV_FILE}),
    Situation("Q8 and fp8 on 80 GB", (DEV_FP8, Q8, *REST), 80, {"checkpoint": Q8},
              "GGUF Q8_0 is more exact than fp8 scaled"),
    Situation("mxfp8 and Q6 on 24 GB", (("transformer mxfp8", f"{DM}/{DEV}_transformer_only_mxfp8_block32.safetensors"),
                                         Q6, *REST), 24,
              {"checkpoint": Q6}, "GGUF Q6_K is more exact than MXFP8" if "mxfp8" in STAY else ""),
    Situation("a distilled file that fits before a dev file that does not", (DEV_FILE, q("Q4_K", DISTILLED), *REST), 24,
              {"checkpoint": q("Q4_K", DISTILLED)}),
    # -- the text encoder has the same budget --------------------------------------------------------------------------
    Situation("23.5 GB of Gemma on 16.7", (Q4, GEMMA, GEMMA_Q4, PROJECTION, VIDEO, AUDIO), 16.7,
              {"text_encoder": GEMMA_Q4}, "takes 24.1 GB on the device, which has room for 16.7 GB"),
    Situation("Gemma on 24.5", (Q4, GEMMA, GEMMA_Q4, PROJECTION, VIDEO, AUDIO), 24.5, {"text_encoder": GEMMA}),
    Situation("Gemma Q8 before Q4 on 16.7", (Q4, GEMMA_Q4, GEMMA_Q8, PROJECTION, VIDEO, AUDIO), 16.7,
              {"text_encoder": GEMMA_Q8}, "GGUF Q8_0 is more exact than GGUF Q4_K"),
    Situation("Gemma fp8 on 16.7", (Q4, GEMMA_FP8, GEMMA_Q8, PROJECTION, VIDEO, AUDIO), 16.7,
              {"text_encoder": GEMMA_Q8}, "GGUF Q8_0 is more exact than fp8 scaled" if FP8_STAYS else ""),
    Situation("Gemma nvfp4 on 12", (Q3, GEMMA_FP4, GEMMA_Q4, PROJECTION, VIDEO, AUDIO), 12,
              {"text_encoder": GEMMA_Q4}, "GGUF Q4_K is more exact than NVFP4" if NVFP4_STAYS else ""),
    Situation("no Gemma fits 4 GB: the smallest", (Q2, GEMMA, GEMMA_Q8, GEMMA_Q4, PROJECTION, VIDEO, AUDIO), 4,
              {"text_encoder": GEMMA_Q4}),
    Situation("Gemma without a limit", (DEV_FILE, GEMMA_FP8, GEMMA_FP4, GEMMA, GEMMA_Q8), 0, {"text_encoder": GEMMA}),
    Situation("a changed Gemma is second", (DEV_FILE, ("gemma", f"{TE}/gemma-3-12b-it-heretic-v2.safetensors"), GEMMA),
              0, {"text_encoder": GEMMA}, "says that it is changed"),
    Situation("an abliterated Gemma that is alone", (DEV_FILE, ("gemma", f"{TE}/gemma3-abliterated.safetensors")), 0,
              {"text_encoder": ("gemma", f"{TE}/gemma3-abliterated.safetensors")}),
    # -- dev and distilled ---------------------------------------------------------------------------------------------
    Situation("dev before distilled", (DISTILLED_FILE, DEV_FILE, GEMMA), 0, {"checkpoint": DEV_FILE},
              "dev before distilled"),
    Situation("distilled bf16 before dev fp8", (DEV_FP8, DISTILLED_FILE, GEMMA), 0, {"checkpoint": DISTILLED_FILE}),
    Situation("1.1 before 1.0", (("whole", f"{CK}/{DISTILLED}.safetensors"), DISTILLED_FILE, GEMMA), 0,
              {"checkpoint": DISTILLED_FILE}, "is older"),
    Situation("distilled weights need no LoRA", (DISTILLED_FILE, GEMMA, LORA), 0, {"distilled_lora": None}),
    Situation("distilled in capitals, GGUF", (q("Q4_K", "LTX-2.3-22B-DISTILLED"), *REST, LORA), 0,
              {"distilled_lora": None}),
    Situation("distilled in the folder's name", (("gguf Q4_K", "unet/LTX-2.3-distilled-1.1/model-Q4_K_M.gguf"), *REST,
                                                 LORA), 0, {"distilled_lora": None}),
    Situation("undistilled is dev", (("whole", f"{CK}/ltx-2.3-undistilled.safetensors"), GEMMA, LORA), 0,
              {"distilled_lora": LORA}),
    Situation("a name that says nothing is last", (("whole", f"{CK}/model.safetensors"), DISTILLED_FILE, GEMMA), 0,
              {"checkpoint": DISTILLED_FILE}),
    # -- complete sets -------------------------------------------------------------------------------------------------
    Situation("parts that the more exact transformer lacks come from the fp8 checkpoint",
              (DEV_FP8, ("transformer", f"{DM}/{DEV}_transformer_only_bf16.safetensors"), GEMMA), 0,
              {"checkpoint": ("transformer", f"{DM}/{DEV}_transformer_only_bf16.safetensors"),
               "text_projection": DEV_FP8}),
    Situation("a transformer alone and nothing else", (("transformer", f"{DM}/{DEV}_bf16.safetensors"),), 0,
              {"checkpoint": ("transformer", f"{DM}/{DEV}_bf16.safetensors"), "video_vae": None},
              "the set is not complete"),
    Situation("the checkpoint brings its own parts", (DEV_FILE, *REST), 0,
              {"checkpoint": DEV_FILE, "video_vae": None, "text_projection": None}),
    Situation("split files", (("transformer", f"{DM}/{DEV}_transformer_only_bf16.safetensors"), *REST), 0,
              {"video_vae": VIDEO, "audio_vae": AUDIO, "text_projection": PROJECTION}),
    Situation("audio VAE and vocoder in two files", (Q4, GEMMA, PROJECTION, VIDEO,
                                                     ("audio vae alone", "vae/ltx-2.3-22b_audio_vae.safetensors"),
                                                     ("vocoder", "vae/ltx-2.3-22b_vocoder.safetensors")), 0,
              {"audio_vae": ("audio vae alone", "vae/ltx-2.3-22b_audio_vae.safetensors"),
               "vocoder": ("vocoder", "vae/ltx-2.3-22b_vocoder.safetensors")}),
    Situation("an audio VAE of 2.0 is none", (Q4, GEMMA, PROJECTION, VIDEO,
                                              ("audio vae alone", "vae/LTX2_audio_vae_bf16.safetensors"),
                                              ("vocoder", "vae/ltx-2.3-22b_vocoder.safetensors")), 0,
              {"audio_vae": ("vocoder", "vae/ltx-2.3-22b_vocoder.safetensors")}),
    Situation("a file for it alone before a checkpoint's part", (Q4, GEMMA, PROJECTION, DISTILLED_FILE, VIDEO, AUDIO),
              12.5, {"video_vae": VIDEO}),
    # -- connectors ----------------------------------------------------------------------------------------------------
    Situation("connectors of the same variant before the more exact ones",
              (("gguf light", f"unet/{DISTILLED}-Q4_K_light.gguf"), *REST,
               ("connectors", f"{TE}/{DEV}_embeddings_connector.safetensors"),
               ("connectors fp32", f"{TE}/{DISTILLED}_embeddings_connector.safetensors")), 0,
              {"connectors": ("connectors fp32", f"{TE}/{DISTILLED}_embeddings_connector.safetensors")},
              "is not said to be of the transformer's variant"),
    Situation("connectors of dev for dev", (("gguf light", f"unet/{DEV}-Q4_K_light.gguf"), *REST,
                                            ("connectors", f"{TE}/{DISTILLED}_embeddings_connector.safetensors"),
                                            ("connectors fp32", f"{TE}/{DEV}_embeddings_connector.safetensors")), 0,
              {"connectors": ("connectors fp32", f"{TE}/{DEV}_embeddings_connector.safetensors")}),
    Situation("connectors of no stated variant before the other's",
              (("gguf light", f"unet/{DISTILLED}-Q4_K_light.gguf"), *REST,
               ("connectors", f"{TE}/{DEV}_embeddings_connector.safetensors"),
               ("connectors fp32", f"{TE}/ltx-2.3-22b_embeddings_connector.safetensors")), 0,
              {"connectors": ("connectors fp32", f"{TE}/ltx-2.3-22b_embeddings_connector.safetensors")}),
    Situation("connectors out of a checkpoint of the same variant",
              (("gguf light", f"unet/{DISTILLED}-Q4_K_light.gguf"), *SMALL_REST, DEV_FILE, DISTILLED_FILE), 14,
              {"checkpoint": ("gguf light", f"unet/{DISTILLED}-Q4_K_light.gguf"), "connectors": DISTILLED_FILE}),
    # -- number formats, component by component ------------------------------------------------------------------------
    Situation("an fp8 checkpoint has a bf16 VAE", (Q8, GEMMA, PROJECTION, AUDIO, DEV_FP8), 24,
              {"checkpoint": Q8, "video_vae": DEV_FP8}),
    # -- distilled LoRAs -----------------------------------------------------------------------------------------------
    Situation("rank 384 before 111", (DEV_FILE, GEMMA, LORA_111, LORA), 0, {"distilled_lora": LORA}, "changes less"),
    Situation("rank 384 of 1.0 before 111 of 1.1",
              (DEV_FILE, GEMMA, LORA_111, ("lora 384", f"{LO}/{DISTILLED}-lora-384.safetensors")), 0,
              {"distilled_lora": ("lora 384", f"{LO}/{DISTILLED}-lora-384.safetensors")}),
    Situation("1.1 before 1.0", (DEV_FILE, GEMMA, LORA, ("lora 384", f"{LO}/{DISTILLED}-lora-384.safetensors")), 0,
              {"distilled_lora": LORA}, "is older"),
    Situation("the only one is reduced", (DEV_FILE, GEMMA, LORA_111), 0, {"distilled_lora": LORA_111}),
    Situation("2.3 before 2.0", (DEV_FILE, GEMMA, ("lora 2.0", f"{LO}/a-distilled-lora.safetensors"), LORA_111), 0,
              {"distilled_lora": LORA_111}, "LTX-2.3"),
    Situation("a name that says 2.0 is a veto",
              (DEV_FILE, GEMMA, ("lora 384", f"{LO}/ltx-2-19b-distilled-lora-384.safetensors")), 0,
              {"distilled_lora": None}),
    Situation("a style LoRA for distilled weights is none",
              (DEV_FILE, GEMMA, ("style", f"{LO}/anime-style-distilled.safetensors")), 0, {"distilled_lora": None}),
    Situation("a big style LoRA neither", (DEV_FILE, GEMMA, ("big style", f"{LO}/{DISTILLED}-style.safetensors")), 0,
              {"distilled_lora": None}),
    *(Situation(f"{style} neither", (DEV_FILE, GEMMA, (style, f"{LO}/{DISTILLED}-{style}.safetensors")), 0,
                {"distilled_lora": None}) for style in ("style 64 everywhere", "style 128 in the blocks")),
    Situation("a reduced one without all modules",
              (DEV_FILE, GEMMA, ("lora reduced", f"{LO}/{DISTILLED}_ceil72.sft")), 0,
              {"distilled_lora": ("lora reduced", f"{LO}/{DISTILLED}_ceil72.sft")}),
    Situation("a style LoRA in a folder named distilled",
              (DEV_FILE, GEMMA, ("lora 384", f"{LO}/distilled/anime.safetensors")), 0, {"distilled_lora": None}),
    Situation("an IC-LoRA with distilled in its name is none",
              (DEV_FILE, GEMMA, ("ic-lora", f"{LO}/{DISTILLED}-ic-lora-union.safetensors")), 0,
              {"distilled_lora": None}),
    Situation("a distilled LoRA with kohya's names", (DEV_FILE, GEMMA, ("lora kohya", f"{LO}/{DISTILLED}_kohya.saf"
                                                                        "etensors")), 0,
              {"distilled_lora": ("lora kohya", f"{LO}/{DISTILLED}_kohya.safetensors")}),
    Situation("beside packed weights a LoRA takes its own room", (Q8, GEMMA_Q4, PROJECTION, VIDEO, AUDIO, LORA,
                                                                  LORA_111), 25.3, {"distilled_lora": LORA_111},
              "takes 30.0"),
    Situation("there is room for it on 32 GB", (Q8, GEMMA_Q4, PROJECTION, VIDEO, AUDIO, LORA, LORA_111), 32,
              {"distilled_lora": LORA}),
    # -- upscalers -----------------------------------------------------------------------------------------------------
    Situation("LTX-2.0's x2 upscaler by its shape", (DEV_FILE, GEMMA, ("x2 of 2.0", f"{UP}/spatial-upscaler-x2-1.5.safe"
                                                                       "tensors"), X2_OLD), 0,
              {"upsampler_x2": X2_OLD}),
    Situation("and alone", (DEV_FILE, GEMMA, ("x2 of 2.0", f"{UP}/ltx-2-spatial-upscaler-x2-1.0.safetensors")), 0,
              {"upsampler_x2": None}),
    Situation("a name that says 2.0 is a veto", (DEV_FILE, GEMMA, ("x2", f"{UP}/ltx-2-spatial-upscaler-x2-1.1.safeten"
                                                                   "sors"), X2_OLD), 0, {"upsampler_x2": X2_OLD}),
    Situation("ltx2 without a dot", (DEV_FILE, GEMMA, ("x2", f"{UP}/LTX2_spatial_upscaler_x2_bf16.safetensors")), 0,
              {"upsampler_x2": None}),
    Situation("a name that says 0.9", (DEV_FILE, GEMMA, ("x2", f"{UP}/ltxv-spatial-upscaler-0.9.8.safetensors")), 0,
              {"upsampler_x2": None}),
    Situation("a name that says 2.3 before one that says nothing",
              (DEV_FILE, GEMMA, ("x2", f"{UP}/a-upscaler-1.1.safetensors"), X2_OLD), 0, {"upsampler_x2": X2_OLD},
              "nothing says that a-upscaler"),
    Situation("the newest", (DEV_FILE, GEMMA, X2_OLD, X2), 0, {"upsampler_x2": X2}, "is older"),
    Situation("1.2 before 1.1", (DEV_FILE, GEMMA, X2, ("x2", f"{UP}/ltx-2.3-spatial-upscaler-x2-1.2.safetensors")), 0,
              {"upsampler_x2": ("x2", f"{UP}/ltx-2.3-spatial-upscaler-x2-1.2.safetensors")}),
    Situation("one of each kind", (DEV_FILE, GEMMA, X2, ("x1.5", f"{UP}/ltx-2.3-spatial-upscaler-x1.5-1.0.safetensors"),
                                   ("temporal", f"{UP}/ltx-2.3-temporal-upscaler-x2-1.0.safetensors")), 0,
              {"upsampler_x2": X2, "upsampler_x1.5": ("x1.5", f"{UP}/ltx-2.3-spatial-upscaler-x1.5-1.0.safetensors"),
               "upsampler_temporal_x2": ("temporal", f"{UP}/ltx-2.3-temporal-upscaler-x2-1.0.safetensors")}),
    Situation("the folder of an upscaler may say 2.0", (DEV_FILE, GEMMA, ("x2", f"{UP}/LTX-2/ltx-2.3-upscaler.sft")), 0,
              {"upsampler_x2": ("x2", f"{UP}/LTX-2/ltx-2.3-upscaler.sft")}),
]


def test_there_are_enough() -> None:
    assert len(SITUATIONS) >= 60 and len({each.name + str(each.files) for each in SITUATIONS}) == len(SITUATIONS)


@pytest.mark.parametrize("backwards", [False, True], ids=["listed", "backwards"])
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda each: each.name)
def test_choice(situation: Situation, backwards: bool) -> None:
    items = [item(*file) for file in situation.files]
    choice = choose(items[::-1] if backwards else items, {}, int(situation.gigabytes * 1e9))
    print("\n".join([*choice.reasons, *choice.notes]))
    for role, file in situation.expected.items():
        taken = choice.files.get(role)
        assert (taken and taken.place.removeprefix("models/")) == (file and file[1]), role
    assert situation.words in "\n".join(choice.reasons)


def test_what_must_be_streamed_is_said() -> None:
    choice = choose([item(*file) for file in (DEV_FILE, GEMMA)], {}, int(16e9))
    print(choice.notes)
    assert [note.split(":")[0] for note in choice.notes] == ["transformer", "text_encoder"]
    assert "39.0 GB with activations, the device has room for 16.0 GB: streamed " in choice.notes[0]
    assert " of 48 blocks" in choice.notes[0]
    assert not choose([item(*file) for file in (DEV_FILE, GEMMA)], {}, int(80e9)).notes


@pytest.mark.parametrize(("files", "gigabytes", "advice"), [
    ((DEV_FILE,), 24, ". In Load, weight_dtype Q8_0 would keep it whole on the device, in 21.1 GB (lossy"),
    ((DEV_FILE,), 21.5, "weight_dtype int8 would keep it whole"),
    ((DEV_FILE,), 13, "weight_dtype Q4_K would keep it whole on the device, in 11.7 GB"),
    ((DEV_FILE,), 8, "weight_dtype Q4_K would stream 30 of 48 blocks instead of 43"),
    ((DEV_FILE,), 2.5, ""),  # nothing runs there
    ((DEV_FILE,), 40, ""),
    ((DISTILLED_FILE,), 24, "weight_dtype Q8_0"),
    ((("transformer", f"{DM}/{DEV}_transformer_only_bf16.safetensors"), PROJECTION, VIDEO, AUDIO), 24, "Q8_0"),
    ((DEV_FILE, Q8), 24, ""),  # auto takes the file that is there
    ((DEV_FP8,), 16, ""),  # is quantised in its file
    ((Q8, PROJECTION, VIDEO, AUDIO), 16, ""),
    ((("whole nvfp4", f"{CK}/{DEV}-nvfp4.safetensors"),), 8, ""),
])
def test_a_weight_dtype_is_advised_and_never_taken(files: tuple[tuple[str, str], ...], gigabytes: float,
                                                   advice: str) -> None:
    """By what the same planner says of the same transformer quantised while it is read."""
    choice = choose([item(*file) for file in (*files, GEMMA_Q4)], {}, int(gigabytes * 1e9))
    told = "\n".join(choice.notes)
    print(told)
    assert ("weight_dtype" in told) == bool(advice) and advice in told
