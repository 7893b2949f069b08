"""Make the tiny Gemma's tokenizer: SentencePiece pieces over captions of the world and plain English."""
from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tools.tiny_world.captions import caption
from tools.tiny_world.scene import sample_scenes
from tools.tiny_world.train.configs import DEMO, GEMMA_TEXT, VOCABULARY
from tools.tiny_world.train.library import DEFAULT_NEGATIVE_PROMPT, sentencepiece_files

ROOT = Path(__file__).parents[3]
TOKENIZER = ROOT / "tiny" / "gemma"     # the folder that is shipped; training reads its tokenizer
SPECIAL = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>")
_TEMPLATE = ROOT / "tests" / "goldens" / "tiny" / "gemma"   # small files of the same form, which need no change
_CONFIGS = ("generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
CAPTIONS, ENGLISH = 20_000, 20


def captions(seed: int, count: int) -> Iterator[str]:
    """Captions of random scenes."""
    rng = np.random.default_rng(seed)
    scenes = sample_scenes(rng, count, DEMO.aspect, DEMO.seconds)
    for index in range(count):
        yield caption(rng, scenes, index)


def english() -> list[str]:
    """Plain English from this repository: lines of its documents, and the negative prompt."""
    pages = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md"))]
    lines = [line.strip() for page in pages for line in page.split("\n")]
    return [line for line in lines if len(line) > 40 and "|" not in line] + [DEFAULT_NEGATIVE_PROMPT] * 50


def make_tokenizer(folder: Path) -> None:
    """Write tokenizer.model and the files that transformers reads."""
    import sentencepiece
    model = io.BytesIO()
    texts = [*captions(0, CAPTIONS), *english()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="bpe", vocab_size=VOCABULARY, byte_fallback=True,
        split_digits=True, add_dummy_prefix=False, remove_extra_whitespaces=False, normalization_rule_name="identity",
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
        unk_piece="<unk>", user_defined_symbols=list(SPECIAL), num_threads=1, minloglevel=2,
        character_coverage=1.0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    for name, text in sentencepiece_files(model.getvalue()).items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in _CONFIGS:
        shutil.copy(_TEMPLATE / name, folder / name)
    config = json.loads((_TEMPLATE / "config.json").read_text(encoding="utf-8"))
    config["text_config"] = GEMMA_TEXT
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
