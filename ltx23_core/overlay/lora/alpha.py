"""Alpha and rsLoRA where a LoRA file tells them outside its tensors: metadata, or PEFT's adapter_config.json."""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import OverlayError
from ..bytes.header import Header, parse_json, read_json

_DIFFUSERS = "lora_adapter_metadata"  # JSON; each key begins with the name of the model
_KOHYA = "ss_network_args"  # JSON of the trainer's options
_LLAMA = "adapter.lora.alpha"  # a number, in GGUF files
_STABILISED = ("use_rslora", "rs_lora", "rslora")
_PEFT = "adapter_config.json"
_PREFIX = re.compile(r"^(base_model\.model\.)?(transformer|connectors|diffusion_model)\.|^base_model\.model\.")


@dataclass(frozen=True)
class Scales:
    """What is known of the scale of each module.

    Args:
        alphas: prefix of the path in the file ("": every path) -> alpha of modules that no pattern names.
        patterns: the same prefix -> PEFT's pattern of a module's name -> its alpha.
        rank_stabilised: prefixes for which alpha is divided by the root of the rank.
    """

    alphas: Mapping[str, float] = field(default_factory=dict)
    patterns: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    rank_stabilised: frozenset[str] = frozenset()

    def alpha(self, path: str) -> float | None:
        """Alpha of a module that has none among its tensors."""
        bare = _PREFIX.sub("", path)
        for prefix, patterns in self.patterns.items():
            if path.startswith(prefix):
                for pattern, alpha in patterns.items():
                    if bare == pattern or bare.endswith("." + pattern):
                        return alpha
        for prefix, alpha in self.alphas.items():
            if path.startswith(prefix):
                return alpha
        return None

    def stabilised(self, path: str) -> bool:
        """Whether a module is scaled by alpha / √rank."""
        return any(map(path.startswith, self.rank_stabilised))


def read_scales(header: Header) -> Scales:
    """Everything that the file, or the adapter_config.json beside it, says of scales.

    Raises:
        OverlayError: such metadata that cannot be read: the strength would be a guess.
    """
    if _DIFFUSERS in header.metadata:
        return _peft(_json(header, _DIFFUSERS), ("transformer.", "connectors."))
    config = header.path.parent / _PEFT
    if _is_of_peft(header) and config.is_file():
        return _peft(read_json(config), ("",))
    if _LLAMA in header.metadata:
        try:
            return Scales({"": float(header.metadata[_LLAMA])})
        except ValueError:
            return Scales()
    if _KOHYA in header.metadata:
        options = _json(header, _KOHYA)
        for name in _STABILISED:
            if str(options.get(name, "")).lower() in ("true", "1"):
                return Scales(rank_stabilised=frozenset([""]))
    return Scales()


def _is_of_peft(header: Header) -> bool:
    """Whether PEFT itself has named the tensors."""
    return any("lora_A" in key and key.startswith("base_model.model.") for key in header.tensors)


def _peft(config: Mapping[str, Any], prefixes: tuple[str, ...]) -> Scales:
    alphas: dict[str, float] = {}
    patterns: dict[str, dict[str, float]] = {}
    stabilised = set()
    for prefix in prefixes:
        alpha, pattern = config.get(prefix + "lora_alpha"), config.get(prefix + "alpha_pattern")
        if _number(alpha):
            alphas[prefix] = float(alpha)
        if isinstance(pattern, dict):
            patterns[prefix] = {}
            for name, value in pattern.items():
                if _number(value):
                    patterns[prefix][str(name)] = float(value)
        if config.get(prefix + "use_rslora") is True:
            stabilised.add(prefix)
    return Scales(alphas, patterns, frozenset(stabilised))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _json(header: Header, key: str) -> dict[str, Any]:
    try:
        value = parse_json(header.metadata[key])
    except ValueError as error:
        raise OverlayError(f"the metadata {key!r} of {header.path} is not JSON ({error})", "a JSON object, which says "
                           "how strong the LoRA is", "Use another version of this LoRA.") from error
    if not isinstance(value, dict):
        return {}
    return value
