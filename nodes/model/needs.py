"""What the nodes behind an Overlay will ask of it, read off the graph before anything runs.

Said at the Overlay, where files are chosen, and before the minutes that a model takes to load. What comes through a
link is not known then, and the node itself will say it.
"""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...ltx23_core.errors import OverlayError
from ...ltx23_core.plan.recipes import RECIPES
from ..host import asked
from ..host.names import short_name
from .inputs import AUTO, INPUTS, NONE

if TYPE_CHECKING:
    from ...ltx23_core.overlay.shelf.choose import Choice

_TEXT = ("text_encoder", "text_projection", "connectors")
_PICTURES, _SOUND = ("video_decoder",), ("audio_decoder", "vocoder")
_CLIP = ("video_encoder", "audio_encoder")
# Node -> what it asks of the model that is linked to it, whatever its values are.
OF_MODEL: dict[str, tuple[str, ...]] = {
    "LTX23Prompt": _TEXT, "LTX23DecodeVideo": _PICTURES, "LTX23DecodeAudio": _SOUND,
    "LTX23DecodeToFile": (*_PICTURES, *_SOUND)}
# Output of To Native -> what it asks of the overlay that is linked to it, where another node takes it.
OF_NATIVE = (("connectors",), ("text_encoder", "text_projection"), (*_PICTURES, "video_encoder"),
             (*_SOUND, "audio_encoder"))
# Node -> what it makes the Sampler ask for that its conditions lead to.
OF_CONDITIONS: dict[str, tuple[str, ...]] = {
    "LTX23ImageCondition": ("video_encoder",), "LTX23Keyframe": ("video_encoder",),
    "LTX23ReferenceVideo": ("video_encoder",), "LTX23SourceVideo": ("video_encoder",),
    "LTX23Inpaint": ("video_encoder",), "LTX23SourceAudio": ("audio_encoder",),
    "LTX23ReferenceVoice": ("audio_encoder",)}
# Component -> the input of Overlay where a file for it is chosen, and what people call it.
PLACES: dict[str, tuple[str, str]] = {
    "text_encoder": ("text_encoder", "text encoder"),
    "text_projection": ("text_projection", "text projection"),
    "connectors": ("checkpoint", "connectors of the text encoder"),
    "video_decoder": ("video_vae", "video VAE"),
    "video_encoder": ("video_vae", "video VAE that encodes"),
    "audio_decoder": ("audio_vae", "audio VAE"),
    "audio_encoder": ("audio_vae", "audio VAE that encodes"),
    "vocoder": ("audio_vae", "vocoder"),
    "distilled_lora": ("distilled_lora", "distilled LoRA"),
    "upsampler_x2": ("upsampler", "x2 upscaler"),
    "upsampler_x1.5": ("upsampler", "x1.5 upscaler"),
    "upsampler_temporal_x2": ("upsampler", "temporal upscaler"),
}


@dataclass(frozen=True)
class Need:
    """A component that a node will ask for, and how that node is called on the page."""

    component: str
    who: str


def needs_of(overlay: str, distilled: bool) -> list[Need]:
    """What the graph that is being checked asks of an Overlay node.

    Args:
        overlay: id of the node.
        distilled: whether its weights are; dev weights need the LoRA in recipes with distilled stages.
    """
    nodes, runs = asked.graph(), asked.will_run()
    found = list(_native_needs(nodes, overlay, runs))
    for key in _users(nodes, overlay):
        if key in runs:
            for component in _asks(nodes, key, distilled):
                found.append(Need(component, _name(nodes[key])))
    return list(dict.fromkeys(found))


def _native_needs(nodes: Mapping[str, asked.Node], overlay: str, runs: Collection[str]) -> Iterator[Need]:
    """What the nodes ask for that load an overlay for ComfyUI's own."""
    for key, node in asked.of_kind("LTX23ToNative").items():
        if key in runs and asked.link(node, "overlay") == (overlay, 0):
            for output in sorted(asked.taken_of(nodes, key)):
                for component in OF_NATIVE[output]:
                    yield Need(component, _name(node))


def _users(nodes: Mapping[str, asked.Node], overlay: str) -> list[str]:
    """Nodes whose model comes from an Overlay, through Load and LoRA."""
    models = []
    for key, node in asked.of_kind("LTX23Load").items():
        if asked.link(node, "overlay") == (overlay, 0):
            models.append(key)
    users: list[str] = []
    for model in models:  # which grows while it is gone through
        for key, node in nodes.items():
            if asked.link(node, "model") == (model, 0) and key not in users:
                users.append(key)
                if node.get("class_type") == "LTX23LoRA":
                    models.append(key)
    return users


def _asks(nodes: Mapping[str, asked.Node], key: str, distilled: bool) -> Iterator[str]:
    """Components that one node will ask for."""
    node = nodes[key]
    kind, given = node.get("class_type"), asked.constants(node)
    yield from OF_MODEL.get(kind, ())
    if kind == "LTX23EnhancePrompt" and not str(given.get("edited", "")).strip():
        yield "text_encoder"
    if kind == "LTX23LatentUpscale":
        yield f"upsampler_{given.get('kind', 'x2')}"
    if kind == "LTX23Sampler":
        yield from _sampler_asks(nodes, node, given, distilled)


def _sampler_asks(nodes: Mapping[str, asked.Node], node: asked.Node, given: Mapping[str, Any],
                  distilled: bool) -> Iterator[str]:
    if asked.link(node, "context") is None:
        yield from _TEXT
    recipe = RECIPES.get(given.get("recipe"))
    if recipe is not None and recipe.upscales:
        yield "upsampler_x2"
    if recipe is not None and not distilled and recipe.distils:
        yield "distilled_lora"
    at = asked.link(node, "conditions")
    while at is not None and at[0] in nodes:
        condition = nodes[at[0]]
        yield from OF_CONDITIONS.get(condition.get("class_type"), ())
        at = asked.link(condition, "conditions")


def _name(node: asked.Node) -> str:
    """What the page calls a node."""
    meta = node.get("_meta")
    title = ""
    if isinstance(meta, dict):
        title = short_name(meta.get("title"))
    return title[:60] or str(node.get("class_type")).removeprefix("LTX23")


def refusals(needs: Sequence[Need], choice: Choice, given: Mapping[str, Any],
             names: Callable[[str], Sequence[str]]) -> list[tuple[str, str]]:
    """(input, sentence) for each component that is needed and that no file brings.

    Args:
        needs: of `needs_of`.
        choice: the files.
        given: the Overlay's values.
        names: from an input to the files that it could take.
    """
    from ...ltx23_core.overlay.downloads import how_to_get

    who: dict[str, dict[str, None]] = {}
    for need in needs:
        if need.component in PLACES and need.component not in choice.brings:
            who.setdefault(need.component, {})[need.who] = None
    told = []
    for component, users in who.items():
        key, words = PLACES[component]
        fix = (f"Download {how_to_get(component)}. The button Get missing files does it; press R after "
               "adding files.")
        broken = choice.broken.get(component)
        if broken is not None:
            fix = f"{broken.identity.fix} {broken.place} is {broken.identity.sentence}. Then press R."
        there = names(key)
        if given.get(key) == NONE and there:
            fix = f"Choose auto, or {there[0]}."
        error = OverlayError(
            f"{key} is {given.get(key, AUTO)}: there is no {words}, which {', '.join(users)} will need",
            INPUTS[key].what,
            fix)
        told.append((key, str(error)))
    return told
