"""Golden cases: transformer."""
