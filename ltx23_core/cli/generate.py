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
from typing import Any

import torch
from tqdm import tqdm

from ..conditioning.image import ImageCondition
from ..errors import OutOfMemoryError
from ..geometry import check_size
from ..lora.settings import Lora
from ..media import check_output_path, load_image, write_video
from ..overlay import Overlay, materialize
from ..pipeline import Pipeline
from ..plan.guidance import Guidance, GuiderParams
from ..plan.latents import Latents
from ..plan.recipes import IMAGE_CRF
from ..run.progress import StepInfo
from ..version import __version__

# Options of `Pipeline.sample` that go there under their own names; what is not given is the recipe's.
_OWN = ("width", "height", "frames", "fps", "seed")
_SCALES = ("cfg", "stg", "modality", "rescale")
_GUIDANCE = (*_SCALES, *(f"audio_{name}" for name in _SCALES), "stg_blocks")


def overlay(options: Namespace) -> None:
    """Write a manifest and print what it holds."""
    print(_materialize(options, options.output).report())


def generate(options: Namespace) -> None:
    """Make one video. What can be wrong with the request is looked at before any weights are read."""
    start = time.perf_counter()
    logging.basicConfig(format="%(message)s", level=logging.ERROR if options.quiet else logging.WARNING)
    logging.getLogger("ltx23").setLevel(logging.ERROR if options.quiet else logging.INFO)
    check_output_path(options.output)
    conditions = _conditions(options)
    source = Overlay.load(options.overlay) if options.overlay else _materialize(options)
    pipe = Pipeline.load(source, device=options.device, dtype=options.dtype, attention=options.attention,
                         lora_mode=options.lora_mode, memory=options.memory)
    pipe = pipe.with_loras([Lora(lora.path, lora.strength, mode=options.lora_mode) for lora in options.lora])
    request = _request(options, pipe, conditions)
    say = _silence if options.quiet else _say
    say(f"{source.sources[0].path.name} ({source.variant}), recipe {request['recipe']}, {pipe.residency.device}, "
        f"{str(pipe.dtype).removeprefix('torch.')}")
    try:
        prompt = _enhanced(options, pipe, conditions, request["seed"], say) if options.enhance else options.prompt
        say("Encoding the prompt")
        context = pipe.encode(prompt, options.negative_prompt)
        with StepBar(options.quiet) as bar:
            latents = pipe.sample(context, **request, conditions=conditions, on_step=bar)
        frames = _write(pipe, latents, options, {"ltx23": _settings(options, source, prompt, request)})
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfMemoryError(f"{pipe.residency.device} ran out of memory at {request['width']}x{request['height']}, "
                               f"{request['frames']} frames", "enough free device memory",
                               "Close other programs that use the device, or choose a smaller size or fewer "
                               "frames.") from error
    say(f"{options.output}: {frames} frames, {frames / latents.fps:.2f} s, made in {time.perf_counter() - start:.1f} s")


def _request(options: Namespace, pipe: Pipeline, conditions: Sequence[ImageCondition]) -> dict[str, Any]:
    """Arguments of `Pipeline.sample`: what was given, else the official defaults; refused if it cannot be."""
    recipe = pipe.recipe(options.recipe)
    own = {name: _or(getattr(options, name), getattr(recipe, name)) for name in _OWN}
    check_size(**{name: own[name] for name in _OWN[:4]}, step=recipe.size_step)
    for condition in conditions:
        condition.frame_in(own["frames"])
    return {"recipe": recipe.name, **own, "steps": options.steps, "guidance": _guidance(options, pipe)}


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
    audio = None if latents.audio is None else pipe.decode_audio(latents.audio)
    chunks = _counted(pipe.decode_frames(latents.video), latents.frames, options.quiet)
    return write_video(options.output, chunks, latents.fps, audio, metadata=metadata)


def _counted(chunks: Iterable[torch.Tensor], frames: int, quiet: bool) -> Iterator[torch.Tensor]:
    """Pass chunks of frames on and show how many have gone by."""
    with tqdm(total=frames, desc="Decoding", unit="frame", disable=quiet) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk))


def _enhanced(options: Namespace, pipe: Pipeline, conditions: Sequence[ImageCondition], seed: int,
              say: Callable[[str], None]) -> str:
    """The prompt as the text encoder writes it out, which is printed too; it sees the picture of the first frame."""
    first = next((condition.image for condition in conditions if condition.frame == 0), None)
    say("Enhancing the prompt")
    prompt = pipe.enhance(options.prompt, first, seed=seed)
    print(prompt, flush=True)
    return prompt


def _settings(options: Namespace, source: Overlay, prompt: str, request: dict[str, Any]) -> str:
    """What made the video, as JSON for its metadata. File names only: folders would tell about the computer."""
    images = [{"file": i.path.name, "frame": i.frame, "strength": i.strength} for i in options.image]
    guidance = request["guidance"]
    given = {"enhanced_from": options.prompt} if options.enhance else {}
    return json.dumps({
        "version": __version__, "checkpoint": source.sources[0].path.name, "overlay": source.id,
        "prompt": prompt, **given, "negative_prompt": options.negative_prompt, **request,
        "guidance": guidance and dataclasses.asdict(guidance), "images": images,
        "loras": [{"file": lora.path.name, "strength": lora.strength} for lora in options.lora]}, ensure_ascii=False)


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
    if all(getattr(options, name) is None for name in _GUIDANCE):
        return None
    recipe = pipe.recipe(options.recipe)
    official = recipe.guidance(pipe.transformer_config.layers)
    streams = []
    for prefix, params in (("", official.video), ("audio_", official.audio)):
        values = {name: getattr(options, prefix + name) for name in _SCALES}
        values["stg_blocks"] = options.stg_blocks
        given = {name: value for name, value in values.items() if value is not None}
        base = params if recipe.guided else GuiderParams(stg_blocks=params.stg_blocks)
        streams.append(dataclasses.replace(base, **given))
    return Guidance(*streams)


def _or(value: object, default: object) -> object:
    return default if value is None else value


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _silence(text: str) -> None:
    """Print nothing."""
