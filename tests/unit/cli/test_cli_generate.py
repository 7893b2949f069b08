"""The command line end to end on the tiny model: an mp4 with picture and sound, or a sentence and nothing."""
from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from ltx23_core.cli.parser import main

from ...support.tiny_model import copy_companion, copy_model, environment, run

COMMAND = [sys.executable, "-m", "ltx23_core"]
SMALL = ["--prompt", "A red fox trots through fresh snow.", "--width", "64", "--height", "64", "--frames", "9"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options that name the tiny model."""
    checkpoint, encoder = copy_model(tmp_path_factory.mktemp("model"))
    return ["--checkpoint", str(checkpoint), "--text-encoder", str(encoder)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
         ) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs a command in `tmp_path` as a process would, without the seconds that its imports take.

    One process of its own is in this file too, and more are in test_readme.py.
    """
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        code = main(arguments)
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    return command


def check_video(path: Path, frames: int = 9, rate: Fraction = Fraction(24)) -> dict:
    """Frames, size, rate and sound of a video as they must be; returns the settings in its metadata."""
    with av.open(str(path)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert (video.width, video.height, video.average_rate) == (64, 64, rate)
        assert (audio.rate, audio.channels) == (48000, 2)
        settings = json.loads(file.metadata["ltx23"])
        pictures = np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video)])
    with av.open(str(path)) as file:
        sound = np.concatenate([f.to_ndarray() for f in file.decode(audio=0)], axis=1)
    assert len(pictures) == frames
    assert pictures.std() > 1
    assert np.isfinite(sound).all() and sound.std() > 1e-5
    assert 0.5 * frames / rate < sound.shape[1] / 48000 <= frames / rate + 0.05
    return settings


def test_one_stage(tmp_path: Path, model: list[str], here: Callable) -> None:
    done = here("generate", *SMALL, *model, "--steps", "2", "--fps", "23.976", "--cfg", "2", "--seed", "7",
                "-o", "out.mp4")
    assert done.returncode == 0, done.stderr
    settings = check_video(tmp_path / "out.mp4", rate=Fraction(24000, 1001))
    assert (settings["recipe"], settings["seed"], settings["steps"]) == ("one_stage", 7, 2)
    assert settings["guidance"]["video"]["cfg"] == 2 and settings["guidance"]["audio"]["cfg"] == 7
    assert str(tmp_path) not in json.dumps(settings)
    assert "Sampling" in done.stderr and "2/2" in done.stderr and "9/9" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_overlay_then_distilled_with_images(tmp_path: Path, model: list[str], here: Callable) -> None:
    upscaler = copy_companion("spatial-upscaler-x2", tmp_path)
    lora = copy_companion("distilled-lora", tmp_path)
    Image.effect_noise((70, 50), 60).save(tmp_path / "a.png")
    done = here("overlay", model[1], *model[2:], "--upsampler", str(upscaler), "--distilled-lora", str(lora),
                "-o", "tiny.json")
    assert done.returncode == 0, done.stderr
    assert "transformer: " in done.stdout and "upsampler_x2: " in done.stdout
    done = run([*COMMAND, "generate", *SMALL, "--overlay", "tiny.json", "--recipe", "distilled", "--image", "a.png",
                "--image", "a.png@-1:0.5", "--crf", "20", "--quiet", "-o", "out.mp4"], tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
    settings = check_video(tmp_path / "out.mp4")
    assert settings["images"] == [{"file": "a.png", "frame": 0, "strength": 1.0},
                                  {"file": "a.png", "frame": -1, "strength": 0.5}]


def test_loras(tmp_path: Path, model: list[str], here: Callable) -> None:
    lora = copy_companion("distilled-lora", tmp_path)
    done = here("generate", *SMALL, *model, "--steps", "1", "--lora", f"{lora.name}:0.5", "--lora", lora.name,
                "--lora-mode", "runtime", "-o", "out.mp4")
    assert done.returncode == 0, done.stderr
    assert check_video(tmp_path / "out.mp4")["loras"] == [{"file": lora.name, "strength": 0.5},
                                                          {"file": lora.name, "strength": 1.0}]


@pytest.mark.parametrize(("options", "words"), [
    (["--lora", "no.safetensors"], "no.safetensors cannot be read"),
    (["--width", "70"], "Use 64 or 96"), (["--frames", "10"], "Use 9 or 17"), (["--image", "no.png"], "no file no.png"),
    (["--recipe", "distilled"], "distilled LoRA"), (["--device", "cuda:9"], "Choose auto"),
    (["--rescale", "2"], "from 0 to 1"), (["--fps", "0"], "fps is 0")])
def test_impossible_requests_are_refused_before_any_work(tmp_path: Path, model: list[str], options: list[str],
                                                         words: str, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", *SMALL, *model, *options, "-o", "out.mp4"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert words in message
    assert message.startswith("Error: ") and "Encoding" not in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", ["missing/out.mp4", "out.avi"])
def test_impossible_output_is_refused(model: list[str], output: str, here: Callable) -> None:
    done = here("generate", *SMALL, *model, "-o", output)
    assert done.returncode == 2 and done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
    assert logging.getLogger("ltx23").level == logging.NOTSET, "how much is said ends with the command"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize(("moment", "number", "code"), [
    ("Sampling:", signal.SIGINT, 130), ("Decoding:", signal.SIGINT, 130), ("Decoding:", signal.SIGTERM, 143)])
def test_a_stopped_run_leaves_nothing(tmp_path: Path, model: list[str], moment: str, number: int, code: int) -> None:
    """Stopped while sampling, and while a large clip is being decoded and written."""
    size = ["--frames", "161", "--width", "256", "--height", "256", "--cfg", "1", "--audio-cfg", "1", "--stg", "0",
            "--audio-stg", "0", "--modality", "1", "--audio-modality", "1", "--steps", "1"]
    command = [*COMMAND, "generate", *SMALL, *model, *(size if moment == "Decoding:" else ["--steps", "5000"]),
               "-o", "out.mp4"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE,  # below a shell's "&"
                               preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))  # an interrupt is ignored
    try:
        seen = b""
        while moment.encode() not in seen:
            seen += process.stderr.read1(4096) or pytest.fail(seen.decode())
        deadline = time.monotonic() + 300
        while moment == "Decoding:" and not list(tmp_path.glob(".*.part")) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(number)
        rest = process.communicate(timeout=300)[1]
    finally:
        process.kill()  # where something above failed, it must not run on
    assert process.returncode == code, (seen + rest).decode()
    assert b"Traceback" not in rest
    assert list(tmp_path.iterdir()) == []
