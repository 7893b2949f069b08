"""Golden cases: text."""
