"""Runs inside ComfyUI's source tree, started by test_media.py: clips and masks as users have them, through real nodes.

Prints one JSON object: name -> what the node made of it, or the error's class and text.
"""
from __future__ import annotations

import importlib
import json
import struct
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

SOURCE, PACK, FOLDER = map(Path, sys.argv[1:4])
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, str(SOURCE))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import av  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from comfy_api.latest import InputImpl  # noqa: E402
from pack_by_path import import_pack  # noqa: E402

COUNT = 25


def clip(name: str, codec: str = "libx264", pix_fmt: str = "yuv420p", rate: Fraction = Fraction(24), count: int = COUNT,
         size: tuple[int, int] = (64, 48), sound: tuple[str, str, int] | None = ("aac", "stereo", 48_000),
         times: Callable[[int], int] | None = None, picture: bool = True) -> Path:
    """Frames of rising grey, a tone beside them."""
    path = FOLDER / name
    with av.open(str(path), "w") as file:
        video = audio = None
        if picture:
            video = file.add_stream(codec, rate=rate)
            video.width, video.height, video.pix_fmt = *size, pix_fmt
        if sound is not None:
            kind, layout, hertz = sound
            audio = file.add_stream(kind, rate=hertz, layout=layout)
        for index in range(count if picture else 0):
            level = np.full((size[1], size[0], 3), 8 * index % 256, np.uint8)
            level[:, :size[0] // 2] = 255  # the left half is white
            frame = av.VideoFrame.from_ndarray(level, format="rgb24").reformat(format=pix_fmt)
            frame.time_base, frame.pts = 1 / rate, times(index) if times else index
            file.mux(video.encode(frame))
        if audio is not None:
            channels = len(av.AudioLayout(layout).channels)
            samples = int(hertz * max(count / rate, Fraction(1, 10)))
            tone = 0.25 * np.sin(2 * np.pi * 440 * np.arange(samples) / hertz)
            loud = np.array([1.0] + [0.5] * (channels - 1))[:, None]  # the first channel is the loudest
            for start in range(0, samples, 1024):
                part = (loud * tone[start:start + 1024]).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout=layout)
                frame.sample_rate, frame.pts, frame.time_base = hertz, start, Fraction(1, hertz)
                file.mux(audio.encode(frame))
        for stream in (video, audio):
            if stream is not None:
                file.mux(stream.encode(None))
    return path


MATRIX = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


def turned(path: Path, degrees: int) -> Path:
    """The same mp4 with a display matrix that turns it clockwise, as phones write one."""
    a, b, c, d = (value << 16 for value in MATRIX[degrees])
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # version 0: the matrix stands 40 bytes behind the name
    content[at:at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def cut(path: Path) -> Path:
    """A file that ends in the middle, as of a download that broke off."""
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
    return path


def clips() -> dict[str, Callable[[], Path]]:
    """Twenty and more; each is made when it is asked for."""
    made: dict[str, Callable[[], Path]] = {}
    for text in ("12.5", "15", "24000/1001", "25", "30000/1001", "50", "60000/1001", "120000/1001", "1/2", "1", "240"):
        made[f"rate {text}"] = lambda text=text: clip(f"r{text.replace('/', '_')}.mp4", rate=Fraction(text))
    for layout in ("mono", "stereo", "2.1", "4.0", "5.0", "5.1"):
        made[f"flac {layout}"] = lambda layout=layout: clip(f"l{layout}.mkv", sound=("flac", layout, 48_000))
        made[f"pcm {layout}"] = lambda layout=layout: clip(f"p{layout}.mov", sound=("pcm_s16le", layout, 44_100))
        made[f"aac {layout}"] = lambda layout=layout: clip(f"a{layout}.mp4", sound=("aac", layout, 48_000))
    made["pcm 24 bit"] = lambda: clip("p24.mov", sound=("pcm_s24le", "stereo", 96_000))
    made["pcm float"] = lambda: clip("pf.mkv", sound=("pcm_f32le", "stereo", 48_000))
    for hertz in (8_000, 11_025, 22_050, 44_100, 96_000, 192_000):
        made[f"hertz {hertz}"] = lambda hertz=hertz: clip(f"h{hertz}.mkv", sound=("flac", "stereo", hertz))
    made |= {
        "ten bit": lambda: clip("ten.mkv", pix_fmt="yuv420p10le"),
        "sixteen bit": lambda: clip("sixteen.mkv", codec="ffv1", pix_fmt="gbrp16le"),
        "grey": lambda: clip("grey.mkv", codec="ffv1", pix_fmt="gray"),
        "alpha": lambda: clip("alpha.mkv", codec="ffv1", pix_fmt="bgra"),
        "full chroma": lambda: clip("444.mkv", pix_fmt="yuv444p"),
        "one frame": lambda: clip("one.mp4", count=1, sound=None),
        "silent": lambda: clip("silent.mp4", sound=None),
        "variable": lambda: clip("vfr.mkv", times=lambda index: index + index // 2),
        "turned": lambda: turned(clip("turned.mp4"), 90),
        "turned 180": lambda: turned(clip("turned180.mp4"), 180),
        "turned 270": lambda: turned(clip("turned270.mp4"), 270),
        "turned square": lambda: turned(clip("square.mp4", size=(64, 64)), 90),
        "odd size": lambda: clip("odd.mkv", codec="ffv1", pix_fmt="yuv444p", size=(63, 49)),
        "tiny": lambda: clip("tiny.mkv", codec="ffv1", pix_fmt="yuv444p", size=(2, 2)),
        "wide": lambda: clip("wide.mkv", codec="ffv1", pix_fmt="yuv420p", size=(2048, 16)),
        "gif": lambda: clip("g.gif", codec="gif", pix_fmt="rgb8", rate=Fraction(10), sound=None),
        "sound alone": lambda: clip("sound.m4a", picture=False),
        "cut off": lambda: cut(clip("cut.mp4")),
    }
    return made


def white(frame: torch.Tensor) -> str:
    """Which half of a frame is white."""
    height, width = frame.shape[0] // 2, frame.shape[1] // 2
    halves = {"left": frame[:, :width], "right": frame[:, width:], "top": frame[:height], "bottom": frame[height:]}
    return max(halves, key=lambda name: float(halves[name].mean()))


def through(nodes: Any, path: Path, fps: float) -> dict[str, Any]:
    """Retake's clip at a frame rate, and the sound for the file."""
    edit = importlib.import_module("pack_x_path.nodes.conditions.edit")
    video = InputImpl.VideoFromFile(str(path))
    [made] = edit.RetakeNode.execute(start=0.1, end=0.5, regenerate="video", video=video)[0]
    source = made.source
    found = {"frames": len(source.frames), "size": list(source.frames.shape[1:]), "picks": len(source.picks(fps)),
             "fps": float(source.fps), "finite": bool(torch.isfinite(source.frames).all()),
             "white": white(source.frames[0])}
    if source.audio is not None:
        sound = source.audio
        found |= {"channels": sound.waveform.shape[1], "seconds": sound.seconds, "hertz": sound.sample_rate,
                  "peaks": sound.waveform[0].abs().amax(1).tolist()}
    return found


def masks() -> dict[str, torch.Tensor]:
    """For 9 frames of 64 x 48."""
    half = torch.zeros(48, 64)
    half[:, :32] = 1
    soft = torch.linspace(0, 1, 48 * 64).reshape(1, 48, 64)
    return {
        "empty": torch.zeros(1, 48, 64), "full": torch.ones(1, 48, 64), "half": half[None], "plain": half,
        "each": half.expand(9, -1, -1), "soft": soft, "dot": torch.ones(1, 1, 1), "tall": torch.ones(1, 4000, 2),
        "huge": half[None].repeat_interleave(60, 1).repeat_interleave(60, 2), "bits": half[None].bool(),
        "bytes": half[None].to(torch.uint8), "half precision": half[None].half(), "double": half[None].double(),
        "three": half.expand(3, -1, -1), "none": torch.zeros(0, 48, 64), "flat": torch.zeros(1, 0, 64),
        "nan": torch.full((1, 48, 64), torch.nan), "255": 255 * half[None], "negative": half[None] - 1,
        "images": torch.zeros(1, 48, 64, 3), "slightly over": half[None] * 1.0001}


def masked(mask: torch.Tensor) -> dict[str, Any]:
    """What of a small latent grid a mask opens, after Inpaint."""
    edit = importlib.import_module("pack_x_path.nodes.conditions.edit")
    core = importlib.import_module("pack_x_path.ltx23_core.conditioning.mask")
    grid = importlib.import_module("pack_x_path.ltx23_core.geometry").VideoGrid(2, 2, 2)
    [made] = edit.InpaintNode.execute(mask=mask, images=torch.zeros(9, 48, 64, 3))[0]
    cells = core.latent_mask(made.mask, range(9), grid, (48, 64))
    return {"cells": [round(value, 3) for value in cells.flatten().tolist()]}


def main() -> None:
    """Every clip and every mask."""
    nodes, results = import_pack(PACK), {}
    for name, make in clips().items():
        try:
            path = make()
        except Exception as error:  # this FFmpeg has no such codec: told, not hidden
            results[name] = {"not made": f"{type(error).__name__}: {error}"}
            continue
        try:
            results[name] = through(nodes, path, 24.0)
        except Exception as error:
            results[name] = {"error": type(error).__name__, "text": str(error)}
    for name, mask in masks().items():
        try:
            results[f"mask {name}"] = masked(mask)
        except Exception as error:
            results[f"mask {name}"] = {"error": type(error).__name__, "text": str(error)}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
