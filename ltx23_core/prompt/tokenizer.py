"""Prompt text to Gemma token ids (spec/03 §1).

No chat template and no padding: padding tokens are never computed with (see `gemma.hidden_states`), so a
prompt is just its own ids, a leading BOS first.
"""
from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ..config import TEXT_TOKENS
from ..errors import OverlayError, RequestError
from ..models.text._transformers import transformers_class

log = logging.getLogger(__name__)

_EXPECTED = "the tokenizer files of Gemma 3 (tokenizer.json and tokenizer_config.json)"
_FIX = ("Copy tokenizer.json and tokenizer_config.json of google/gemma-3-12b-it-qat-q4_0-unquantized beside "
        "the text encoder and make the overlay again.")


class Tokenizer:
    """Gemma's tokenizer from a local folder. Reads only that folder: no network, no code from it is run.

    Args:
        folder: the overlay's tokenizer folder; None where the overlay has none.

    Raises:
        OverlayError: no folder, files missing or unreadable, or no BOS token in them.
    """

    def __init__(self, folder: Path | None) -> None:
        """Read the files of the folder; see the class for what can go wrong."""
        if folder is None:
            raise OverlayError("the overlay has no tokenizer", _EXPECTED, _FIX)
        if not Path(folder).is_dir():
            raise OverlayError(f"no tokenizer folder {folder}", _EXPECTED, _FIX)
        loader = transformers_class("AutoTokenizer")
        try:
            self._tokenizer = loader.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # transformers and tokenizers raise many kinds, some bare `Exception`
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            found = f"the tokenizer in {folder} cannot be read ({reason})"
            raise OverlayError(found, _EXPECTED, _FIX) from error
        if self._tokenizer.bos_token_id is None:
            raise OverlayError(f"the tokenizer in {folder} has no BOS token", _EXPECTED, _FIX)
        self.bos = int(self._tokenizer.bos_token_id)
        self._folder = folder

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, 1 to 1024 of them; BOS is first, there is no EOS.

        The prompt is stripped of surrounding white space. A longer prompt is cut behind token 1024, with a
        warning in the log. The empty prompt is BOS alone.

        Raises:
            RequestError: the prompt is not text, or holds half a character (a lone surrogate).
        """
        try:
            prompt.encode()
        except (AttributeError, UnicodeEncodeError) as error:
            raise RequestError(f"the prompt cannot be read as text ({error})", "a string of whole characters",
                               "Retype the prompt without the broken character.") from error
        ids = [int(token) for token in self._tokenizer(prompt.strip(), add_special_tokens=True)["input_ids"]]
        if ids[:1] != [self.bos]:
            ids.insert(0, self.bos)
        if len(ids) > TEXT_TOKENS:
            log.warning("The prompt has %d tokens; only the first %d are used.", len(ids), TEXT_TOKENS)
        return ids[:TEXT_TOKENS]

    def split(self, text: str) -> list[int]:
        """Token ids of a text as it stands: none is added, special tokens that are written out in it count as such."""
        return [int(token) for token in self._tokenizer(text, add_special_tokens=False)["input_ids"]]

    def special(self, token: str) -> int:
        """Id of a special token; `OverlayError` if the tokenizer has none of that name."""
        found = self.split(token)
        if len(found) != 1 or found[0] == self._tokenizer.unk_token_id:
            raise OverlayError(f"the tokenizer in {self._folder} has no token {token}", _EXPECTED, _FIX)
        return found[0]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)
