"""The inputs that name a file of the model folders, as one table: what each takes, where from, and what it says."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..sockets import advanced

if TYPE_CHECKING:
    from ...ltx23_core.overlay.shelf.shelf import Item

AUTO, NONE = "auto", "none"


@dataclass(frozen=True)
class FileInput:
    """One input.

    Attributes:
        key: its name.
        brings: beginning of the component that its file must bring.
        folders: ComfyUI's folders for it, for messages and for files that were not read yet.
        what: what it is called in messages.
        tooltip: for the node; "" where the node writes its own widget.
        is_part: a file for this alone: one with a transformer is not listed.
        optional, none, is_advanced: of the widget in the Overlay node.
    """

    key: str
    brings: str
    folders: tuple[str, ...]
    what: str
    tooltip: str = ""
    is_part: bool = False
    optional: bool = True
    none: bool = True
    is_advanced: bool = False

    def takes(self, item: Item) -> bool:
        """Whether a file can be chosen here."""
        brings = item.identity.brings
        if not item.identity.usable or not any(name.startswith(self.brings) for name in brings):
            return False
        return not (self.is_part and "transformer" in brings)

    def widget(self, names: list[str]) -> io.Input:
        """The list in the Overlay node, auto first."""
        options = [AUTO, *names]
        if self.none:
            options.append(NONE)
        made = io.Combo.Input(self.key, options=options, default=AUTO, optional=self.optional, tooltip=self.tooltip)
        if self.is_advanced:
            return advanced(made)
        return made


def _part(key: str, brings: str, folders: tuple[str, ...], what: str, words: str) -> FileInput:
    tooltip = (f"{words} from a file of its own. auto (default): the checkpoint's, and where that has none the best "
               "file there is.")
    return FileInput(key, brings, folders, what, tooltip, is_part=True, none=False, is_advanced=True)


OVERLAY = (
    FileInput("checkpoint", brings="transformer", folders=("checkpoints", "diffusion_models"),
              what="the transformer of LTX-2.3", optional=False, none=False, tooltip=(
        "The LTX-2.3 weights: a complete checkpoint, a transformer alone or a diffusers folder, in any model "
        "folder. auto (default) takes the best complete set that fits into the device's memory, and says why "
        "in the report. Official file: ltx-2.3-22b-dev.safetensors (46 GB) from Lightricks/LTX-2.3. Files of "
        "other models are not listed; the report says why.")),
    FileInput("text_encoder", brings="text_encoder", folders=("text_encoders",), what="Gemma 3 "
                                                                                      "12B", optional=False,
              tooltip=(
        "Gemma 3 12B: a folder or a single file in models/text_encoders. auto (default) takes the most exact "
        "one that fits the checkpoint and the device's memory. With none, prompts cannot be encoded; "
        "everything else works.")),
    FileInput("upsampler", brings="upsampler", folders=("latent_upscale_models",),
              what="a latent upscaler of LTX-2.3", is_part=True, tooltip=(
        "Latent upscaler from models/latent_upscale_models, needed by recipes of two stages: "
        "ltx-2.3-spatial-upscaler-x2-1.1.safetensors. auto (default) takes one of each kind.")),
    FileInput("distilled_lora", brings="lora", folders=("loras",), what="a LoRA for LTX-2.3", tooltip=(
        "Distilled LoRA from models/loras (ltx-2.3-22b-distilled-lora-384-1.1.safetensors): lets a dev "
        "checkpoint run two_stage, hq and the distilled recipes, and does nothing in others. auto (default) "
        "takes the strongest one whose own name says distilled and that changes the whole model.")),
    _part("text_projection", "text_projection", ("text_encoders", "checkpoints"), "the text projection of "
                                                                                  "LTX-2.3",
          words="Text projection"),
    _part("video_vae", "video_decoder", ("vae", "checkpoints"), "the video VAE of "
                                                                "LTX-2.3", words="Video VAE"),
    _part("audio_vae", "audio_decoder", ("vae", "checkpoints"), "the audio VAE of LTX-2.3",
          words="Audio VAE and vocoder"),
)
LORA = FileInput("lora", brings="lora", folders=("loras",), what="a LoRA for LTX-2.3")
INPUTS = {each.key: each for each in (*OVERLAY, LORA)}
