"""Reference voice of an ID-LoRA: a spoken sample that the generated voice follows (spec/10)."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..config import AUDIO_LATENTS_PER_SECOND
from ..errors import RequestError
from ..geometry import VideoGrid, audio_positions
from ..media.audio import Audio, check_sound
from ..plan.condition import ADDS, FREE, REFERENCE, WHOLLY, Added, Clip, StageSetting
from ..sampling.state import StatePair, audio_to_tokens
from .source import cut_sound, latents_in

SECONDS = 5.0        # of the sample in training
IDENTITY = 3.0       # ComfyUI's default; users of distilled models report 0.5 to 1
MAX_SECONDS, MAX_IDENTITY = 60.0, 100.0


@dataclass(frozen=True)
class ReferenceVoice:
    """A spoken sample whose voice the result has. Needs an ID-LoRA, which no file's metadata names as one.

    Its latents are tokens of the audio stream at times before 0, clean in every step and pass, and not in the result.
    They stand behind the clip's tokens here, not before them as in ComfyUI: attention knows positions only, and the
    clip's noise is drawn first either way. Acts in every stage.

    Attributes:
        audio: about 5 s of speech, any rate and layout.
        identity: scale of identity guidance: each step adds so many times the difference that the sample makes to the
            prediction of the positive prompt, at the price of a further pass. 0: off.
        seconds: of the sample that are used, from its beginning.
    """

    audio: Audio
    identity: float = IDENTITY
    seconds: float = SECONDS
    name = "Reference Voice"
    order = REFERENCE

    def __post_init__(self) -> None:
        """Refuse what is no sound, and numbers out of range."""
        check_sound(self.audio, "the reference voice")
        if not 0 <= self.identity <= MAX_IDENTITY:
            raise RequestError(f"the identity guidance is {self.identity}",
                               f"a number from 0 to {MAX_IDENTITY:g}",
                               "Use 3, or 0.5 to 1 with a distilled model.")
        if not 1 / AUDIO_LATENTS_PER_SECOND <= self.seconds <= MAX_SECONDS:
            raise RequestError(f"{self.seconds} s of the reference voice are to be used",
                               f"0.04 to {MAX_SECONDS:g} seconds", "Use 5, the length of training.")

    @property
    def roles(self) -> Mapping[str, str]:
        """See `Condition.roles`."""
        return {"audio": ADDS}

    def check(self, clip: Clip) -> None:
        """See `Condition.check`: nothing depends on the clip."""

    def added(self, clip: Clip, grid: VideoGrid, number: int) -> Added:
        """See `plan.condition.Planned`."""
        seconds = min(self.seconds, self.audio.seconds)
        return Added(sound=latents_in(seconds) + 1, held=(FREE, WHOLLY))

    def apply(self, states: StatePair, stage: StageSetting) -> StatePair:
        """Append the encoded sample to the audio state."""
        video, audio = states
        if audio is None:
            return states

        def make() -> Tensor:
            return stage.encoders.encode_audio(cut_sound(self.audio, 0.0, self.seconds))

        latent = stage.once(self.audio, ("voice", self.seconds), make)
        tokens = audio_to_tokens(latent).expand(audio.clean.shape[0], -1, -1)
        return video, audio.appended(tokens, voice_positions(latent.shape[2]), 1.0)


def voice_positions(length: int) -> Tensor:
    """[start, end) of a sample's latents, float32 (1, 1, length, 2): their own spacing, ending one latent before 0."""
    positions = audio_positions(length)
    return positions - (positions[0, 0, -1, 1] + 1 / AUDIO_LATENTS_PER_SECOND)
