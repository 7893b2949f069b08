"""Streamed mp4 writing: H.264 picture and AAC sound, nothing half-written, memory independent of the length."""
from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import av
import numpy as np
import torch

from ..atomic import publish_free, sweep, temporary_beside
from ..errors import NAN_FIX, MediaError
from ..ops.resample import resample
from .aside import made_ahead, use_aside
from .audio import Audio, AudioSource, as_float, as_stereo, is_finite
from .image import check_pixels, to_uint8
from .rate import frame_rate

# Quality of the official writer (spec/04 §6).
CRF, PRESET = 19, "veryfast"
# Macroblock-tree rate control of x264 (with AVX-512) is not the same twice where a row is no multiple of 8 macroblocks:
# 1 to 40 % of repeated encodes of smooth motion at 96, 192, 288 and 416 pixels differed, none of 128, 256, 768, 1920.
MBTREE_STEP = 128  # pixels
PARTS = ".*.mp4*.part"  # what a killed process leaves
BT709, LIMITED_RANGE = 1, 1  # codes of H.273, used for primaries, transfer and matrix alike
# Since version 17 PyAV starts a thread for each processor at each frame (#2200): frames beside each other wait less.
ONE_THREAD = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}
FALLBACK_SOUND_RATE = 48_000  # Hz, for rates that AAC does not have
# Frames that libx264 works on at once. Its own rule for so many processors, but bounded: 24 take 0.58 GB at 1920x1088
# (PyAV's default, slices of one frame, 0.16 GB with 16). It takes fewer itself where a frame has few rows.
MOST_ENCODERS = 24
CONVERTERS = 4  # threads that turn RGB into what the encoder takes: 5 ms a frame of 1920x1088 on one


def check_output_path(path: str | os.PathLike[str]) -> Path:
    """The path of a video to be written, refused if it cannot become one. Ask before hours of work, not after."""
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise MediaError(f"the output file is {path}", "a name that ends in .mp4",
                         f"Use {path.with_suffix('.mp4')}.")
    if path.is_dir():
        raise MediaError(f"the output {path} is a folder", "a file name",
                         "Name the file, for example out.mp4.")
    if not path.parent.is_dir():
        raise MediaError(f"there is no folder {path.parent}", "an existing folder for the video",
                         "Create the folder or choose another one.")
    return path


class VideoWriter:
    """Writes one mp4 file, frame by frame, in a ``with`` block.

    The file appears under its name only when the block ends well; an exception or interrupt in the block leaves
    neither the file nor its temporary. Sound is encoded alongside the picture, so that the two are interleaved.

    Args:
        path: ``.mp4`` file to write; an existing one is replaced at the end, unless there is ``next_path``.
        fps: frames a second; stored as an exact fraction.
        audio: sound of the whole video, or None, or what gives it when the first frames are written. Written as long
            as it is, shorter or longer than the picture; of a layout beyond stereo mixed down, at a rate that AAC does
            not have at 48 kHz.
        metadata: container tags (for example a prompt), each a string.
        crf: libx264 quality, 0 to 51, less is better.
        preset: libx264 speed preset.
        next_path: replaces nothing: where a file has the name by the end, it gives the next name to try, and `path`
            says in the end which one it was.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, audio: AudioSource = None, *,
                 metadata: Mapping[str, str] | None = None, crf: int = CRF, preset: str = PRESET,
                 next_path: Callable[[], Path] | None = None) -> None:
        """Check the request; nothing is opened before the first frames."""
        self.path, self.rate, self.frames = check_output_path(path), frame_rate(fps), 0
        self._samples, self._sample_rate, self._later = None, 0, None
        if callable(audio):
            self._later = audio
        elif audio is not None:
            self._samples, self._sample_rate = writable_sound(audio)
        self._next_path = next_path
        self._metadata, self._options = dict(metadata or {}), {"crf": str(crf), "preset": preset}
        self._position = 0  # samples already encoded
        self._part = temporary_beside(self.path, ".part")
        self._container: av.container.OutputContainer | None = None
        self._converters = ThreadPoolExecutor(CONVERTERS, "ltx23-yuv")  # a thread starts with its first frame
        self._size: tuple[int, int] | None = None

    def __enter__(self) -> VideoWriter:
        """Enter the block that writes the file."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Publish the file, or remove every trace of it."""
        try:
            if kind is None:
                self._finish()
        finally:
            self._converters.shutdown(cancel_futures=True)
            if self._container is not None:
                with contextlib.suppress(av.error.FFmpegError):  # a failed file has no trailer to write
                    self._container.close()
            self._part.unlink(missing_ok=True)

    def write(self, frames: torch.Tensor, unwanted: Callable[[], bool] = lambda: False) -> None:
        """Append frames: (f, H, W, 3) float in [0, 1] or uint8, every time the same even size.

        ``unwanted`` is asked before each: the rest is left out where it says so.
        """
        self._check_frames(frames)
        if self._container is None:
            self._open(*frames.shape[1:3])
        pixels = to_uint8(frames).cpu().contiguous().numpy()
        with readable_errors(self.path):
            for picture in made_ahead(self._converters, encodable, pixels, CONVERTERS):
                if unwanted():
                    return
                picture.pts, picture.time_base = self.frames, 1 / self.rate
                self._container.mux(self._video.encode(picture))
                self.frames += 1
                self._write_audio(until=self.frames / self.rate)

    def _open(self, height: int, width: int) -> None:
        """Create the temporary file and its streams."""
        if self._later is not None:
            self._samples, self._sample_rate = writable_sound(self._later())
        sweep(self.path.parent, PARTS)
        with readable_errors(self.path):
            options = mp4_options(self._metadata)
            self._container = av.open(str(self._part), "w", format="mp4", options=options)
        self._container.metadata.update(self._metadata)
        options = dict(self._options)
        if width % MBTREE_STEP:
            options["x264-params"] = "mbtree=0"
        self._video = self._container.add_stream("libx264", rate=self.rate, options=options)
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        context = self._video.codec_context
        # PyAV asks for slices of one frame at a time: they wait for each other, and what they cut is worse predicted.
        context.thread_type, context.thread_count = "FRAME", encoders()
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED_RANGE
        self._size = (height, width)
        if self._samples is not None:
            self._audio = self._container.add_stream("aac", rate=self._sample_rate, layout="stereo")

    def _write_audio(self, until: Fraction | None) -> None:
        """Encode the sound up to a time in seconds; None: all that is left."""
        if self._samples is None:
            return
        end = self._samples.shape[1]
        if until is not None:
            end = min(end, int(until * self._sample_rate))
        if end > self._position:
            block = np.ascontiguousarray(self._samples[:, self._position:end])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = self._sample_rate, self._position
            frame.time_base = Fraction(1, self._sample_rate)
            self._container.mux(self._audio.encode(frame))
            self._position = end

    def _finish(self) -> None:
        """Flush both encoders, bring the file to the disk, give it its name."""
        if self._container is None:
            raise MediaError("there are no frames", "at least one frame",
                             "Decode the video before writing it.")
        with readable_errors(self.path):
            self._write_audio(until=None)
            self._container.mux(self._video.encode(None))
            if self._samples is not None:
                self._container.mux(self._audio.encode(None))
            self._container.close()
            self._container = None
            self.path = publish_free(self._part, self.path, self._next_path)

    def _check_frames(self, frames: torch.Tensor) -> None:
        """Refuse what cannot be written, in words."""
        if frames.ndim != 4 or frames.shape[3] != 3:
            raise MediaError(f"the frames have shape {tuple(frames.shape)}", "(frames, height, width, 3)",
                             "Give RGB frames, channels last.")
        check_pixels(frames, "the picture")
        height, width = frames.shape[1:3]
        if height % 2 or width % 2 or not (height and width):
            raise MediaError(f"the frames are {width}x{height} pixels", "an even width and height",
                             f"Crop to {max(width // 2 * 2, 2)}x{max(height // 2 * 2, 2)}.")
        if self._size not in (None, (height, width)):
            raise MediaError(f"a frame is {width}x{height} pixels",
                             f"{self._size[1]}x{self._size[0]}, as the first", "Give all frames the same size.")
        if frames.is_floating_point() and not bool(torch.isfinite(frames).all()):
            raise MediaError(f"the picture holds NaN or infinity from frame {self.frames} on",
                             "finite pixels", NAN_FIX)


def write_aside(writer: VideoWriter, chunks: Iterable[torch.Tensor]) -> None:
    """Encode each chunk, as of `VideoWriter.write`, in a thread of its own while the iterator makes the next one."""
    use_aside(chunks, writer.write)


def write_video(path: str | os.PathLike[str], chunks: Iterable[torch.Tensor], fps: float,
                audio: AudioSource = None, *, metadata: Mapping[str, str] | None = None) -> int:
    """Write an mp4 from chunks (f, H, W, 3), float32 in [0, 1] or uint8, as they come; returns the number of frames.

    A chunk is encoded in a thread of its own while the iterator makes the next one. Nothing is left behind if the
    iterator raises. Raises `MediaError`. Quality: see `VideoWriter`.
    """
    with VideoWriter(path, fps, audio, metadata=metadata) as writer:
        write_aside(writer, chunks)
    return writer.frames


def encodable(pixels: np.ndarray) -> av.VideoFrame:
    """A frame, (H, W, 3) uint8 RGB, contiguous, as the encoder takes it."""
    # swscale assumes the BT.601 matrix unless told otherwise, whatever the stream's tags say.
    return av.VideoFrame.from_numpy_buffer(pixels, format="rgb24").reformat(
        format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG", **ONE_THREAD)


def encoders() -> int:
    """Frames that libx264 works on at once: the same file comes out wherever this is the same."""
    return min(processors() * 3 // 2, MOST_ENCODERS)


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def mp4_options(metadata: Mapping[str, str]) -> dict[str, str]:
    """The muxer's options: the index before the content, and tags of any name where there are some."""
    flags = "faststart"
    if metadata:
        flags += "+use_metadata_tags"
    return {"movflags": flags}


@contextlib.contextmanager
def readable_errors(path: Path) -> Iterator[None]:
    """Turn what FFmpeg or the file system says (disk full, no permission) into a `MediaError`."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{path} could not be written ({error})",
                         "free space and write access in its folder",
                         "Free some space, close programs that hold the file, or choose another folder.") from error


def writable_sound(audio: Audio) -> tuple[np.ndarray, int]:
    """A sound as the encoder takes it: ((2, samples) float32, rate); refuses batches and NaN."""
    waveform = audio.waveform
    if waveform.ndim == 2:
        waveform = waveform[None]
    if waveform.ndim != 3 or waveform.shape[0] != 1:
        raise MediaError(f"the sound has shape {tuple(audio.waveform.shape)}",
                         "(1, channels, samples): one waveform",
                         "Write one video for each item of a batch.")
    if not is_finite(waveform):
        raise MediaError("the sound holds NaN or infinity", "finite samples in [-1, 1]", NAN_FIX)
    stereo = as_stereo(as_float(waveform.detach())).cpu()
    rate = audio.sample_rate
    if rate not in _aac_rates():
        rate = FALLBACK_SOUND_RATE
    return resample(stereo, audio.sample_rate, rate)[0].numpy(), rate


@lru_cache(maxsize=1)
def _aac_rates() -> frozenset[int]:
    """Sample rates that the encoder of this FFmpeg has, in Hz."""
    return frozenset(av.Codec("aac", "w").audio_rates or (FALLBACK_SOUND_RATE,))
