"""Prompt enhancement against transformers' Gemma3ForConditionalGeneration: tokens, pixels, greedy and drawn text."""
from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
from torch import Tensor

from ltx23_core.models.text.gemma import build_gemma
from ltx23_core.models.text.vision import (
    VisionConfig,
    VisionEncoder,
    restore_positions,
    vision_tensors,
)
from ltx23_core.overlay.find.text_encoder import find_text_encoder
from ltx23_core.prompt.enhance import Question, ask
from ltx23_core.prompt.generate import TOP_K, TOP_P, Sampling, Sight, generate
from ltx23_core.prompt.instructions import IMAGE_TO_VIDEO, TEXT_TO_VIDEO
from ltx23_core.prompt.picture import image_pixels
from ltx23_core.prompt.tokenizer import Tokenizer
from ltx23_core.runtime.load import load_module
from tests.goldens.harness import GEMMA

PROMPT = 'A boat on a lake, at dawn. "Hello," says the man.'
NEW = 70
# vision layers, width, heads, patches a side, features a side; text layers, width, heads, key heads, head dim, window
SIZES = {"other": (2, 24, 3, 6, 3, 5, 40, 5, 1, 12, 30), "wide window": (1, 16, 4, 4, 2, 3, 24, 3, 3, 8, 3000)}


def random_gemma(size: str, folder: Path) -> Path:
    """A folder with a random Gemma 3 of another architecture, as the installed transformers writes it."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration
    eyes, eye_width, eye_heads, patches, features, layers, width, heads, keys, dim, window = SIZES[size]
    config = Gemma3Config(
        text_config={
            "num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 2 * width, "head_dim": dim,
            "num_attention_heads": heads, "num_key_value_heads": keys, "query_pre_attn_scalar": dim,
            "sliding_window": window, "vocab_size": 640},
        vision_config={
            "model_type": "siglip_vision_model", "num_hidden_layers": eyes, "hidden_size": eye_width,
            "intermediate_size": 40, "num_attention_heads": eye_heads, "image_size": 14 * patches, "patch_size": 14,
            "vision_use_head": False},
        mm_tokens_per_image=features**2, boi_token_index=6, eoi_token_index=7, image_token_index=8)
    model = Gemma3ForConditionalGeneration(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            own = re.sub(r"(^|\b)(model|language_model|vision_tower|vision_model)\.", "", name)  # in any release
            random = torch.randn(value.shape, generator=torch.Generator().manual_seed(crc32(own.encode())))
            value.copy_(random * (0.1 if value.ndim == 1 else value.shape[-1] ** -0.5))
            if "position_embedding" in name or "mm_input_projection" in name:
                value.mul_(20)
            if "post_attention_layernorm" in name or "post_feedforward_layernorm" in name:
                value.add_(3)  # else the embedding, which is the head too, makes it repeat one token
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
        shutil.copy(GEMMA / name, folder)
    return folder


class Both:
    """One Gemma 3 folder, in our modules and in transformers' class, in float32."""

    def __init__(self, folder: Path) -> None:
        from transformers import Gemma3ForConditionalGeneration, GenerationConfig
        self.theirs = Gemma3ForConditionalGeneration.from_pretrained(folder).float().eval()
        self.theirs.generation_config = GenerationConfig.from_model_config(self.theirs.config)  # the release's cache
        found = find_text_encoder(folder)
        self.config, self.tokenizer = found.config["text_encoder"], Tokenizer(folder)
        self.gemma, self.encoder = build_gemma(self.config), VisionEncoder(self.config)
        load_module(self.gemma, found.components["text_encoder"], "cpu", torch.float32)
        load_module(self.encoder, vision_tensors(self.encoder, found.components["text_encoder_vision"]), "cpu",
                    torch.float32)
        restore_positions(self.encoder, torch.device("cpu"))

    def ask(self, image: Tensor | None) -> Question:
        return ask(self.tokenizer, self.config, PROMPT, image)

    def ours(self, image: Tensor | None, temperature: float) -> list[int]:
        question, vision = self.ask(image), VisionConfig.from_dict(self.config)
        sight = None if image is None else Sight(self.encoder, self.config, image_pixels(image, vision), vision.place)
        return generate(self.gemma, question.ids, Sampling(question.stop, 11, NEW, temperature), sight)

    def oracle(self, image: Tensor | None, **options: Any) -> list[int]:
        question, vision = self.ask(image), VisionConfig.from_dict(self.config)
        ids = torch.tensor([question.ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if image is not None:
            inputs |= {"pixel_values": image_pixels(image, vision), "token_type_ids": (ids == vision.place).long()}
        torch.manual_seed(11)
        out = self.theirs.generate(**inputs, max_new_tokens=NEW, eos_token_id=list(question.stop), **options)
        return out[0, ids.shape[1]:].tolist()


@pytest.fixture(scope="module", params=["tiny", *SIZES])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(GEMMA if request.param == "tiny" else random_gemma(request.param, tmp_path_factory.mktemp("gemma")))


def picture(seed: int = 0, height: int = 50, width: int = 90) -> Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


WAYS: dict[str, tuple[float, dict[str, Any]]] = {
    "greedy": (0.0, {"do_sample": False}),
    "drawn": (0.7, {"do_sample": True, "temperature": 0.7, "top_k": TOP_K, "top_p": TOP_P})}

VARIETY = {"greedy": 2, "drawn": 30}  # different tokens; greedy texts of random weights soon go round in circles


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("image", [None, picture()], ids=["text", "image"])
def test_token_for_token(both: Both, image: Tensor | None, way: str) -> None:
    temperature, options = WAYS[way]
    got, want = both.ours(image, temperature), both.oracle(image, **options)
    print(f"{len(both.ask(image).ids)} tokens -> {len(want)}, {len(set(want))} different")
    assert got == want
    assert len(set(want)) > VARIETY[way], "such a text would be equal by chance"


def test_the_picture_is_seen(both: Both) -> None:
    texts = [both.ours(image, 0.7) for image in (torch.zeros(20, 30, 3), torch.ones(20, 30, 3))]
    assert texts[0] != texts[1]


def test_greedy_text_does_not_depend_on_padding(both: Both) -> None:
    """The official run pads on the left to a multiple of 8."""
    ids = both.ask(None).ids
    pad = -len(ids) % 8 or 8
    tokens, mask = torch.tensor([[0] * pad + ids]), torch.tensor([[0] * pad + [1] * len(ids)])
    out = both.theirs.generate(input_ids=tokens, attention_mask=mask, max_new_tokens=NEW, do_sample=False,
                               eos_token_id=list(both.ask(None).stop))
    assert out[0, tokens.shape[1]:].tolist() == both.ours(None, 0.0)


# --- what the model reads, against Gemma's processor

TURNS = "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"


@pytest.fixture(scope="module")
def processor() -> Callable[..., Any]:
    from transformers import Gemma3Processor
    return Gemma3Processor.from_pretrained(GEMMA)


def test_turns(processor: Callable[..., Any]) -> None:
    tokenizer = Tokenizer(GEMMA)
    config = find_text_encoder(GEMMA).config["text_encoder"]
    text = TURNS.format(f"{TEXT_TO_VIDEO}\n\nuser prompt: {PROMPT}")
    want = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ask(tokenizer, config, f"  {PROMPT}\n").ids == want
    from PIL import Image
    text = TURNS.format(f"{IMAGE_TO_VIDEO}\n\n<start_of_image>User Raw Input Prompt: {PROMPT}.")
    want = processor(text=text, images=[Image.new("RGB", (64, 64))], add_special_tokens=False)["input_ids"][0]
    assert ask(tokenizer, config, PROMPT, picture()).ids == list(want)


@pytest.mark.parametrize("size", [(896, 500), (300, 896), (896, 896)])
def test_pixels(processor: Callable[..., Any], size: tuple[int, int]) -> None:
    """Pictures whose long side is 896 already, so that only the processor's own part is compared."""
    from PIL import Image
    image = (picture(4, *size) * 255).round() / 255
    values = (image * 255).round().to(torch.uint8)
    vision = VisionConfig.from_dict(find_text_encoder(GEMMA).config["text_encoder"])
    want = processor.image_processor(Image.fromarray(values.numpy()), return_tensors="pt")["pixel_values"]
    got = image_pixels(image, vision)
    assert got.shape == want.shape and torch.equal(got, image_pixels(values, vision))
    assert (got - want).abs().max() < 1.01 / 127.5, "one grey level: resizers round differently"
