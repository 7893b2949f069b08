"""Conditions: pictures, sound and clips that a run shall follow, as tokens of a stream."""
