"""The command line without a model: options, help, errors, what is imported."""
from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from ltx23_core.cli import parser as cli
from ltx23_core.errors import RequestError
from tests.goldens.harness import CHECKPOINT

ROOT = Path(__file__).parents[3]
BASE = ["generate", "--prompt", "a fox", "-o", "out.mp4", "--overlay", "o.json"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ltx23_core", *arguments], cwd=ROOT, capture_output=True, text=True,
                          timeout=300)


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the command raise, without importing the real one."""
    def generate(options: object) -> None:
        raise error
    module = types.ModuleType("ltx23_core.cli.generate")
    module.generate = generate
    monkeypatch.setitem(sys.modules, "ltx23_core.cli.generate", module)
    monkeypatch.setattr("ltx23_core.cli.generate", module, raising=False)


@pytest.mark.parametrize(("text", "want"), [
    ("a.png", ("a.png", 0, 1.0)), ("a.png@24", ("a.png", 24, 1.0)), ("a.png@24:0.5", ("a.png", 24, 0.5)),
    ("C:\\pictures\\a.png@8:.25", ("C:\\pictures\\a.png", 8, 0.25)), ("me@home/a.png", ("me@home/a.png", 0, 1.0)),
    ("a@2.png@0:1", ("a@2.png", 0, 1.0)), ("a.png@0:0", ("a.png", 0, 0.0)), ("a.png@-1", ("a.png", -1, 1.0))])
def test_image_option(text: str, want: tuple[str, int, float]) -> None:
    option = cli.image_option(text)
    assert (option.path, option.frame, option.strength) == (Path(want[0]), *want[1:])


@pytest.mark.parametrize(("text", "want"), [
    ("a.safetensors", ("a.safetensors", 1.0)), ("a.safetensors:0.5", ("a.safetensors", 0.5)),
    ("C:\\loras\\a.safetensors", ("C:\\loras\\a.safetensors", 1.0)), ("a:b.safetensors:-1", ("a:b.safetensors", -1.0)),
    ("C:\\a.safetensors:.25", ("C:\\a.safetensors", 0.25)), ("a.safetensors:0", ("a.safetensors", 0.0))])
def test_lora_option(text: str, want: tuple[str, float]) -> None:
    option = cli.lora_option(text)
    assert (option.path, option.strength) == (Path(want[0]), want[1])


def test_image_strength_above_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.parse([*BASE, "--image", "a.png@0:1.5"])
    assert "between 0 and 1" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "want"), [("28", (28,)), ("14,28", (14, 28))])
def test_block_list(text: str, want: tuple[int, ...]) -> None:
    assert cli.block_list(text) == want


@pytest.mark.parametrize("text", ["", "a", "-1", "1,,2", "none"])
def test_wrong_block_list(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.parse([*BASE, f"--stg-blocks={text}"])
    assert "block numbers" in capsys.readouterr().err


def test_options_not_given_are_none() -> None:
    """So that the recipe's default stands."""
    options = cli.parse(BASE)
    for name in ("width", "height", "frames", "fps", "seed", "steps", "crf", "cfg", "audio_cfg", "stg", "audio_stg",
                 "modality", "audio_modality", "rescale", "audio_rescale", "stg_blocks", "negative_prompt"):
        assert getattr(options, name) is None, name
    assert options.recipe == options.device == options.dtype == options.attention == "auto"


def test_all_options_are_parsed() -> None:
    options = cli.parse([*BASE, "--negative-prompt", "", "--recipe", "one_stage", "--width", "64", "--height", "96",
                         "--frames", "9", "--fps", "23.976", "--seed", "7", "--steps", "2", "--image", "a.png",
                         "--image", "b.png@8:0.5", "--crf", "0", "--cfg", "2", "--audio-rescale", "0.1"])
    assert (options.width, options.height, options.frames, options.fps) == (64, 96, 9, 23.976)
    assert (options.seed, options.steps, options.crf, options.cfg, options.audio_rescale) == (7, 2, 0, 2.0, 0.1)
    assert options.negative_prompt == ""
    assert [i.frame for i in options.image] == [0, 8]


@pytest.mark.parametrize("arguments", [
    [], ["generate"], ["generate", "--prompt", "x", "-o", "a.mp4"], [*BASE, "--checkpoint", "c.safetensors"],
    [*BASE, "--text-encoder", "gemma"],
    [*BASE, "--width", "wide"], [*BASE, "--recipe", "best"], [*BASE, "--crf", "52"],
    [*BASE, "--steps", "0"], [*BASE, "--stg-b", "1"]])
def test_wrong_command_lines(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.parse(arguments)


def test_error_is_one_paragraph(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(monkeypatch, RequestError("width is 770 pixels", "a multiple of 32", "Use 768 or 800."))
    assert cli.main(BASE) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "Error: width is 770 pixels. Expected: a multiple of 32. Next: Use 768 or 800.\n"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, RequestError("a", "b", "c"))
    with pytest.raises(RequestError):
        cli.main([*BASE, "--debug"])


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    assert cli.main(BASE) == 130
    assert "Nothing was written" in capsys.readouterr().err


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(BASE)


def test_help_does_not_import_torch() -> None:
    code = ("import sys; from ltx23_core.cli import parser as cli\n"
            "try: cli.main(['generate', '--help'])\n"
            "except SystemExit: pass\n"
            "heavy = {'torch', 'numpy', 'av', 'PIL', 'transformers'} & set(sys.modules); sys.exit(len(heavy))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--stg-blocks" in done.stdout


def test_help_of_the_module() -> None:
    done = run("--help")
    assert done.returncode == 0 and "generate" in done.stdout and "overlay" in done.stdout


def test_choices_are_those_of_the_library() -> None:
    """They stand in the parser a second time so that it need not import torch."""
    from ltx23_core.lora.settings import MODES
    from ltx23_core.ops.attention import BACKENDS
    from ltx23_core.overlay.manifest import VARIANTS
    from ltx23_core.runtime.device import DTYPES
    assert ("auto", *VARIANTS) == cli.VARIANTS
    assert tuple(BACKENDS) == cli.ATTENTION
    assert ("auto", *DTYPES) == cli.DTYPES
    assert cli.LORA_MODES == MODES


@pytest.mark.parametrize(("command", "missing"), [(["-m", "ltx23_core", "identify", str(CHECKPOINT)], "filelock"),
                                                  (["pool.py", "--help"], "aiohttp")])
def test_a_python_without_the_packages(command: list[str], missing: str) -> None:
    """What somebody sees who takes the system's Python: one sentence, no traceback."""
    done = subprocess.run([sys.executable, "-S", *command], cwd=ROOT, capture_output=True, text=True, check=False,
                          env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"})
    assert done.returncode == 1 and f"has no {missing}. Expected: " in done.stderr and "Next: " in done.stderr
    assert "Traceback" not in done.stderr
