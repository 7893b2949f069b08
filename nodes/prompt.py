"""LTX23Prompt: from text to what the transformer reads."""
from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from comfy_api.latest import io

from .sockets import Context, Model, schema

if TYPE_CHECKING:
    from ..ltx23_core.pipeline import Pipeline, PromptContext

NEGATIVE_TOOLTIP = (
    "What to avoid. Left empty (default): the official negative prompt of LTX-2.3, a list of picture and sound "
    "defects. The word none: no negative prompt. Has an effect only where CFG is above 1: not in distilled recipes.")

# The last prompt of each model, so that a new seed does not load and run the 12B text encoder again where the
# sampler encodes the prompt by itself. Weak: it ends with the model.
_LAST: WeakKeyDictionary[Pipeline, tuple[tuple[str, str], PromptContext]] = WeakKeyDictionary()


def encode(model: Pipeline, prompt: str, negative_prompt: str) -> PromptContext:
    """Encode a prompt, or return the context of the same texts if they were the last ones of this model."""
    key = (prompt, negative_prompt.strip())
    last = _LAST.get(model)
    if last is None or last[0] != key:
        negative = {"": None, "none": ""}.get(key[1].lower(), negative_prompt)
        _LAST[model] = last = (key, model.encode(prompt, negative))
    return last[1]


class PromptNode(io.ComfyNode):
    """Encode the prompt and its negative once; samplers with other seeds and sizes use the result again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23Prompt", display_name="Prompt", aliases=["text encode", "clip", "gemma", "conditioning"],
            description="Encodes the prompt with Gemma 3. The result is kept as long as the texts stay the same.",
            inputs=[
                Model.Input("model", tooltip="The model, from Load. Its overlay must have a text encoder."),
                io.String.Input("prompt", multiline=True, dynamic_prompts=True, default="", tooltip=(
                    "What is seen and heard, in one flowing paragraph: scene, subject, movement, camera, light, then "
                    "speech in quotes, sounds and music. At most 1024 tokens, about 700 words; more is cut off.")),
                io.String.Input("negative_prompt", multiline=True, dynamic_prompts=True, default="",
                                placeholder="empty: official default; none: no negative prompt",
                                tooltip=NEGATIVE_TOOLTIP),
            ],
            outputs=[Context.Output(display_name="context", tooltip="The encoded texts, for Sampler.")],
        )

    @classmethod
    def execute(cls, model: Pipeline, prompt: str, negative_prompt: str) -> io.NodeOutput:
        """Encode both texts."""
        return io.NodeOutput(encode(model, prompt, negative_prompt))
