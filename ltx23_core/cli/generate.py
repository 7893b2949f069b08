"""What the commands of `cli` do: each takes the parsed options and calls the library."""
from __future__ import annotations

import dataclasses
import json
import logging
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import torch
from tqdm import tqdm

from ..conditioning.image import ImageCondition
from ..errors import OutOfMemoryError
from ..lora.settings import Lora
from ..media import check_output_path, load_image, write_video
from ..overlay import Overlay, materialize
from ..pipeline import Pipeline
from ..plan.decide import Decision
from ..plan.guidance import Guidance, GuiderParams
from ..plan.latents import Latents
from ..plan.recipes import IMAGE_CRF
from ..plan.settings import Settings
from ..run.progress import StepInfo
from ..version import __version__
from ..workers.opening import open_pipeline

# Options that are fields of `Settings`.
SETTINGS = ("recipe", "width", "height", "frames", "fps", "seed", "steps", "noise_device", "easy_cache")
_SCALES = ("cfg", "stg", "modality", "rescale")
_GUIDANCE = (*_SCALES, *map("audio_{}".format, _SCALES), "stg_blocks")


def overlay(options: Namespace) -> None:
    """Write a manifest and print what it holds."""
    print(_materialize(options, options.output).report())


def generate(options: Namespace) -> None:
    """Make one video. What can be wrong with the request is looked at before any weights are read."""
    start = time.perf_counter()
    others, ours, say = logging.WARNING, logging.INFO, _say
    if options.quiet:
        others, ours, say = logging.ERROR, logging.ERROR, _silence
    logging.basicConfig(format="%(message)s", level=others)
    logging.getLogger("ltx23").setLevel(ours)
    check_output_path(options.output)
    conditions = _conditions(options)
    source = Overlay.load(options.overlay) if options.overlay else _materialize(options)
    pipe = open_pipeline(source, options.devices, device=options.device, dtype=options.dtype,
                         attention=options.attention, lora_mode=options.lora_mode, memory=options.memory,
                         weight_dtype=options.weight_dtype, matmul_dtype=options.matmul_dtype,
                         prompt_cache=options.prompt_cache)
    if not pipe.leads:
        options.quiet, say = True, _silence
        logging.getLogger("ltx23").setLevel(logging.ERROR)
    pipe = pipe.with_loras([Lora(lora.path, lora.strength, mode=options.lora_mode) for lora in options.lora])
    settings = Settings(**_given(options, SETTINGS), guidance=_guidance(options, pipe), conditions=conditions)
    plan = pipe.plan(settings)
    clip = plan.decision.clip
    say(f"{source.sources[0].path.name} ({source.variant}), {pipe.residency.device}, "
        f"{str(pipe.dtype).removeprefix('torch.')}\n{plan}")
    try:
        prompt = options.prompt
        if options.enhance:
            prompt = pipe.once(lambda: _enhanced(options, pipe, conditions, plan.decision.seed, say))
        say("Encoding the prompt")
        context = pipe.encode(prompt, options.negative_prompt)
        with StepBar(options.quiet) as bar:
            latents = plan.run(context, bar)
        metadata = {"ltx23": _metadata(options, source, prompt, plan.decision, settings)}
        frames = _write(pipe, latents, options, metadata)
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfMemoryError(f"{pipe.residency.device} ran out of memory at {clip.width}x{clip.height}, "
                               f"{clip.frames} frames", "enough free device memory",
                               "Close other programs that use the device, or choose a smaller size or fewer "
                               "frames.") from error
    say(f"{options.output}: {frames} frames, {frames / latents.fps:.2f} s, made in {time.perf_counter() - start:.1f} s")


class StepBar:
    """Progress of sampling on standard error; to be called after every step."""

    def __init__(self, quiet: bool) -> None:
        self._bar = tqdm(desc="Sampling", unit="step", disable=quiet)

    def __enter__(self) -> StepBar:
        """Enter the block in which steps are reported."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Leave the bar on the screen as it stands."""
        self._bar.close()

    def __call__(self, info: StepInfo) -> None:
        """Advance to a step."""
        self._bar.total = info.steps
        if info.stages > 1:
            self._bar.set_description(f"Sampling, stage {info.stage} of {info.stages}", refresh=False)
        self._bar.update(info.step - self._bar.n)


def _write(pipe: Pipeline, latents: Latents, options: Namespace, metadata: dict[str, str]) -> int:
    """Decode into the output file; returns the number of frames."""
    if not pipe.leads:  # tiles for the rank that writes
        return sum(map(len, pipe.decode_video(latents.video, eight_bit=True)))
    frames, sound = pipe.decode_clip(latents.video, latents.audio)
    chunks = _counted(frames, latents.frames, options.quiet)
    return write_video(options.output, chunks, latents.fps, sound, metadata=metadata)


def _counted(chunks: Iterable[torch.Tensor], frames: int, quiet: bool) -> Iterator[torch.Tensor]:
    """Pass chunks of frames on and show how many have gone by."""
    with tqdm(total=frames, desc="Decoding", unit="frame", disable=quiet) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk))


def _enhanced(options: Namespace, pipe: Pipeline, conditions: Sequence[ImageCondition], seed: int,
              say: Callable[[str], None]) -> str:
    """The prompt as the text encoder writes it out, which is printed too; it sees the picture of the first frame."""
    first = None
    for condition in reversed(conditions):
        if condition.frame == 0:
            first = condition.image
    say("Enhancing the prompt")
    prompt = pipe.enhance(options.prompt, first, seed=seed)
    print(prompt, flush=True)
    return prompt


def _metadata(options: Namespace, source: Overlay, prompt: str, plan: Decision, settings: Settings) -> str:
    """What made the video, as JSON for its metadata. File names only: folders would tell about the computer."""
    clip, guidance = plan.clip, settings.guidance
    images = [{"file": i.path.name, "frame": i.frame, "strength": i.strength} for i in options.image]
    loras = [{"file": lora.path.name, "strength": lora.strength} for lora in options.lora]
    given = {}
    if options.enhance:
        given["enhanced_from"] = options.prompt
    made = {"recipe": plan.recipe.name, "width": clip.width, "height": clip.height, "frames": clip.frames,
            "fps": clip.fps, "seed": plan.seed, "steps": settings.steps}
    return json.dumps({
        "version": __version__, "checkpoint": source.sources[0].path.name, "overlay": source.id,
        "prompt": prompt, **given, "negative_prompt": options.negative_prompt, **made,
        "guidance": guidance and dataclasses.asdict(guidance), "images": images,
        "loras": loras}, ensure_ascii=False)


def _materialize(options: Namespace, output: Path | None = None) -> Overlay:
    return materialize(options.checkpoint, options.text_encoder, upsamplers=options.upsampler,
                       distilled_lora=options.distilled_lora, components=options.component, variant=options.variant,
                       output=output)


def _conditions(options: Namespace) -> tuple[ImageCondition, ...]:
    crf = _or(options.crf, IMAGE_CRF)
    return tuple(ImageCondition(load_image(image.path), image.frame, image.strength, crf) for image in options.image)


def _guidance(options: Namespace, pipe: Pipeline) -> Guidance | None:
    """The recipe's guidance with the given values put in; None, the recipe's own, if none is given.

    A recipe without guidance starts from none, so that ``--cfg 2`` adds this one pass and no other.
    """
    if not _given(options, _GUIDANCE):
        return None
    recipe = pipe.recipe(options.recipe)
    official = recipe.guidance(pipe.transformer_config.layers)
    streams = []
    for prefix, params in (("", official.video), ("audio_", official.audio)):
        if not recipe.guided:
            params = GuiderParams(stg_blocks=params.stg_blocks)
        given = _given(options, ["stg_blocks"])
        for name in _SCALES:
            value = getattr(options, prefix + name)
            if value is not None:
                given[name] = value
        streams.append(dataclasses.replace(params, **given))
    return Guidance(*streams)


def _given(options: Namespace, names: Iterable[str]) -> dict[str, object]:
    """Those of some options that were given."""
    found = {}
    for name in names:
        value = getattr(options, name)
        if value is not None:
            found[name] = value
    return found


def _or(value: object, default: object) -> object:
    return default if value is None else value


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _silence(text: str) -> None:
    """Print nothing."""
