"""Places inside a long call of a module at which a run can be ended, and its progress be counted."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from .audio.layers import ResBlock as AudioBlock
from .audio.vocoder import ResidualBlock as VocoderBlock
from .latent_upsampler import ResBlock as UpsamplerBlock
from .video_vae.layers import ResnetBlock as VideoBlock

RESIDUAL = (AudioBlock, VocoderBlock, UpsamplerBlock, VideoBlock)


def residual_blocks(*modules: nn.Module) -> list[nn.Module]:
    """What the convolutional models of a pipeline spend their time in, in the order of their names."""
    found = []
    for module in modules:
        found += [part for part in module.modules() if isinstance(part, RESIDUAL)]
    return found


@contextmanager
def before_each(modules: Iterable[nn.Module], check: Callable[[], None] | None) -> Iterator[None]:
    """While this holds, ``check`` is called before each of the modules runs; what it raises ends the call."""
    with ExitStack() as hooks:
        if check is not None:
            for module in modules:
                handle = module.register_forward_pre_hook(lambda *_: check())
                hooks.callback(handle.remove)
        yield
