"""Example files: small media that tests and workflow pictures use, and sparse stand-ins for the official weights."""
from __future__ import annotations

from pathlib import Path

from tools.host import Base
from tools.workflow_graphs import IC_LORA

FRAMES, FPS, RATE = 17, 24, 48000


def add_media(folder: Path, width: int = 192, height: int = 128) -> None:
    """example.png, example.mp4 (17 frames at 24 fps, with sound) and example.wav: landscape, moving sun, chord."""
    import numpy as np
    import torch
    from PIL import Image

    from ltx23_core.media import Audio, write_video

    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:1:height * 1j, 0:1:width * 1j]

    def picture(time: float) -> np.ndarray:
        sky = np.stack((0.95 - 0.5 * y, 0.6 - 0.2 * y, 0.45 + 0.2 * y), axis=-1)
        sun = np.exp(-(((x - 0.2 - 0.6 * time) / 0.07) ** 2 + ((y - 0.3) / 0.1) ** 2))[..., None]
        hill = (y > 0.68 + 0.09 * np.sin(7 * x + 1) + 0.03 * np.sin(23 * x))[..., None]
        ground = np.stack((0.16 + 0.15 * y, 0.22 + 0.2 * y, 0.14 + 0.05 * x), axis=-1)
        return np.where(hill, ground, np.clip(sky + sun * [0.7, 0.7, 0.4], 0, 1)).astype(np.float32)

    Image.fromarray((picture(0.5) * 255).astype(np.uint8)).save(folder / "example.png")
    seconds = np.arange(RATE) / RATE
    chord = sum(np.sin(2 * np.pi * tone * seconds) / (i + 4) for i, tone in enumerate((220.0, 277.2, 329.6, 440.0)))
    sound = torch.from_numpy(np.stack((chord, chord * np.cos(seconds))).astype(np.float32))[None] * 0.5
    frames = torch.from_numpy(np.stack([picture(i / (FRAMES - 1)) for i in range(FRAMES)]))
    length = round(FRAMES / FPS * RATE)
    write_video(folder / "example.mp4", [frames], FPS, Audio(sound[..., :length], RATE))
    _write_wav(folder / "example.wav", sound[0].numpy())


def _write_wav(path: Path, samples: object) -> None:
    """(2, n) float32 in [-1, 1] as 16-bit stereo."""
    import wave

    import numpy as np

    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.asarray(samples).T * 32767).astype("<i2").tobytes())


def add_examples(base: Base) -> None:
    """The media, and sparse files with the headers of the official ones, where a user has them."""
    from tests.support.overlay import checkpoint_22b, gemma_folder, lora_22b, upscalers_22b

    add_media(base.input, 1152, 768)
    models = base.models
    checkpoint_22b(models / "checkpoints" / "ltx-2.3-22b-dev.safetensors")
    gemma_folder(models / "text_encoders" / "gemma-3-12b-it-qat-q4_0-unquantized")
    upscalers_22b(models / "latent_upscale_models")
    for name in ("ltx-2.3-22b-distilled-lora-384-1.1.safetensors", IC_LORA):
        lora_22b(models / "loras" / name)
