"""LTX23DecodeVideo, LTX23DecodeAudio, LTX23DecodeToFile: from latents to frames, sound and files."""
from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ...ltx23_core.geometry import HEIGHT_SCALE, TIME_SCALE, WIDTH_SCALE
from ..checks import guarded
from ..host import outputs, progress
from ..latents import DEFAULT_FPS, check_together, samples_of, sound_at, sound_of
from ..sockets import Model, schema
from ..validation import before_the_run

if TYPE_CHECKING:
    from pathlib import Path

    from ...ltx23_core.pipeline import Pipeline

MODEL_TOOLTIP = "The model, from Load."


def _pixels(latent: torch.Tensor) -> tuple[int, int, int]:
    """Frames, height and width in pixels of a video latent (B, C, F', H', W')."""
    frames, height, width = latent.shape[-3:]
    return TIME_SCALE * (frames - 1) + 1, HEIGHT_SCALE * height, WIDTH_SCALE * width


class DecodeVideoNode(io.ComfyNode):
    """Decode a video latent to frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23DecodeVideo", display_name="Decode Video", aliases=["vae decode"],
            description="Decodes the video latent to images, a few frames at a time; in tiles where even "
                        "that has no room.",
            inputs=[
                Model.Input("model", tooltip=MODEL_TOOLTIP),
                io.Latent.Input("video", tooltip="Video latent, from Sampler."),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip=(
                "All frames, 0 to 1; those of a batch one after the other. They are held in RAM (121 frames "
                "of 768x512: 571 MB); for long videos use Decode To File."))],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, model: Pipeline, video: dict[str, Any] | None) -> io.NodeOutput:
        """Fill one tensor chunk by chunk, so that the frames are in RAM only once."""
        latent = samples_of(video, "video")
        frames, *size = _pixels(latent)
        images, start = torch.empty(len(latent) * frames, *size, 3), 0
        decoded = itertools.chain.from_iterable(map(model.decode_video, latent.split(1)))
        for chunk in progress.counted(len(images))(decoded):
            images[start:start + len(chunk)] = chunk
            start += len(chunk)
        return io.NodeOutput(images)


class DecodeAudioNode(io.ComfyNode):
    """Decode an audio latent to sound."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23DecodeAudio", display_name="Decode Audio", aliases=["audio vae decode", "vocoder"],
            description="Decodes the audio latent to stereo sound at 48 kHz.",
            inputs=[
                Model.Input("model", tooltip=MODEL_TOOLTIP),
                io.Latent.Input("audio", tooltip="Audio latent, from Sampler."),
            ],
            outputs=[io.Audio.Output(display_name="audio", tooltip=(
                "Stereo sound at 48 kHz, for CreateVideo; behind Source Audio the given sound itself."))],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, model: Pipeline, audio: dict[str, Any] | None) -> io.NodeOutput:
        """Decode with the audio VAE and the vocoder."""
        samples_of(audio, "audio")
        sound = sound_of(model, audio)
        return io.NodeOutput({"waveform": sound.waveform.float().cpu(), "sample_rate": sound.sample_rate})


class DecodeToFileNode(io.ComfyNode):
    """Decode video and sound straight into an mp4 in the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """An output node: it runs without anything behind it."""
        return schema(
            node_id="LTX23DecodeToFile", display_name="Decode To File",
            aliases=["save video", "vae decode", "mp4"],
            description="Decodes video and sound into an mp4 in the output folder, one for each result of a "
                        "batch. Frames go to the encoder as they are ready, so memory does not grow with the "
                        "length.",
            is_output_node=True,
            inputs=[
                Model.Input("model", tooltip=MODEL_TOOLTIP),
                io.Latent.Input("video", tooltip="Video latent, from Sampler."),
                io.Latent.Input("audio", tooltip=(
                    "Audio latent, from Sampler. Where it made none, the file is silent; where it made sound "
                    "alone, the file is an m4a.")),
                io.String.Input("filename_prefix", default="video/LTX-2.3", tooltip=(
                    "Start of the file name in ComfyUI's output folder; folders and the marks of ComfyUI's "
                    "Save nodes are allowed, such as %date:yyyy-MM-dd% and %Sampler.seed%. A number is "
                    "added. Default video/LTX-2.3.")),
                io.Float.Input("fps", optional=True, force_input=True, tooltip=(
                    "Frames per second of the file. Not linked: those of the latent, else 24. Another value "
                    "plays picture and sound out of step.")),
            ],
            outputs=[io.Video.Output(display_name="video", is_output_list=True, tooltip=(
                "The saved video, for nodes that take VIDEO; of a batch each in turn."))],
        )

    validate_inputs = before_the_run("filename_prefix", checks=[
        lambda given: outputs.refuse_output(given.get("filename_prefix", "video"))])

    @classmethod
    @guarded
    def execute(cls, model: Pipeline, video: dict[str, Any] | None, audio: dict[str, Any] | None,
                filename_prefix: str, fps: float | None = None) -> io.NodeOutput:
        """Stream the frames to the next free file name of the prefix, the sound beside them or before."""
        outputs.refuse_output(filename_prefix)
        with progress.heard() as notes:
            check_together(video, audio)
        if notes:
            progress.say("\n".join(notes))
        if video is None:
            return _sound_files(model, audio, filename_prefix, cls.hidden)
        from ...ltx23_core.media.video import VideoWriter, write_aside

        latent, saved, begin = samples_of(video, "video"), [], time.perf_counter()
        frames, height, width = _pixels(latent)
        files = outputs.OutputFiles(filename_prefix, width, height, cls.hidden)
        counted = progress.counted(frames * len(latent))
        for index, one in enumerate(latent.split(1)):
            chunks, sound = model.decode_clip(one, None if audio is None else sound_at(audio, index))
            with VideoWriter(files.next(), fps or video.get("fps", DEFAULT_FPS), sound,
                             metadata=outputs.metadata(cls.hidden), next_path=files.next) as writer:
                write_aside(writer, counted(chunks))
            saved.append(writer.path)
        titles = _titles(saved, video.get("seed"))
        progress.say("\n".join([*titles, f"decoded in {time.perf_counter() - begin:.1f} s"]))
        return outputs.saved_videos(saved, titles)


def _titles(saved: Sequence[Path], seed: int | None) -> list[str]:
    """What to call each result: its seed, where that is known, and its file."""
    titles = []
    for index, path in enumerate(saved):
        title = path.name
        if seed is not None:
            title = f"seed {seed + index}: {path.name}"
        titles.append(title)
    return titles


def _sound_files(model: Pipeline, audio: dict[str, Any], prefix: str,
                 hidden: io.HiddenHolder) -> io.NodeOutput:
    """Files of a run that made sound alone, one for each sample."""
    from ...ltx23_core.media.sound_file import write_sound

    files, saved = outputs.OutputFiles(prefix, 0, 0, hidden, ".m4a"), []
    for index in range(len(samples_of(audio, "audio"))):
        sound = sound_of(model, audio, index)
        path = files.next()
        saved.append(write_sound(path, sound, metadata=outputs.metadata(hidden), next_path=files.next))
    return outputs.saved_sounds(saved)
