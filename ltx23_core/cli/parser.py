"""The command line: arguments, help and errors. The work is done in `generate`.

Nothing here imports torch, so that ``--help`` and a mistyped option answer at once.
"""
from __future__ import annotations

import argparse
import logging
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from ..errors import LTX23Error
from ..plan.settings import ATTENTION, DTYPES, MATMUL_DTYPES, OPTIONS, WEIGHT_DTYPES
from ..workers.launcher import speaks

VARIANTS = ("auto", "dev", "distilled")
USER_ERROR, INTERRUPTED = 2, 130
_MODULES = {"fetch": ".fetch", "export": ".export", "identify": ".identify"}  # commands that need no torch
_STOPPED = {"fetch": "The same command continues the "
                     "download.", "export": "The same command continues the export."}
LORA_MODES = ("auto", "fused", "runtime")
LAYOUTS = ("diffusers", "monolith", "split", "transformer")

_DESCRIPTION = "LTX-2.3 without ComfyUI: a prompt becomes a video with sound."
_EXAMPLES = """\
examples:
  python -m ltx23_core overlay ltx-2.3-22b-dev.safetensors -o dev.json \\
      --text-encoder gemma-3-12b-it-qat-q4_0-unquantized
  python -m ltx23_core identify ComfyUI/models
  python -m ltx23_core generate --overlay dev.json --prompt "A red fox trots through fresh snow" -o fox.mp4
"""


@dataclass(frozen=True)
class ImageOption:
    """One ``--image``: a file, the frame it fixes and how strongly (1 = exactly)."""

    path: Path
    frame: int = 0
    strength: float = 1.0


def image_option(text: str) -> ImageOption:
    """Parse FILE[@FRAME[:STRENGTH]]. A file name may hold ``@`` and ``:`` itself."""
    match = re.fullmatch(r"(.+?)(?:@(-?\d+)(?::(\d*\.?\d+))?)?", text)
    if match is None:
        raise argparse.ArgumentTypeError("an image is FILE, FILE@FRAME or FILE@FRAME:STRENGTH")
    strength = float(match[3] or 1.0)
    if strength > 1.0:
        raise argparse.ArgumentTypeError(f"the strength of {text} is {strength:g}, it must lie between 0 and 1")
    return ImageOption(Path(match[1]), int(match[2] or 0), strength)


@dataclass(frozen=True)
class LoraOption:
    """One ``--lora``: a file and how strongly it acts."""

    path: Path
    strength: float = 1.0


def lora_option(text: str) -> LoraOption:
    """Parse FILE[:STRENGTH]. A file name may hold ``:`` itself."""
    match = re.fullmatch(r"(.+?)(?::([+-]?(?:\d+\.?\d*|\.\d+)))?", text)
    if match is None:
        raise argparse.ArgumentTypeError("a LoRA is FILE or FILE:STRENGTH")
    return LoraOption(Path(match[1]), float(match[2] or 1.0))


def block_list(text: str) -> tuple[int, ...]:
    """Parse ``28`` or ``14,28``."""
    words = text.split(",")
    if not all(word.strip().isascii() and word.strip().isdigit() for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of block numbers such as 28 or 14,28")
    return tuple(map(int, words))


def crf(text: str) -> int:
    """Parse an H.264 quality, 0 to 51."""
    if not (text.isascii() and text.isdigit() and int(text) <= 51):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to 51")
    return int(text)


def setting(name: str) -> Callable[[str], object]:
    """How a setting of `plan.settings` is read: a number within its bounds."""
    option = OPTIONS[name]

    def read(text: str) -> object:
        try:
            value = option.kind(text)
        except ValueError:
            value = text
        problem = option.problem(name, value)
        if problem:
            raise argparse.ArgumentTypeError(f"{problem[0]}, it must be {problem[1]}")
        return value

    return read


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="python -m ltx23_core", description=_DESCRIPTION, epilog=_EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    generate = commands.add_parser(
        "generate", help="make a video with sound from a prompt", allow_abbrev=False,
        description="Make an mp4 with sound. Options left out take the official default of the recipe.")
    _add_request(generate)
    _add_weights(generate)
    _add_video(generate)
    _add_guidance(generate)
    _add_running(generate)
    overlay = commands.add_parser(
        "overlay", help="describe the files of a model and write the manifest", allow_abbrev=False,
        description="Read the headers of the files, check every tensor against the architecture, write the "
                    "manifest (a few MB; no weights are copied) and print what was found.")
    overlay.add_argument("checkpoint", type=Path, metavar="CHECKPOINT",
                         help="LTX-2.3 checkpoint or transformer, or a folder (diffusers, split files), for "
                              "example ltx-2.3-22b-dev.safetensors")
    overlay.add_argument("-o", "--output", type=Path, metavar="FILE",
                         help="manifest to write (default: CHECKPOINT with .ltx23.json added)")
    _add_parts(overlay)
    _add_common(overlay)
    _add_fetch(commands)
    _add_export(commands)
    _add_identify(commands)
    return parser


def _add_identify(commands: argparse._SubParsersAction) -> None:
    identify = commands.add_parser(
        "identify", help="say in one sentence what a file or folder is", allow_abbrev=False,
        description="Read the headers of files or folders and say what each is, whether LTX-2.3 can use it, "
                    "and if not, what to do.")
    identify.add_argument("paths", nargs="+", type=Path, metavar="PATH",
                          help="file or folder; a folder of many models is listed")
    identify.add_argument("--json", action="store_true", help="print all that is known, as JSON")
    _add_common(identify)


def _add_request(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to make")
    group.add_argument("--prompt", required=True, metavar="TEXT", help="what is to be seen and heard")
    group.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.mp4",
                       help="video to write; an existing file is replaced when the new one is complete")
    group.add_argument("--negative-prompt", metavar="TEXT",
                       help="what is to be avoided; acts only with guidance (default: a list of picture "
                            "and sound defects)")
    group.add_argument("--enhance", action="store_true",
                       help="let the text encoder write the prompt out first, by --seed, and print it; it "
                            "looks at an --image at frame 0, which needs a text encoder with vision tower")


def _add_weights(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model files (an overlay, or a checkpoint and what goes with it)")
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument("--overlay", type=Path, metavar="FILE", help="manifest written by the overlay "
                                                                     "command")
    source.add_argument("--checkpoint", type=Path, metavar="FILE",
                        help="LTX-2.3 checkpoint, transformer or folder; its overlay is written beside it")
    _add_parts(parser, group)
    group.add_argument("--lora", type=lora_option, action="append", default=[], metavar="FILE[:STRENGTH]",
                       help="LoRA on top of the model, with a strength (default: 1); may be given several "
                            "times")
    group.add_argument("--lora-mode", choices=LORA_MODES, default="auto",
                       help="fused: into the weights, the official rounding; runtime: beside them; auto "
                            "(default): fused unless the strength changes between stages and there is room")


def _add_parts(parser: argparse.ArgumentParser, group: argparse._ArgumentGroup | None = None) -> None:
    group = group or parser.add_argument_group("files that go with the checkpoint")
    group.add_argument("--text-encoder", type=Path, metavar="PATH",
                       help="Gemma folder, for example gemma-3-12b-it-qat-q4_0-unquantized, or a single "
                            "file, for example gemma_3_12B_it_fp8_scaled.safetensors")
    group.add_argument("--component", type=Path, action="append", default=[], metavar="PATH",
                       help="further file or folder (VAE, text projection, tokenizer, ...); adds or replaces "
                            "the parts that it brings; may be given several times")
    group.add_argument("--upsampler", type=Path, action="append", default=[], metavar="FILE",
                       help="latent upscaler, needed by recipe distilled; may be given several times")
    group.add_argument("--distilled-lora", type=Path, metavar="FILE", help="distilled LoRA of the dev "
                                                                           "checkpoint")
    group.add_argument("--variant", choices=VARIANTS, default="auto",
                       help="what the checkpoint is; the files do not say, auto goes by the name (default: "
                            "auto)")


def _add_video(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("video (defaults: the official ones of the recipe)")
    for name, metavar in (("recipe", None), ("width", "PIXELS"), ("height", "PIXELS"), ("frames", "N"),
                          ("fps", "RATE"), ("seed", "N"), ("steps", "N"), ("noise_device", None),
                          ("easy_cache", "X")):
        _add_setting(group, name, metavar)
    group.add_argument("--image", type=image_option, action="append", default=[], metavar="FILE[@FRAME[:STRENGTH]]",
                       help="picture that the video shows at a frame (default: 0, the first; -1: the last) "
                            "with a strength of 0 to 1 (default: 1, exactly); may be given several times")
    group.add_argument("--crf", type=crf, metavar="N",
                       help="video compression given to the pictures first, 0 (none) to 51 (official: 33)")


def _add_setting(group: argparse._ArgumentGroup, name: str, metavar: str | None) -> None:
    """An option of the command line for a setting, with its text."""
    option, flag = OPTIONS[name], "--" + name.replace("_", "-")
    text = option.text.replace("%", "%%")
    if option.choices:
        group.add_argument(flag, choices=option.choices, default=option.shown, help=text)
    else:
        group.add_argument(flag, type=setting(name), metavar=metavar, help=text)


def _add_guidance(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "guidance (for recipe one_stage; distilled recipes are made to run without; official dev values in "
        "brackets)")
    for name, video, audio, neutral, words in (
            ("cfg", 3, 7, 1, "how closely {} follows the prompt"),
            ("stg", 1, 1, 0, "spatio-temporal guidance of {}: steadier form and motion"),
            ("modality", 3, 3, 1, "how closely {} follows {}"),
            ("rescale", 0.7, 0.7, 0, "how far the contrast of {} is brought back after guidance, 0 to 1")):
        for prefix, stream, other, default in (("", "the picture", "the sound", video),
                                               ("audio-", "the sound", "the picture", audio)):
            group.add_argument(f"--{prefix}{name}", type=float, metavar="X",
                               help=f"{words.format(stream, other)}; {neutral} = off ({default})")
    group.add_argument("--stg-blocks", type=block_list, metavar="LIST",
                       help="transformer blocks, from 0, that STG acts on, separated by commas (28)")


def _add_running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("running")
    group.add_argument("--device", default="auto", metavar="NAME",
                       help="cuda, cuda:1, mps or cpu (default: auto, the best there is)")
    group.add_argument("--devices", default="1", metavar="N",
                       help="on how many devices one video is made: a number, auto (all), names such as "
                            "cuda:0,cuda:2, or ray://HOST:PORT for a Ray cluster (default: 1); under torchrun "
                            "its processes share the work")
    group.add_argument("--dtype", choices=DTYPES, default="auto",
                       help="precision of weights and calculation (default: auto: bf16, but fp32 on a CPU)")
    _add_weight_dtype(group, "what the transformer's matrices are quantised to while they are read: they take "
                             "a half (fp8, int8, Q8_0) or 0.3 (Q4_K) of the memory, and the result changes a "
                             "little")
    group.add_argument("--matmul-dtype", choices=MATMUL_DTYPES, default=MATMUL_DTYPES[0],
                       help="arithmetic of the transformer's large products: fp8 and int8 are faster "
                            "where the device has them, bf16 weights are quantised to them while they "
                            f"are read, and the result changes a little (default: {MATMUL_DTYPES[0]})")
    group.add_argument("--memory", default="auto", metavar="GB",
                       help="how much of the device the weights may take: auto (what does not fit comes in "
                            "block by block), resident, stream (as little as possible), or a budget in GB "
                            "(default: auto)")
    group.add_argument("--prompt-cache", type=Path, metavar="FOLDER",
                       help="keep encoded prompts there, up to 2 GB of them, so that one which was used "
                            "before is not encoded again (default: they are not kept)")
    group.add_argument("--attention", choices=ATTENTION, default="auto",
                       help="attention kernel; results differ by rounding (default: auto, torch chooses)")
    group.add_argument("--quiet", action="store_true", help="no progress, no messages; errors are still "
                                                            "shown")
    _add_common(parser)


def _add_weight_dtype(group: argparse._ActionsContainer, text: str) -> None:
    group.add_argument("--weight-dtype", choices=WEIGHT_DTYPES, default=WEIGHT_DTYPES[0],
                       help=f"{text} (default: {WEIGHT_DTYPES[0]})")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_fetch(commands: argparse._SubParsersAction) -> None:
    fetch = commands.add_parser(
        "fetch", help="download model files from huggingface.co", allow_abbrev=False,
        description="Download model files, continue what was interrupted, check their hashes. A file in the "
                    "Hugging Face cache is linked, not downloaded again. For gated files log in first: `hf "
                    "auth login`, or set HF_TOKEN.")
    fetch.add_argument("names", nargs="*", metavar="NAME",
                       help="name from --list, with @REVISION if need be; or ORG/REPO[@REVISION]:PATH for a "
                            "file, ORG/REPO[@REVISION] for a model folder; or a file's address on "
                            "huggingface.co")
    fetch.add_argument("--list", action="store_true", help="print the names, with sizes and folders, and "
                                                           "stop")
    place = fetch.add_mutually_exclusive_group()
    place.add_argument("--to", type=Path, metavar="DIR", help="folder to put the files into")
    place.add_argument("--comfyui", type=Path, metavar="DIR",
                       help="ComfyUI's folder: each file goes to its place in models/")
    fetch.add_argument("--folder", metavar="NAME",
                       help="with --comfyui: folder in models/ for files that are not in --list, for example "
                            "loras")
    fetch.add_argument("--quiet", action="store_true", help="no progress; the results are still printed")
    _add_common(fetch)


def _add_export(commands: argparse._SubParsersAction) -> None:
    export = commands.add_parser(
        "export", help="write the model as real files for other tools", allow_abbrev=False,
        description="Copy the weights that an overlay describes into files that other tools read. Needs as "
                    "much space as the files have (less where the file system shares blocks) and little "
                    "memory. The same command continues after an interruption.")
    export.add_argument("--overlay", type=Path, required=True, metavar="FILE",
                        help="manifest written by the overlay command")
    export.add_argument("--layout", choices=LAYOUTS, required=True,
                        help="diffusers: a folder for LTX2Pipeline; monolith: the official single file; "
                             "split: ComfyUI's files in their folders; transformer: the first of these alone")
    _add_weight_dtype(export, "quantise the transformer's matrices, so that the next start reads a half of the "
                              "bytes or less; Q8_0 and Q4_K become a GGUF file (split, transformer)")
    export.add_argument("--device", default="auto", metavar="NAME",
                        help="with --weight-dtype: where it is computed: cuda, cuda:1, mps or cpu (default: "
                             "auto, the best there is)")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="DIR",
                        help="new or empty folder, or one with the same export begun")
    export.add_argument("--no-verify", action="store_true",
                        help="do not read the files back and compare them with their sources")
    export.add_argument("--quiet", action="store_true", help="no progress; the list of files is still "
                                                             "printed")
    _add_common(export)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse, and refuse what does not go together; exits with code 2 as argparse does."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.command == "generate" and options.overlay and (
            options.text_encoder or options.component or options.upsampler or options.distilled_lora
            or options.variant != "auto"):
        parser.error("--overlay already names all files: --text-encoder, --component, --upsampler, "
                     "--distilled-lora and --variant go with --checkpoint")
    if options.command == "fetch" and not options.list and not options.names:
        parser.error("fetch needs a NAME; --list prints those that are known")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for an error that the user can mend, 130 when interrupted."""
    options = parse(arguments)
    log = logging.getLogger("ltx23")
    level = log.level
    try:
        getattr(import_module(_MODULES.get(options.command, ".generate"), __package__), options.command)(options)
    except LTX23Error as error:
        if options.debug:
            raise
        if speaks():
            print(error_text(error), file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"\nStopped. {_STOPPED.get(options.command, 'Nothing was written.')}", file=sys.stderr)
        return INTERRUPTED
    finally:
        log.setLevel(level)  # how much a command says ends with it, where a program goes on after it
    return 0


def error_text(error: LTX23Error) -> str:
    """An error of the library as one paragraph for a terminal."""
    return textwrap.fill(f"Error: {error}", 100, break_long_words=False, break_on_hyphens=False)
