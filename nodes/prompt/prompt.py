"""LTX23Prompt: from text to what the transformer reads."""
from __future__ import annotations

import time
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..checks import guarded
from ..host import folders, progress
from ..sockets import Context, Model, advanced, schema
from ..validation import before_the_run

if TYPE_CHECKING:
    from ...ltx23_core.pipeline import Pipeline

NEGATIVE_TOOLTIP = (
    "What to avoid. Left empty (default): the pack's list of the picture and sound defects that the official "
    "default names. The word none: no negative prompt. Acts where CFG is not 1; in distilled recipes only "
    "with NAG or a CFG++ solver.")


def negative_text(field: str) -> str | None:
    """What `Pipeline.encode` takes for a negative prompt field: None (the default list) where it is empty."""
    return {"": None, "none": ""}.get(field.strip().lower(), field)


class PromptNode(io.ComfyNode):
    """Encode the prompt and its negative once; samplers with other seeds and sizes use the result again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23Prompt", display_name="Prompt (text encoder)", aliases=["text "
                                                                   "encode", "clip", "gemma", "conditioning"],
            description="Encodes the prompt with Gemma 3. The result is kept as long as the texts stay the "
                        "same.",
            inputs=[
                Model.Input("model", tooltip="The model, from Load. Its overlay must have a text encoder."),
                io.String.Input("prompt", multiline=True, dynamic_prompts=True, default="", tooltip=(
                    "What is seen and heard, in one flowing paragraph: scene, subject, movement, camera, "
                    "light, then speech in quotes, sounds and music. At most 1024 tokens, about 700 words; "
                    "more is cut off.")),
                io.String.Input("negative_prompt", multiline=True, dynamic_prompts=True, default="",
                                placeholder="empty: the default list; none: no negative prompt",
                                tooltip=NEGATIVE_TOOLTIP),
                advanced(io.Boolean.Input("prompt_cache", optional=True, default=False, tooltip=(
                    "Keep the encoded texts in ComfyUI's user folder (ltx23_prompts): after a restart they "
                    "are found there, and Gemma need not be read. 13 MB each, at most 2 GB, those used "
                    "longest ago go first. The words themselves are not in these files. off (default): in "
                    "RAM alone."))),
            ],
            outputs=[Context.Output(display_name="context", tooltip="The encoded texts, for Sampler.")],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, model: Pipeline, prompt: str, negative_prompt: str,
                prompt_cache: bool = False) -> io.NodeOutput:
        """Encode both texts, or find them."""
        begin, folder = time.perf_counter(), None
        if prompt_cache:
            folder = folders.prompt_folder()
        context = model.encode(prompt, negative_text(negative_prompt), prompt_cache=folder)
        progress.say(f"encoded in {time.perf_counter() - begin:.1f} s", "step")
        return io.NodeOutput(context)
