"""Former name of `conditions.inputs`, which scripts of users import."""
from .conditions.inputs import to_audio

__all__ = ["to_audio"]
