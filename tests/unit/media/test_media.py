"""Video files and condition images: what is written can be read back, and nothing half-written remains."""
from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from ltx23_core.errors import MediaError
from ltx23_core.media import (
    Audio,
    VideoWriter,
    compress_image,
    frame_rate,
    load_image,
    resize_and_crop,
    to_uint8,
    write_video,
)
from ltx23_core.media.video import encodable, encoders

RATE = 48000


def tone(seconds: float, hertz: float = 440.0, rate: int = RATE) -> Audio:
    """A sine on the left, one of twice the frequency on the right."""
    t = torch.arange(int(seconds * rate)) / rate
    return Audio(torch.stack([torch.sin(2 * torch.pi * f * t) * 0.5 for f in (hertz, 2 * hertz)])[None], rate)


def clip(frames: int, height: int = 64, width: int = 96, chunk: int = 8) -> Iterator[torch.Tensor]:
    """A brightness ramp over time, in chunks."""
    for start in range(0, frames, chunk):
        values = torch.arange(start, min(start + chunk, frames)) / max(frames - 1, 1)
        yield values[:, None, None, None].expand(-1, height, width, 3)


def read_sound(path: Path) -> tuple[np.ndarray, av.AudioStream]:
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        frames = [f for f in file.decode(stream) if f.pts is not None]
        return np.concatenate([f.to_ndarray() for f in frames], axis=1), stream


def read_pictures(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])


@pytest.mark.parametrize(("fps", "rate"), [(24, Fraction(24)), (23.976, Fraction(24000, 1001)), (30.0, Fraction(30)),
                                           (29.97, Fraction(30000, 1001)), (12.5, Fraction(25, 2)), (25, Fraction(25)),
                                           (24000 / 1001, Fraction(24000, 1001)), (1, Fraction(1))])
def test_frame_rate_is_exact(fps: float, rate: Fraction) -> None:
    assert frame_rate(fps) == rate


@pytest.mark.parametrize("fps", [0, -24, float("nan"), float("inf")])
def test_impossible_frame_rate(fps: float) -> None:
    with pytest.raises(MediaError, match="frame rate"):
        frame_rate(fps)


@pytest.mark.parametrize("fps", [24, 23.976, 30])
def test_written_clip_reads_back(tmp_path: Path, fps: float) -> None:
    path, frames = tmp_path / "clip.mp4", 25
    seconds = frames / float(frame_rate(fps))
    assert write_video(path, clip(frames), fps, tone(seconds), metadata={"prompt": "a fox"}) == frames
    with av.open(str(path)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert video.average_rate == frame_rate(fps)
        assert (video.width, video.height) == (96, 64)
        assert video.codec_context.pix_fmt == "yuv420p"
        assert video.codec_context.name in ("h264", "libx264")
        context = video.codec_context
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
        assert float(video.duration * video.time_base) == pytest.approx(seconds, abs=1e-3)
        assert audio.codec_context.name == "aac"
        assert (audio.rate, audio.channels) == (RATE, 2)
        assert float(audio.duration * audio.time_base) == pytest.approx(seconds, abs=1e-3)
        assert file.metadata["prompt"] == "a fox"
    pictures = read_pictures(path)
    assert pictures.shape == (frames, 64, 96, 3)
    assert np.abs(pictures.mean((1, 2, 3)) - np.linspace(0, 255, frames)).max() < 6
    assert list(tmp_path.iterdir()) == [path]


def test_sound_keeps_frequency_and_channels(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", clip(48), 24, tone(2.0, 440.0))
    sound, _ = read_sound(tmp_path / "a.mp4")
    for channel, hertz in enumerate((440.0, 880.0)):
        spectrum = np.abs(np.fft.rfft(sound[channel][:RATE] * np.hanning(RATE)))
        assert np.argmax(spectrum) == pytest.approx(hertz, abs=2)
        assert np.sqrt(np.mean(sound[channel][4800:-4800] ** 2)) == pytest.approx(0.5 / 2**0.5, rel=0.05)


def test_sound_is_in_step_with_the_picture(tmp_path: Path) -> None:
    """A click in the middle stays where it was: the encoder's delay is declared in the file."""
    wave = torch.zeros(1, 2, RATE)
    wave[:, :, 24000:24010] = 0.9
    write_video(tmp_path / "a.mp4", clip(24), 24, Audio(wave, RATE))
    with av.open(str(tmp_path / "a.mp4")) as file:
        frames = [(f.pts * f.time_base, f.to_ndarray()) for f in file.decode(audio=0)]
    start, sound = frames[0][0], np.concatenate([f for _, f in frames], axis=1)
    click = float(start) + np.abs(sound[0]).argmax() / RATE
    assert click == pytest.approx(0.5, abs=2e-3)


def test_picture_and_sound_are_interleaved(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", clip(240), 24, tone(10.0))
    with av.open(str(tmp_path / "a.mp4")) as file:
        kinds = [p.stream.type for p in file.demux() if p.size]
    runs = [len(list(g)) for g in _runs(kinds)]
    assert max(runs) < 120


def _runs(kinds: list[str]) -> Iterator[list[str]]:
    run: list[str] = []
    for kind in kinds:
        if run and run[-1] != kind:
            yield run
            run = []
        run.append(kind)
    yield run


def test_colours_follow_the_tags(tmp_path: Path) -> None:
    """Y, Cb, Cr of pure red, green and blue are those of BT.709 in limited range, as the tags say."""
    want = {(1.0, 0.0, 0.0): (63, 102, 240), (0.0, 1.0, 0.0): (173, 42, 26), (0.0, 0.0, 1.0): (32, 240, 118)}
    frames = torch.tensor(list(want))[:, None, None, :].expand(-1, 64, 64, -1)
    write_video(tmp_path / "a.mp4", iter([frames]), 24)
    with av.open(str(tmp_path / "a.mp4")) as file:
        for frame, colour in zip(file.decode(video=0), want.values(), strict=True):
            got = [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[8, 8] for plane in frame.planes]
            assert np.abs(np.array(got, dtype=int) - colour).max() <= 2


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    """While a chunk is made, one is being encoded and one waits."""
    alive: list[weakref.ref] = []
    most = 0

    def chunks() -> Iterator[torch.Tensor]:
        nonlocal most
        for _ in range(30):
            chunk = torch.rand(4, 32, 32, 3)
            alive.append(weakref.ref(chunk))
            yield chunk
            del chunk
            gc.collect()
            most = max(most, sum(r() is not None for r in alive))

    write_video(tmp_path / "a.mp4", chunks(), 24)
    assert most <= 2


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def broken() -> Iterator[torch.Tensor]:
        yield from clip(16)
        end = time.monotonic() + 30
        while not any(p.suffix == ".part" for p in tmp_path.iterdir()):  # another thread writes
            assert time.monotonic() < end
            time.sleep(0.01)
        raise error

    with pytest.raises(error):
        write_video(tmp_path / "a.mp4", broken(), 24, tone(1.0))
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"older")
    with pytest.raises(MediaError, match="no frames"):
        write_video(path, iter([]), 24)
    assert path.read_bytes() == b"older"
    write_video(path, clip(1), 24)
    assert read_pictures(path).shape[0] == 1


def test_full_disk_is_said_in_words(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="file size limits exist on POSIX only")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(MediaError, match="could not be written"):
            write_video(tmp_path / "a.mp4", (torch.rand(8, 128, 128, 3) for _ in range(20)), 24)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(1, 63, 96, 3), (1, 64, 95, 3)])
def test_odd_size_is_refused_with_the_nearest_one(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(MediaError, match="even width and height.*Crop to"):
        write_video(tmp_path / "a.mp4", iter([torch.zeros(shape)]), 24)


@pytest.mark.parametrize(("frames", "words"), [
    (torch.zeros(1, 3, 64, 64), "channels last"), (torch.zeros(64, 64, 3), "channels last"),
    (torch.full((1, 64, 64, 3), float("nan")), "NaN"),
    *((torch.zeros(1, 64, 64, 3, dtype=dtype), f"pixels of {str(dtype)[6:]}.*65535 for 16 bits")
      for dtype in (torch.int16, torch.uint16, torch.int32, torch.bool))])
def test_wrong_frames(tmp_path: Path, frames: torch.Tensor, words: str) -> None:
    with pytest.raises(MediaError, match=words):
        write_video(tmp_path / "a.mp4", iter([frames]), 24)


def test_size_change_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="as the first"), VideoWriter(tmp_path / "a.mp4", 24) as writer:
        writer.write(torch.zeros(1, 32, 32, 3))
        writer.write(torch.zeros(1, 32, 64, 3))


@pytest.mark.parametrize("waveform", [torch.zeros(2, 2, 100), torch.zeros(1, 0, 100), torch.zeros(100),
                                      torch.full((2, 100), float("nan")), torch.full((1, 1, 9), float("inf"))])
def test_wrong_sound(tmp_path: Path, waveform: torch.Tensor) -> None:
    with pytest.raises(MediaError, match="sound|waveform"):
        write_video(tmp_path / "a.mp4", clip(1), 24, Audio(waveform, RATE))


@pytest.mark.parametrize("samples", [0, 1, 100, 30000, 60000])
def test_sound_of_another_length_is_kept(tmp_path: Path, samples: int) -> None:
    write_video(tmp_path / "a.mp4", clip(24), 24, Audio(torch.zeros(2, samples), RATE))
    assert read_pictures(tmp_path / "a.mp4").shape[0] == 24


@pytest.mark.parametrize(("name", "words"), [("a.avi", "ends in .mp4"), ("missing/a.mp4", "no folder")])
def test_wrong_output_path(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(MediaError, match=words):
        write_video(tmp_path / name, clip(1), 24)


def test_to_uint8_rounds_and_clamps() -> None:
    values = torch.tensor([-0.5, 0.0, 0.499 / 255, 0.501 / 255, 1.0, 1.5])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255]


def test_compression_changes_a_little_and_more_with_crf() -> None:
    grid = torch.linspace(0, 6, 100)
    image = ((torch.sin(grid[:, None] * 7) * torch.cos(grid[None, :] * 5) + 1) / 2)[..., None].expand(-1, -1, 3)
    image = to_uint8((image + 0.1 * torch.rand(100, 100, 3, generator=torch.manual_seed(0))).clamp(0, 1))
    errors = [(compress_image(image, crf).float() - image.float()).abs().mean().item() for crf in (10, 33, 45)]
    assert 0 < errors[0] < errors[1] < errors[2] < 30
    assert compress_image(image, 33).shape == image.shape
    assert torch.equal(compress_image(image, 0), image)


def test_compression_crops_to_even_size() -> None:
    image = torch.full((35, 41, 3), 90, dtype=torch.uint8)
    out = compress_image(image, 33)
    assert out.shape == (34, 40, 3) and out.dtype == torch.uint8
    assert (out.int() - 90).abs().max() <= 3
    assert compress_image(image, 0).shape == image.shape


@pytest.mark.parametrize(("shape", "crf"), [((1, 8, 3), 33), ((8, 8, 3), 52), ((8, 8, 3), -1), ((8, 8, 4), 33)])
def test_compression_refuses(shape: tuple[int, ...], crf: int) -> None:
    with pytest.raises(MediaError):
        compress_image(torch.zeros(shape, dtype=torch.uint8), crf)


def test_compression_equals_a_file_round_trip(tmp_path: Path) -> None:
    """The same bits as through a one-frame mp4 file, which is how the step is defined."""
    image = torch.randint(0, 256, (64, 48, 3), dtype=torch.uint8, generator=torch.manual_seed(1))
    with av.open(str(tmp_path / "i.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=1, options={"crf": "33", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 48, 64, "yuv420p"
        frame = av.VideoFrame.from_ndarray(image.numpy(), format="rgb24").reformat(format="yuv420p")
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert np.array_equal(read_pictures(tmp_path / "i.mp4")[0], compress_image(image, 33).numpy())


def test_float_image_equals_uint8_image() -> None:
    image = torch.randint(0, 256, (40, 30, 3), dtype=torch.uint8, generator=torch.manual_seed(2))
    same = resize_and_crop(image.float() / 255, 32, 64)
    assert torch.allclose(resize_and_crop(image, 32, 64), same, atol=1e-5)
    assert same.shape == (1, 3, 1, 32, 64) and same.min() >= -1 and same.max() <= 1


def test_load_image_applies_exif_and_drops_alpha(tmp_path: Path) -> None:
    picture = Image.new("RGB", (20, 10), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "turned.png", exif=exif)
    assert load_image(tmp_path / "turned.png").shape == (20, 10, 3)
    Image.new("RGBA", (4, 6), (1, 2, 3, 0)).save(tmp_path / "alpha.png")
    assert load_image(tmp_path / "alpha.png")[0, 0].tolist() == [1, 2, 3]
    Image.fromarray(np.full((4, 4), 257 * 100, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert load_image(tmp_path / "deep.png")[0, 0].tolist() == [100, 100, 100]


def test_load_image_errors(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no file"):
        load_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(MediaError, match="not an image"):
        load_image(tmp_path / "text.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:1500])
    with pytest.raises(MediaError, match="cannot be read"):
        load_image(tmp_path / "cut.png")


def test_the_encoder_works_on_frames_and_not_on_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libx264 writes its settings into the stream: the official ones, and threads of frames, as many as is said."""
    monkeypatch.setattr("ltx23_core.media.video.processors", lambda: 4)
    write_video(tmp_path / "a.mp4", clip(9, 256, 256), 24)
    said = (tmp_path / "a.mp4").read_bytes()
    for setting in (b"crf=19.0", b"me=hex subme=2", b"rc_lookahead=10", b"sliced_threads=0", b" threads=6 "):
        assert setting in said


@pytest.mark.parametrize(("count", "want"), [(1, 1), (2, 3), (16, 24), (128, 24)])
def test_encoders_are_bounded(count: int, want: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltx23_core.media.video.processors", lambda: count)
    assert encoders() == want


def test_frames_beside_each_other_are_converted_like_one_alone(tmp_path: Path) -> None:
    """With all threads of swscale, as PyAV would, or with one: the same bytes."""
    frames = torch.randint(0, 256, (7, 136, 202, 3), dtype=torch.uint8, generator=torch.manual_seed(3)).numpy()
    for frame in frames:
        want = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        assert np.array_equal(encodable(frame).to_ndarray(), want.to_ndarray())


def test_frames_that_are_not_wanted_any_more_are_left_out(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 24) as writer:
        writer.write(torch.zeros(20, 32, 32, 3), lambda: writer.frames == 5)
    assert writer.frames == 5


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    """At a width where x264's own default differs in 40 of 100 repeats on a processor with AVX-512."""
    generator = torch.Generator().manual_seed(1)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 14, generator=generator), size=(128, 160),
                                             mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    frames = torch.stack([smooth[i:i + 64, 2 * i:2 * i + 96] for i in range(17)])
    files = set()
    for _ in range(25):
        write_video(tmp_path / "a.mp4", [frames], 24.0)
        files.add((tmp_path / "a.mp4").read_bytes())
    assert len(files) == 1
