"""LTX23EnhancePrompt: a fuller prompt, written by the text encoder or by the user."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ...ltx23_core.config import ENHANCED_TOKENS, TEXT_TOKENS
from ...ltx23_core.plan.recipes import SEED
from ..checks import guarded
from ..host import progress
from ..sockets import Model, advanced, schema
from ..validation import before_the_run

if TYPE_CHECKING:
    import torch

    from ...ltx23_core.pipeline import Pipeline


class EnhancePromptNode(io.ComfyNode):
    """Let Gemma 3 write the prompt out; a text that the user keeps, changed or not, is used from then on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23EnhancePrompt", display_name="Enhance Prompt",
            aliases=["prompt enhancement", "prompt expansion", "rewrite", "gemma", "llm"],
            description="Writes a short prompt out with the text encoder, Gemma 3, and shows the text. Link "
                        "its output to the prompt of Prompt or Sampler.",
            is_output_node=True,
            inputs=[
                Model.Input("model", tooltip="The model, from Load. Its overlay must have a text encoder."),
                io.String.Input("prompt", multiline=True, dynamic_prompts=True, default="", tooltip=(
                    "What the video shall show, in a few words or sentences. What is said in quotes stays as "
                    "it is. Used unchanged if the text encoder writes nothing that can be used.")),
                io.Int.Input("seed", default=SEED, min=0, max=2**64 - 1, control_after_generate=True, tooltip=(
                    "Start of the random choice of words, 0 to 2^64 - 1. The same seed and inputs give the "
                    "same text. Default 10, that of Sampler.")),
                io.String.Input("edited", multiline=True, default="", optional=True,
                                placeholder="empty: the text encoder writes; a text here is used as it is",
                                tooltip=(
                    "Your own version of the result: with a text here, that is the output, nothing is loaded "
                    "and nothing is written. The button Keep and edit this text fills it. Default: empty.")),
                io.Image.Input("image", optional=True, tooltip=(
                    "First frame for image to video: the text then tells what happens from this picture on. "
                    "Of a batch the first is used. Needs a text encoder with its vision tower, as the Gemma "
                    "3 folder and gemma_3_12B_it.safetensors have it.")),
                advanced(io.Int.Input("max_tokens", default=ENHANCED_TOKENS, min=1, max=TEXT_TOKENS, optional=True,
                                      tooltip=(
                    "Most tokens to write, 1 to 1024; about 0.7 words each. Writing ends earlier when the "
                    "text is complete. Official default 512."))),
                advanced(io.String.Input("instructions", multiline=True, default="", optional=True,
                                         placeholder="empty: the pack's own instructions", tooltip=(
                    "What the text encoder is told to do with the prompt. Left empty (default): the pack's "
                    "own instructions for text to video or, with an image, for image to video."))),
            ],
            outputs=[io.String.Output(display_name="prompt", tooltip=(
                "The new prompt, for the prompt of Prompt or Sampler."))],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, model: Pipeline, prompt: str, seed: int, edited: str = "",
                image: torch.Tensor | None = None, max_tokens: int = ENHANCED_TOKENS,
                instructions: str = "") -> io.NodeOutput:
        """Give the edited text, or let the model write."""
        text = edited.strip()
        first = None
        if image is not None:
            first = image[0, ..., :3]  # (H, W, 3) of a batch
        if not text:
            text = model.enhance(prompt, first, seed=seed, instructions=instructions,
                                 max_new_tokens=max_tokens, on_token=progress.ticks(max_tokens))
        return io.NodeOutput(text, ui={"text": [text]})
