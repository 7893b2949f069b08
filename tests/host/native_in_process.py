"""Run by the Python of a ComfyUI with LTX-2.3 of its own: does the bridge fill every weight of its classes at the true
size, and is none left over? On the meta device; prints a JSON object: part -> [missing, left over].

    PYTHON tests/host/native_in_process.py COMFYUI
"""
from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), sys.argv[1]]  # ours first: ComfyUI has a `tests`, too
sys.argv = [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.ops  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.lightricks.av_model import LTXAVModel  # noqa: E402
from comfy.ldm.lightricks.vae.audio_vae import AudioVAE  # noqa: E402
from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE  # noqa: E402
from comfy.text_encoders import llama, lt  # noqa: E402, F401 (the second needs the first)

from ltx23_core import materialize  # noqa: E402
from ltx23_core.bridge.state import native_part  # noqa: E402
from tests.support.overlay import as_layout, gemma_folder, manifest_22b, write_sparse  # noqa: E402

TEXT_ONLY = ("gemma3_12b.transformer.vision_model.", "gemma3_12b.transformer.multi_modal_projector.",
             "gemma3_12b.logit_scale")


def compared(module: torch.nn.Module, given: set[str]) -> list[list[str]]:
    """Names that the module has alone, and names that it does not have."""
    own = {name for name in module.state_dict() if not name.startswith(TEXT_ONLY)}
    return [sorted(own - given), sorted(given - own)]


def main() -> None:
    """Sparse files of the true sizes, and ComfyUI's classes without memory."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        raw = manifest_22b()
        meta = {"config": json.dumps(raw["metadata"]["config"]), "model_version": "2.3.0"}
        checkpoint = write_sparse(root / "ltx-2.3-22b-dev.safetensors", as_layout(raw["tensors"]), meta)
        overlay = materialize(checkpoint, gemma_folder(root / "gemma"), output=root / "overlay.json")
        found: dict[str, Any] = {}
        with torch.device("meta"):
            [file] = native_part(overlay, "model")
            config = json.loads(file.metadata["config"])["transformer"]
            found["model"] = compared(LTXAVModel(**config, dtype=torch.bfloat16, device="meta",
                                                 operations=comfy.ops.manual_cast), set(file.tensors))
            [file] = native_part(overlay, "vae")
            found["vae"] = compared(VideoVAE(version=2, config=json.loads(file.metadata["config"])["vae"]),
                                    set(file.tensors))
            [file] = native_part(overlay, "audio_vae")
            names = {name.replace("audio_vae.", "autoencoder.", 1) for name in file.tensors}
            found["audio_vae"] = compared(AudioVAE(metadata=file.metadata), names)
            gemma, projection = native_part(overlay, "clip")
            shapes = {name: torch.empty(ref.shape) for name, ref in projection.tensors.items()}
            clip = lt.ltxav_te(dtype_llama=torch.bfloat16, **lt.sd_detect([shapes]))(device="meta",
                                                                                    dtype=torch.bfloat16)
            names = {"gemma3_12b.transformer." + name for name in gemma.tensors if name.startswith("model.")}
            found["clip"] = compared(clip, names | set(projection.tensors))
        print(json.dumps(found))


if __name__ == "__main__":
    main()
