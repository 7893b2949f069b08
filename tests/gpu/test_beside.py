"""Sound on a second stream of a GPU beside the picture: the bytes of one after the other, whatever is interrupted."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU on this machine", allow_module_level=True)

from ltx23_core import Audio, Pipeline, coding, materialize
from ltx23_core.runtime.residency import LocalResidency

TINY = Path(__file__).resolve().parents[1] / "goldens" / "tiny"
DEVICE = torch.device("cuda")
PICTURE = torch.randn(1, 8, 14, 4, 6, generator=torch.Generator().manual_seed(7))
HEARD = torch.randn(1, 2, 110, 16, generator=torch.Generator().manual_seed(8))


class Stoppable(LocalResidency):
    """Interrupts at a check; 0: never."""

    checks = stop_at = 0

    def check(self) -> None:
        self.checks += 1
        if self.checks == self.stop_at:
            raise KeyboardInterrupt


def both(pipe: Pipeline) -> tuple[torch.Tensor, Audio]:
    frames, sound = pipe.decode_clip(PICTURE, HEARD)
    made = torch.cat(list(frames))
    return made, sound()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_same_bytes_beside_and_in_turn(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    residency = Stoppable(DEVICE)
    pipe = Pipeline(materialize(TINY / "ltx-2.3-tiny.safetensors", output=tmp_path / "tiny.ltx23.json"), dtype=dtype,
                    residency=residency)
    started: list[int] = []
    start = coding.Sound.start
    monkeypatch.setattr(coding.Sound, "start", lambda self: started.append(1) or start(self))
    frames, sound = pipe.decode_video(PICTURE, eight_bit=True), pipe.decode_audio(HEARD)
    want = torch.cat(list(frames))
    residency.checks = 0
    for number in range(5):
        made, heard = both(pipe)
        assert torch.equal(made, want) and torch.equal(heard.waveform, sound.waveform) and len(started) == number + 1
    checks = residency.checks // 5
    for stop_at in range(1, checks, max(1, checks // 12)):  # the weights leave at once: nothing may still read them
        residency.checks, residency.stop_at = 0, stop_at
        with pytest.raises(KeyboardInterrupt):
            both(pipe)
        residency.release()
        torch.cuda.empty_cache()
    residency.stop_at = 0
    torch.cuda.synchronize()
    made, heard = both(pipe)
    assert torch.equal(made, want) and torch.equal(heard.waveform, sound.waveform)
