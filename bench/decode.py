"""Decoding a video: each way's peak against what it says, its seconds, the way that a budget gets, and an mp4.

    python -m bench decode --sizes c --frames 121,1001 --memory 4 [--all-ways] [--repeats 3] [--tiny]

Random decoders of the true shapes. With ``--memory`` the process may take no more from the device, so a plan that does
not hold fails. The mp4 needs PyAV, which is said where it is missing; the column behind its seconds is the time beside
the device's. Random weights decode to noise, the most work that an encoder can have: so another row writes smooth
moving frames in its place, as the decoder's leave the device, and one writes those without a decoder.

With ``--sound`` picture and sound are decoded in turn and beside each other, to bytes on the host and into an mp4,
alternately in one run: medians of both, the median of the ratios of neighbours with its range, and whether bytes agree.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ltx23_core.config import AudioVAEConfig, VideoVAEConfig, VocoderConfig
from ltx23_core.decode.beside import Beside, behind_chunks
from ltx23_core.decode.frames import LEAVE_TOGETHER, leaving
from ltx23_core.decode.sound import decode_sound
from ltx23_core.decode.tiles import auto_tiling
from ltx23_core.decode.ways import AUTO_TILING, Way, ways
from ltx23_core.geometry import audio_latent_length, video_grid
from ltx23_core.media.audio import Audio
from ltx23_core.media.image import to_uint8
from ltx23_core.memory.estimates import sound_beside_bytes
from ltx23_core.memory.room import SPARE, Need, first_fitting
from ltx23_core.models.registry import build

from .generate_weights import manifest_22b, random_tensor
from .measure import table
from .models import SIZES
from .sound_memory import module

SOUND_HEAD = ("size", "frames", "way", "what", "in turn, s", "beside, s", "beside / in turn", "from", "to",
              "same bytes", "peak in turn, GB", "peak beside, GB", "planned beside, GB")
SMOOTH_FRAMES = 48  # after which they begin again, where they began
DETAILS = (9, 40, 180, 540)  # rows of the noise that smooth frames are enlarged from

HEAD = ("size", "frames", "way", "what", "seconds", "of the device's", "peak GB", "planned GB", "plan")


def random_decoder(device: torch.device, dtype: torch.dtype, tiny: bool) -> tuple[nn.Module, VideoVAEConfig]:
    """The video decoder with random weights, and its configuration."""
    config = json.loads(manifest_22b()[1]["config"])["vae"]
    if tiny:
        config = config | {"decoder_base_channels": 16, "latent_channels": 8}
    decoder = build("video_decoder", config)
    for name, value in decoder.state_dict().items():
        path, _, leaf = name.rpartition(".")
        tensor = random_tensor(name, tuple(value.shape), dtype, device)
        owner = decoder.get_submodule(path)
        if leaf in owner._parameters:
            tensor = nn.Parameter(tensor, requires_grad=False)
        setattr(owner, leaf, tensor)
    return decoder.eval(), VideoVAEConfig.from_dict(config)


class Bench:
    """One decoder, and what is measured of it.

    Args:
        tiny: few channels, on whatever device there is.
        repeats: runs of which the median is shown, after one that is not; 0: one run in all, of byte frames alone.
        folder: for the mp4.
    """

    def __init__(self, tiny: bool, repeats: int, folder: Path) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.decoder, self.config = random_decoder(self.device, self.dtype, tiny)
        self.weights = sum(value.numel() * value.element_size() for value in self.decoder.state_dict().values())
        self._repeats, self._folder = repeats, folder
        self.rows: list[list[object]] = []

    def latent(self, size: str, frames: int) -> Tensor:
        """Random, of a size of `SIZES` and so many frames."""
        width, height, _ = SIZES[size]
        grid = video_grid(width, height, frames)
        shape = 1, self.config.latent_channels, grid.frames, grid.height, grid.width
        return torch.randn(shape, device=self.device).to(self.dtype)

    def pixels(self, way: Way, latent: Tensor) -> Iterator[Tensor]:
        """Decoded, on the device."""
        return way.decoded(self.decoder, latent)

    def run(self, size: str, latent: Tensor, way: Way, file: bool) -> None:
        """Rows of one way: the device alone, frames on the host, and a file."""
        frames = 8 * latent.shape[2] - 7
        alone = None
        for name, call in self.calls(way, latent, file).items():
            try:
                taken, peak = self.measured(call)
            except torch.cuda.OutOfMemoryError as error:
                self.rows.append([size, frames, way.text, name, "DOES NOT FIT", str(error)[:60], "", "", ""])
                return
            alone = alone or taken
            planned = (self.weights + way.bytes) / 1e9
            says = ""
            if peak:
                says = "exceeded" if peak > planned else f"{100 * (planned / peak - 1):.1f} % above"
            row = [size, frames, way.text, name, taken, f"{taken / alone:.3f}x", f"{peak:.2f}", f"{planned:.2f}", says]
            self.rows.append(row)
            print("#", *row, flush=True)

    def calls(self, way: Way, latent: Tensor, file: bool) -> dict[str, Callable[[], object]]:
        """What is timed, by name."""
        def bytes_of() -> Iterator[Tensor]:
            return leaving(self.pixels(way, latent), eight_bit=True)

        if not self._repeats:
            return {"byte frames on the host": lambda: drained(bytes_of())}
        found = {"device alone": lambda: drained(self.pixels(way, latent)),
                 "byte frames on the host": lambda: drained(bytes_of())}
        if file:
            from ltx23_core.media.video import write_video
            path, frames = self._folder / "bench.mp4", 8 * latent.shape[2] - 7
            smooth = smooth_frames(32 * latent.shape[3], 32 * latent.shape[4], self.device)
            found["mp4"] = lambda: write_video(path, bytes_of(), 24.0)
            found["mp4 of smooth frames"] = lambda: write_video(path, replaced(bytes_of(), smooth), 24.0)
            found["mp4 of smooth frames, no decoder"] = lambda: write_video(
                path, replaced(torch.empty(frames, 0).split(LEAVE_TOGETHER), smooth), 24.0)
        return found

    @torch.no_grad()
    def measured(self, function: Callable[[], object]) -> tuple[float, float]:
        """Median seconds by the host's clock, and the peak in GB; the first call is not counted."""
        if self._repeats:
            function()
        runs = [self.once(function) for _ in range(max(self._repeats, 1))]
        times = sorted(taken for taken, _ in runs)
        return times[len(times) // 2], max(peak for _, peak in runs)

    @torch.no_grad()
    def once(self, function: Callable[[], object]) -> tuple[float, float]:
        """Seconds by the host's clock, and the peak in GB, 0 on a CPU."""
        cuda, peak = self.device.type == "cuda", 0.0
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        function()
        if cuda:
            torch.cuda.synchronize()
        taken = time.perf_counter() - begin
        if cuda:
            peak = torch.cuda.max_memory_allocated() / 1e9
        return taken, peak


class SoundBench:
    """A video decoder with the sound's, in turn and beside each other.

    Args:
        bench: with the video decoder.
        tiny: few channels.
    """

    def __init__(self, bench: Bench, tiny: bool) -> None:
        config = json.loads(manifest_22b()[1]["config"])
        if tiny:
            config["audio_vae"]["model"]["params"]["ddconfig"]["ch"] = 8
            config["vocoder"]["vocoder"]["upsample_initial_channel"] = 64
            config["vocoder"]["bwe"]["upsample_initial_channel"] = 32
        self._bench = bench
        self._configs = AudioVAEConfig.from_dict(config["audio_vae"]), VocoderConfig.from_dict(config["vocoder"])
        self._modules = (module("audio_decoder", config["audio_vae"], bench.device, bench.dtype),
                         module("vocoder", config["vocoder"], bench.device, torch.float32))
        self._weights = bench.weights
        for each in self._modules:
            self._weights += sum(value.numel() * value.element_size() for value in each.state_dict().values())
        self.rows: list[list[object]] = []

    def _sound(self, latent: Tensor, stays: bool = False) -> Tensor:
        return decode_sound(*self._modules, latent, self._configs, stays=stays)

    def _audio(self, waveform: Tensor) -> Audio:
        return Audio(waveform, self._configs[1].output_rate)

    def in_turn(self, way: Way, latent: Tensor, sound: Tensor, path: Path | None) -> list[Tensor]:
        """As where both have no room together; the sound and the frames, or those of a file nowhere but there."""
        waveform = self._sound(sound)
        chunks = leaving(self._bench.pixels(way, latent), eight_bit=True)
        return self._used(chunks, lambda: self._audio(waveform), path)

    def beside(self, way: Way, latent: Tensor, sound: Tensor, path: Path | None) -> list[Tensor]:
        """As `Pipeline.decode_clip` does it."""
        task = Beside(lambda: self._sound(sound, stays=True), self._bench.device)
        chunks = leaving(behind_chunks(self._bench.pixels(way, latent), task.start), eight_bit=True)
        made = self._used(chunks, lambda: self._audio(task.on_cpu()), path)
        task.meet()
        return made

    @staticmethod
    def _used(chunks: Iterator[Tensor], sound: Callable[[], Audio], path: Path | None) -> list[Tensor]:
        if path is None:
            return [*chunks, sound().waveform]
        from ltx23_core.media.video import write_video
        write_video(path, chunks, 24.0, sound)
        return []

    @torch.no_grad()
    def run(self, size: str, latent: Tensor, way: Way, folder: Path | None, repeats: int) -> None:
        """Rows of one way: bytes on the host, and where there is a folder a file."""
        frames = 8 * latent.shape[2] - 7
        vae, voices = self._configs
        length = audio_latent_length(frames, 24.0)
        sound = torch.randn(1, vae.latent_channels, length, vae.latent_bins, device=self._bench.device)
        sound = sound.to(self._bench.dtype)
        planned = self._weights + way.bytes + sound_beside_bytes(vae, voices, length, self._bench.dtype.itemsize)
        files: dict[str, Path | None] = {"bytes on the host": None}
        if folder is not None:
            files["mp4"] = folder / "sound.mp4"
        for name, path in files.items():
            calls = [partial(call, way, latent, sound, path) for call in (self.in_turn, self.beside)]
            same = _same(*[_result(call, path) for call in calls])
            pairs = [list(map(self._bench.once, calls)) for _ in range(repeats)]
            seconds = [[taken for taken, _ in pair] for pair in pairs]
            peaks = [[peak for _, peak in pair] for pair in pairs]
            turn, beside = map(statistics.median, zip(*seconds, strict=True))
            ratios = sorted(one / other for other, one in seconds)
            row = [size, frames, way.text, name, turn, beside, f"{statistics.median(ratios):.3f}x", f"{ratios[0]:.3f}",
                   f"{ratios[-1]:.3f}", same, *(f"{max(each):.2f}" for each in zip(*peaks, strict=True)),
                   f"{planned / 1e9:.2f}"]
            self.rows.append(row)
            print("#", *row, flush=True)


def _result(call: Callable[[], list[Tensor]], path: Path | None) -> list[Tensor] | bytes:
    """What a call makes, in a file or not; also its warm-up."""
    made = call()
    if path is None:
        return made
    return path.read_bytes()


def _same(one: list[Tensor] | bytes, other: list[Tensor] | bytes) -> bool:
    """Whether two results are the same bytes."""
    if isinstance(one, bytes):
        return one == other
    return all(map(torch.equal, one, other))


def drained(chunks: Iterator[Tensor]) -> None:
    """Take all of them, holding none."""
    for chunk in chunks:
        del chunk


def smooth_frames(height: int, width: int, device: torch.device) -> Tensor:
    """A picture with large and small details over which a camera goes round: (SMOOTH_FRAMES, H, W, 3) uint8, CPU."""
    picture = torch.full((1, 3, height, width), 0.5, device=device)
    for rows in DETAILS:
        noise = torch.rand(1, 3, rows, rows * width // height, device=device) - 0.5
        noise = functional.interpolate(noise, size=(height, width), mode="bicubic")
        picture += noise * DETAILS[0] / rows
    made = []
    for number in range(SMOOTH_FRAMES):
        angle = 2 * math.pi * number / SMOOTH_FRAMES
        place = torch.tensor([[[0.9, 0, 0.05 * math.cos(angle)], [0, 0.9, 0.05 * math.sin(angle)]]], device=device)
        grid = functional.affine_grid(place, list(picture.shape), align_corners=False)
        seen = functional.grid_sample(picture, grid, mode="bilinear", align_corners=False)
        made.append(to_uint8(seen[0].permute(1, 2, 0)).cpu())
    return torch.stack(made)


def replaced(chunks: Iterable[Tensor], frames: Tensor) -> Iterator[Tensor]:
    """Frames in place of those of chunks, over and over, as many of them at a time."""
    done = 0
    for chunk in chunks:
        places = (torch.arange(len(chunk)) + done) % len(frames)
        done += len(chunk)
        yield frames[places]


@torch.no_grad()
def agreement(bench: Bench, size: str) -> str:
    """How near the streamed clip and the official tiles are to the whole one, in the bench's precision."""
    latent = bench.latent(size, SIZES[size][2])
    [whole] = ways(bench.config, latent.shape, None, bench.dtype)
    want = torch.cat([chunk.cpu().float() for chunk in bench.pixels(whole, latent)], dim=2)
    found = []
    streamed = [way for way in ways(bench.config, latent.shape, AUTO_TILING, bench.dtype) if way.frames]
    for way in (*streamed, *ways(bench.config, latent.shape, auto_tiling(latent.shape), bench.dtype)):
        got = torch.cat([chunk.cpu().float() for chunk in bench.pixels(way, latent)], dim=2)
        error = (got - want).double().square().mean()
        found.append(f"{way.text}: {(10 * torch.log10(4 / error)).item():.1f} dB")
    return f"# {size}, to the whole clip: " + "; ".join(found)


def budgeted(bench: Bench, found: list[Way], budget: float | None) -> list[Way]:
    """The way that so many GB get."""
    if budget is None:
        return found[:1]
    need = Need("video_decoder", bench.weights)
    return [found[first_fitting([need], budget * 1e9 * (1 - SPARE), [way.bytes for way in found])]]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--sizes", type=lambda text: text.split(","), default=["a"], help=f"of {', '.join(SIZES)}")
    made.add_argument("--frames", type=lambda text: list(map(int, text.split(","))), help="default: the size's own")
    made.add_argument("--memory", type=float, help="GB that the process may take")
    made.add_argument("--all-ways", action="store_true", help="not only the one that is taken")
    made.add_argument("--agreement", action="store_true", help="also how near each way is to the whole clip")
    made.add_argument("--sound", action="store_true", help="also sound and picture in turn and beside each other")
    made.add_argument("--repeats", type=int, default=3, help="0: one run of byte frames, for its peak")
    made.add_argument("--tiny", action="store_true", help="few channels: a smoke run")
    made.add_argument("--out", type=Path, help="write the rows as JSON")
    return made


def main() -> None:
    """Command line."""
    args = parser().parse_args()
    torch.manual_seed(0)
    has_file = importlib.util.find_spec("av") is not None
    if not has_file:
        print("# no mp4: PyAV is not installed", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args.tiny, args.repeats, Path(folder))
        sounds = SoundBench(bench, args.tiny) if args.sound else None
        if args.agreement:
            print(agreement(bench, args.sizes[0]), flush=True)
        if args.memory is not None and bench.device.type == "cuda":
            total = torch.cuda.get_device_properties(bench.device).total_memory
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(args.memory * 1e9 / total)
        for size in args.sizes:
            for frames in args.frames or [SIZES[size][2]]:
                latent = bench.latent(size, frames)
                found = ways(bench.config, latent.shape, AUTO_TILING, bench.dtype)
                official = ways(bench.config, latent.shape, auto_tiling(latent.shape), bench.dtype)
                chosen = budgeted(bench, found, args.memory)
                if args.all_ways:
                    chosen = [way for way in found if way.frames] + official
                for way in chosen:
                    bench.run(size, latent, way, has_file)
                    if sounds is not None:
                        sounds.run(size, latent, way, Path(folder) if has_file else None, max(args.repeats, 1))
    print(table(HEAD, bench.rows))
    if sounds is not None:
        print(table(SOUND_HEAD, sounds.rows))
    if args.out:
        args.out.write_text(json.dumps(bench.rows + (sounds.rows if sounds else []), indent=1))


if __name__ == "__main__":
    main()
