"""Former name of `conditions.clips`, which scripts of users import."""
from .conditions.clips import ReferenceVideoNode, ReferenceVoiceNode, SourceAudioNode, SourceVideoNode

__all__ = ["ReferenceVideoNode", "ReferenceVoiceNode", "SourceAudioNode", "SourceVideoNode"]
