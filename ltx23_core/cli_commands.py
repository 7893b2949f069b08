"""What the commands of `cli` do: each takes the parsed options and calls the library."""
from __future__ import annotations

import dataclasses
import json
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from .conditioning import ImageCondition
from .errors import RequestError
from .media import check_output_path, load_image, write_video
from .overlay import Overlay, materialize
from .pipeline import Pipeline, StepInfo
from .recipes import default_guidance

if TYPE_CHECKING:
    import torch

    from .sampling.guidance import Guidance, GuiderParams

# Options that go to Pipeline.sample under their own names; None means: the recipe's default.
_SAMPLING = ("width", "height", "frames", "fps", "seed", "steps")


def overlay(options: Namespace) -> None:
    """Write a manifest and print what it holds."""
    print(_materialize(options, options.checkpoint, options.output).report())


def generate(options: Namespace) -> None:
    """Make one video. Everything that can be wrong with the request is looked at before weights are read."""
    start = time.perf_counter()
    check_output_path(options.output)
    conditions = _conditions(options)
    source = Overlay.load(options.overlay) if options.overlay else _materialize(options, options.checkpoint)
    pipe = Pipeline.load(source, device=options.device, dtype=options.dtype, attention=options.attention)
    request = {name: getattr(options, name) for name in _SAMPLING if getattr(options, name) is not None}
    say = (lambda text: None) if options.quiet else (lambda text: print(text, file=sys.stderr))
    say("Reading the text encoder and encoding the prompt ...")
    context = pipe.encode(options.prompt, options.negative_prompt)
    say("Reading the transformer ...")
    with StepBar(options.quiet) as bar:
        latents = pipe.sample(context, recipe=options.recipe, guidance=_guidance(options, source),
                              conditions=conditions, on_step=bar, **request)
    audio = pipe.decode_audio(latents.audio)
    chunks = _counted(pipe.decode_video(latents.video), latents.frames, options.quiet)
    frames = write_video(options.output, chunks, latents.fps, audio, metadata={"ltx23": _settings(options)})
    say(f"{options.output}: {frames} frames, {frames / latents.fps:.2f} s, made in {time.perf_counter() - start:.1f} s")


class StepBar:
    """Progress of sampling: called after every step, one bar a stage."""

    def __init__(self, quiet: bool) -> None:
        """Show nothing if ``quiet``."""
        self._quiet, self._stage, self._bar = quiet, None, None

    def __enter__(self) -> StepBar:
        """Enter the block in which steps are reported."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Leave the last bar on the screen."""
        if self._bar is not None:
            self._bar.close()

    def __call__(self, info: StepInfo) -> None:
        """Advance to a step; a new stage gets a new bar."""
        if info.stage != self._stage:
            self.__exit__(None, None, None)
            self._stage = info.stage
            self._bar = tqdm(total=info.steps, desc=f"Sampling, stage {info.stage}", unit="step", disable=self._quiet)
        self._bar.update(info.step - self._bar.n)


def _counted(chunks: Iterable[torch.Tensor], frames: int, quiet: bool) -> Iterator[torch.Tensor]:
    """Pass chunks of frames on and show how many have gone by."""
    with tqdm(total=frames, desc="Decoding", unit="frame", disable=quiet) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk))


def _materialize(options: Namespace, checkpoint: Any, output: Any = None) -> Overlay:
    return materialize(checkpoint, options.text_encoder, upsamplers=options.upsampler,
                       distilled_lora=options.distilled_lora, variant=options.variant, output=output)


def _conditions(options: Namespace) -> tuple[ImageCondition, ...]:
    extra = {} if options.crf is None else {"crf": options.crf}
    return tuple(ImageCondition(load_image(image.path), frame=image.frame, strength=image.strength, **extra)
                 for image in options.image)


def _guidance(options: Namespace, source: Overlay) -> Guidance | None:
    """The recipe's guidance with the given options put in; None if none is given."""
    video = {name: getattr(options, name) for name in ("cfg", "stg", "modality", "rescale", "stg_blocks")}
    audio = {name: getattr(options, f"audio_{name}") for name in ("cfg", "stg", "modality", "rescale")}
    audio["stg_blocks"] = options.stg_blocks
    if all(value is None for value in (*video.values(), *audio.values())):
        return None
    ...
