"""Golden cases: audio."""
