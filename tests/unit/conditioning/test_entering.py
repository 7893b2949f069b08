"""What enters is named where it enters: NaN in every kind of input; a clip's own sound reaches the file untouched."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ltx23_core import Pipeline
from ltx23_core.conditioning.image import ImageCondition
from ltx23_core.conditioning.inpaint import Inpaint
from ltx23_core.conditioning.retake import Retake
from ltx23_core.conditioning.scales import reference_scales
from ltx23_core.conditioning.source import SourceClip, encode_frames
from ltx23_core.conditioning.source_streams import SourceAudio
from ltx23_core.errors import LTX23Error
from ltx23_core.lora.apply import prepare
from ltx23_core.media.audio import Audio
from ltx23_core.ops.attention import check_backend
from ltx23_core.overlay.bytes.source import TensorRef
from ltx23_core.overlay.lora.update import Update
from ltx23_core.plan.condition import Clip
from tests.support.conditions import FakeEncoders, frames, plain

FRAMES = torch.rand(9, 64, 64, 3)


def spoiled(values: torch.Tensor, value: float) -> torch.Tensor:
    values = values.clone()
    values.view(-1)[values.numel() // 2] = value
    return values


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("what", "make"), [
    ("sound", lambda v: SourceAudio(Audio(spoiled(torch.zeros(1, 2, 999), v), 48_000))),
    ("frames", lambda v: SourceClip(spoiled(FRAMES, v))),
    ("image", lambda v: ImageCondition(spoiled(FRAMES[0], v))),
    ("mask", lambda v: Inpaint(SourceClip(FRAMES), spoiled(torch.zeros(1, 8, 8), v)))])
def test_nan_is_named_before_anything_runs(what: str, make, value: float) -> None:
    with pytest.raises(LTX23Error, match=f"{what}.*(NaN or infinity|values from)"):
        make(value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.uint16, torch.int32, torch.bool, torch.complex64])
@pytest.mark.parametrize("make", [SourceClip, lambda frames: ImageCondition(frames[0])])
def test_pixels_of_unknown_white_are_refused(make, dtype: torch.dtype) -> None:
    """A 16-bit picture was taken for floats, and all of it was white."""
    with pytest.raises(LTX23Error, match=f"pixels of {str(dtype)[6:]}.*uint8, or floats in .0, 1."):
        make(FRAMES.to(dtype))
    for right in (torch.uint8, torch.float16, torch.bfloat16, torch.float64):
        make(FRAMES.to(right))


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_nan_in_a_latent_is_named_before_the_decoder_loads(tiny_pipeline: Pipeline, kind: str) -> None:
    config = tiny_pipeline.transformer_config
    latent = torch.zeros(1, config.video.in_channels, 2, 2, 2) if kind == "video" else torch.zeros(1, 2, 9, 16)
    with pytest.raises(LTX23Error, match=f"the {kind} latent holds NaN or infinity"):
        list(getattr(tiny_pipeline, f"decode_{kind}")(spoiled(latent, float("nan"))))


def test_nan_in_a_lora_is_named_while_it_is_read() -> None:
    refs = {role: TensorRef(Path("style.safetensors"), "F32", (2, 2), 8, 24) for role in ("a", "b")}
    with pytest.raises(LTX23Error, match="style.safetensors holds NaN or infinity in a factor"):
        prepare(Update("lora", refs, rank=2), 1.0, torch.float32, lambda *_: torch.full((2, 2), torch.nan))


@pytest.mark.parametrize(("channels", "rate"), [(1, 22_050), (2, 44_100), (6, 48_000)])
def test_retake_of_the_picture_keeps_the_sound(channels: int, rate: int) -> None:
    sound = 0.1 * torch.randn(1, channels, 2 * rate)
    retake = Retake(SourceClip(FRAMES, Audio(sound, rate)), 0.1, 0.2, "video")
    kept = retake.waveform(Clip(64, 64, 9, 24.0))
    count = round(9 / 24 * rate)
    assert kept.sample_rate == rate and kept.waveform.shape == (1, 2, count)
    if channels <= 2:
        assert torch.equal(kept.waveform, sound[..., :count].expand(1, 2, count)), "sample for sample"
    assert Retake(SourceClip(FRAMES, Audio(sound, rate)), 0.1, 0.2, "both").waveform(Clip(64, 64, 9, 24.0)) is None


@pytest.mark.parametrize(("metadata", "want"), [
    ({"reference_downscale_factor": "2"}, (2, 1)), ({"ss_reference_downscale_factor": "2"}, (2, 1)),
    ({"ss_reference_temporal_scale_factor": "4"}, (1, 4)),
    ({"reference_spatial_scale_factor": "3", "ss_reference_downscale_factor": "2"}, (3, 1))])
def test_factors_of_every_trainer(metadata: dict[str, str], want: tuple[int, int]) -> None:
    assert reference_scales(metadata) == want


def test_a_backend_that_the_device_lacks_is_refused() -> None:
    with pytest.raises(LTX23Error, match="attention backend cudnn does not run on cpu"):
        check_backend("cudnn", torch.device("cpu"), torch.bfloat16)
    check_backend("math", torch.device("cpu"), torch.float32)


def test_an_interrupt_is_heard_while_a_long_clip_is_scaled() -> None:
    """Before the encoder has seen a frame: at 10,001 frames that are minutes."""
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    encoders = FakeEncoders()
    _, stage = plain(Clip(64, 64, 81, 24.0), encoders)
    with pytest.raises(KeyboardInterrupt):
        encode_frames(replace(stage, check=check), frames(81), range(81), 64, 64)
    assert len(calls) == 3 and not encoders.calls
