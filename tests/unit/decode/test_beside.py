"""Sound beside the picture: the same bytes, only where there is room, and one that ends ends the other.

A GPU's second stream has no part here: what decides, and the order in which one thread asks for both, is the same.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ltx23_core import Audio, Latents, Overlay, Pipeline, coding
from ltx23_core.config import VideoVAEConfig
from ltx23_core.decode.beside import AHEAD, Beside, behind_chunks, gains
from ltx23_core.decode.ways import AUTO_TILING, Way, ways
from ltx23_core.errors import MediaError, RequestError
from ltx23_core.memory.room import LOST, Memory
from ltx23_core.models.audio.vocoder import Vocoder
from ltx23_core.plan.decide import decide
from ltx23_core.plan.settings import Settings
from ltx23_core.runtime.residency import LocalResidency
from tests.unit.memory.test_sound_estimates import VAE, VOICES

PICTURE = torch.randn(1, 8, 14, 2, 2, generator=torch.Generator().manual_seed(7))  # 105 frames in four chunks
HEARD = torch.randn(1, 2, 9, 16, generator=torch.Generator().manual_seed(8))
FRAMES = 105
CPU = torch.device("cpu")


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that passes for a device on which it gains."""
    monkeypatch.setattr(coding, "gains", lambda device: True)


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Chunks of the picture and the sound, as they are asked for."""
    told: list[str] = []
    frames, sound = Way.decoded, coding.decode_sound

    def picture(way: Way, *args: Any) -> Iterator[Tensor]:
        for chunk in frames(way, *args):
            told.append("chunk")
            yield chunk

    monkeypatch.setattr(Way, "decoded", picture)
    monkeypatch.setattr(coding, "decode_sound", lambda *a, **k: told.append("sound") or sound(*a, **k))
    return told


def fresh(overlay: Overlay, budget: int | None = None, **options: Any) -> Pipeline:
    return Pipeline(overlay, dtype="fp32", residency=LocalResidency(CPU, budget, **options))


def both(pipe: Pipeline) -> tuple[Tensor, Audio]:
    frames, sound = pipe.decode_clip(PICTURE, HEARD)
    made = torch.cat(list(frames))
    return made, sound()


def bytes_of(pipe: Pipeline) -> tuple[int, int, int]:
    """Weights of all three, what the best way takes, and the sound beside it."""
    config = VideoVAEConfig.from_dict(pipe.overlay.require("video_decoder").config)
    way, *_ = ways(config, PICTURE.shape, AUTO_TILING, torch.float32)
    weights = sum(pipe.component(name).size_bytes for name in coding.BOTH)
    return weights, way.bytes, coding.Sound(pipe._shared, HEARD).bytes_beside


# Where it is done

def test_it_is_for_gpus() -> None:
    assert gains(torch.device("cuda", 1)) and not gains(CPU) and not gains(torch.device("mps"))


def test_on_a_cpu_the_sound_comes_first(tiny_overlay: Overlay, order: list[str]) -> None:
    both(fresh(tiny_overlay))
    assert order[:2] == ["sound", "chunk"] and order.count("sound") == 1


def test_the_device_has_two_chunks_to_do_while_the_sound_is_asked_for(beside: None, tiny_overlay: Overlay,
                                                                      order: list[str]) -> None:
    pipe = fresh(tiny_overlay)
    frames, sound = pipe.decode_clip(PICTURE, HEARD)
    assert not order, "nothing before the first frames are wanted"
    first = next(frames)
    assert order == ["chunk", "chunk", "sound"], "the second chunk was made, and not handed on"
    wave = sound()
    assert len(first) + sum(map(len, frames)) == FRAMES and order.count("sound") == 1
    assert torch.equal(wave.waveform, pipe.decode_audio(HEARD).waveform) and wave.sample_rate == 48000


@pytest.mark.parametrize("count", [0, 1, AHEAD, AHEAD + 2])
def test_it_is_asked_for_once_before_the_first_chunks_can_be_used(count: int) -> None:
    told: list[object] = []
    for number, chunk in enumerate(behind_chunks(iter([torch.zeros(1)] * count), lambda: told.append("sound"))):
        assert ("sound" in told) == (number >= AHEAD - 1)
        del chunk
    assert told == ["sound"]


def test_the_bytes_are_those_of_one_after_the_other(tiny_overlay: Overlay, monkeypatch: pytest.MonkeyPatch,
                                                    tmp_path: Path) -> None:
    """Frames, sound and file."""
    pipe = fresh(tiny_overlay)
    latents = Latents(PICTURE, HEARD, fps=24.0, frames=FRAMES, seed=1)
    want = both(pipe)
    pipe.decode_to_file(latents, tmp_path / "turn.mp4")
    monkeypatch.setattr(coding, "gains", lambda device: True)
    frames, sound = both(pipe)
    assert torch.equal(frames, want[0]) and torch.equal(sound.waveform, want[1].waveform)
    pipe.decode_to_file(latents, tmp_path / "beside.mp4")
    assert (tmp_path / "beside.mp4").read_bytes() == (tmp_path / "turn.mp4").read_bytes()


def test_a_given_sound_or_none_changes_nothing(beside: None, tiny_overlay: Overlay, order: list[str]) -> None:
    pipe, given = fresh(tiny_overlay), Audio(torch.zeros(1, 2, 100), 48000)
    for sound in (given, None):
        frames, got = pipe.decode_clip(PICTURE, sound)
        assert got is sound and sum(map(len, frames)) == FRAMES
    assert "sound" not in order


# The plan

def test_the_plan_counts_both(beside: None, tiny_overlay: Overlay, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ltx23")
    pipe = fresh(tiny_overlay, 10**9)
    weights, picture, sound = bytes_of(pipe)
    both(pipe)
    [line] = [text for text in caplog.messages if "peak" in text]
    assert "video decoder resident, audio decoder resident, vocoder resident, " in line
    assert ", the sound beside it; peak" in line
    assert line.endswith(f"peak {coding.gb(weights + picture + sound)}")


def test_the_line_of_a_run_counts_both(tiny_overlay: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = fresh(tiny_overlay, 10**10)
    decision = decide(Settings(width=768, height=512, frames=121, seed=1), pipe._shared.facts)
    turn = coding.stages(pipe._shared, decision)
    monkeypatch.setattr(coding, "gains", lambda device: True)
    *same, more = coding.stages(pipe._shared, decision)
    assert same == turn and [need.name for need in more.needs] == list(coding.BOTH)
    assert more.activations[0] > same[0].activations[0] + same[1].activations[0] and not more.ways
    for small in (fresh(tiny_overlay, more.activations[0]), fresh(tiny_overlay, memory="stream")):
        assert len(coding.stages(small._shared, decision)) == 2


@pytest.mark.parametrize("short", [False, True])
def test_with_little_memory_one_follows_the_other(beside: None, tiny_overlay: Overlay, order: list[str],
                                                  short: bool) -> None:
    """And the picture is decoded in the same way as if there were no sound: its bits are those."""
    weights, picture, sound = bytes_of(fresh(tiny_overlay))
    budget = weights + int((picture + sound) * (1 + LOST)) + 1
    pipe = fresh(tiny_overlay, budget - 1000 * short)
    frames, _ = both(pipe)
    assert order[0] == ("sound" if short else "chunk") and order.count("sound") == 1
    assert torch.equal(frames, torch.cat(list(pipe.decode_video(PICTURE, eight_bit=True))))


def test_nobody_leaves_for_it(beside: None, tiny_overlay: Overlay, order: list[str]) -> None:
    """Room that another part has is not taken for a tenth of a second."""
    pipe = fresh(tiny_overlay)
    weights, picture, sound = bytes_of(pipe)
    other = pipe.component("video_encoder")
    pipe = fresh(tiny_overlay, weights + int((picture + sound) * (1 + LOST)) + other.size_bytes // 2)
    pipe._use("video_encoder")
    both(pipe)
    assert order[0] == "sound" and pipe.component("video_encoder").loaded_bytes


def test_who_wants_as_little_as_possible_gets_that(beside: None, tiny_overlay: Overlay, order: list[str]) -> None:
    both(fresh(tiny_overlay, memory="stream"))
    assert order[0] == "sound"
    assert not LocalResidency(CPU, memory=Memory("stream")).has_room(activation_bytes=0)


@pytest.mark.parametrize("seconds", [5, 15, 42, 600])
def test_what_stays_on_the_device_is_counted(seconds: int) -> None:
    """A waveform of the 22B's rate, whole and twice, beside what a piece takes."""
    count = 25 * seconds
    alone = coding.sound_decode_bytes(VAE, VOICES, count, 2)
    more = coding.sound_beside_bytes(VAE, VOICES, count, 2) - alone
    assert more > 2 * 2 * 4 * 480 * (4 * count - 3)
    assert more < 2 * 2 * 4 * 480 * 4 * count + 120e6


# Errors and interrupts

class Failed(Exception):
    """Injected."""


def fail_in(monkeypatch: pytest.MonkeyPatch, error: BaseException, times: int = 10**6) -> list[int]:
    """The vocoder raises so often; returns the calls so far."""
    calls: list[int] = []
    real = Vocoder.forward

    def forward(self: Vocoder, mel: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return real(self, mel)

    monkeypatch.setattr(Vocoder, "forward", forward)
    return calls


def test_an_error_of_the_sound_ends_the_picture(beside: None, tiny_overlay: Overlay, order: list[str],
                                                monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fail_in(monkeypatch, Failed("of the sound"))
    with pytest.raises(Failed, match="of the sound"):
        fresh(tiny_overlay).decode_to_file(Latents(PICTURE, HEARD, fps=24.0, frames=FRAMES, seed=1), tmp_path / "a.mp4")
    assert order.count("chunk") <= AHEAD and not list(tmp_path.iterdir())


def test_a_broken_sound_is_refused_as_before(beside: None, tiny_overlay: Overlay, monkeypatch: pytest.MonkeyPatch,
                                             tmp_path: Path) -> None:
    real = Vocoder.forward
    monkeypatch.setattr(Vocoder, "forward", lambda self, mel: real(self, mel) * float("nan"))
    with pytest.raises(MediaError, match="the sound holds NaN or infinity"):
        fresh(tiny_overlay).decode_to_file(Latents(PICTURE, HEARD, fps=24.0, frames=FRAMES, seed=1), tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())
    with pytest.raises(RequestError, match="the audio latent holds NaN"):
        fresh(tiny_overlay).decode_clip(PICTURE, HEARD * float("nan"))


def test_an_error_of_the_picture_ends_the_sound(beside: None, tiny_overlay: Overlay, monkeypatch: pytest.MonkeyPatch,
                                                tmp_path: Path) -> None:
    """Whatever the device still does of it is done before what it reads may go."""
    met: list[str] = []
    monkeypatch.setattr(Beside, "meet", lambda self: met.append("met"))
    real = Way.decoded

    def failing(way: Way, *args: Any) -> Iterator[Tensor]:
        for number, chunk in enumerate(real(way, *args)):
            if number == 2:
                raise Failed("of the picture")
            yield chunk

    monkeypatch.setattr(Way, "decoded", failing)
    with pytest.raises(Failed, match="of the picture"):
        fresh(tiny_overlay).decode_to_file(Latents(PICTURE, HEARD, fps=24.0, frames=FRAMES, seed=1), tmp_path / "a.mp4")
    assert met and not list(tmp_path.iterdir())


class Stoppable(LocalResidency):
    """Interrupts at a check; counts bars."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        super().__init__(CPU, check=self._stopped)
        self._stop, self.bars = stop, 0

    def _stopped(self) -> None:
        if self._stop():
            raise KeyboardInterrupt

    def counting(self, checks: int) -> Any:
        self.bars += 1
        return super().counting(checks)


@pytest.mark.parametrize("inside", ["sound", "picture behind it"])
def test_an_interrupt_ends_both(beside: None, tiny_overlay: Overlay, order: list[str], inside: str,
                                monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    met: list[str] = []
    monkeypatch.setattr(Beside, "meet", lambda self: met.append("met"))

    def stop() -> bool:
        if inside == "sound":
            return "sound" in order
        return order.count("chunk") == AHEAD + 1

    pipe = Pipeline(tiny_overlay, dtype="fp32", residency=Stoppable(stop))
    with pytest.raises(KeyboardInterrupt):
        pipe.decode_to_file(Latents(PICTURE, HEARD, fps=24.0, frames=FRAMES, seed=1), tmp_path / "a.mp4")
    assert met and not list(tmp_path.iterdir())
    assert order.count("chunk") == (AHEAD if inside == "sound" else AHEAD + 1)


def test_the_bar_is_that_of_the_frames(beside: None, tiny_overlay: Overlay) -> None:
    """Loading counts, then nothing does but the one who takes the frames."""
    residency = Stoppable(lambda: False)
    pipe = Pipeline(tiny_overlay, dtype="fp32", residency=residency)
    both(pipe)
    assert residency.bars == len(coding.BOTH)


@pytest.mark.parametrize("part", ["sound", "picture"])
def test_a_device_that_had_less_gets_one_after_the_other(beside: None, tiny_overlay: Overlay, order: list[str],
                                                         monkeypatch: pytest.MonkeyPatch,
                                                         caplog: pytest.LogCaptureFixture, part: str) -> None:
    """First in the same way, so that the bits stay; what had left before is not given twice."""
    pipe = fresh(tiny_overlay)
    want, heard = torch.cat(list(pipe.decode_video(PICTURE, eight_bit=True))), pipe.decode_audio(HEARD)
    tries: list[Way] = []
    real = Way.decoded
    if part == "sound":
        fail_in(monkeypatch, torch.cuda.OutOfMemoryError("injected"), 1)

    def failing(way: Way, *args: Any) -> Iterator[Tensor]:
        tries.append(way)
        for number, chunk in enumerate(real(way, *args)):
            if part == "picture" and len(tries) == 1 and number == 2:
                raise torch.cuda.OutOfMemoryError("injected")
            yield chunk

    monkeypatch.setattr(Way, "decoded", failing)
    frames, sound = both(pipe)
    assert torch.equal(frames, want) and torch.equal(sound.waveform, heard.waveform)
    assert [way.frames for way in tries] == [tries[0].frames] * 2 and tries[1].bytes < tries[0].bytes
    assert "the sound beside it" in caplog.text
