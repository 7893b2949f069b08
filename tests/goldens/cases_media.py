"""Golden cases: media."""
