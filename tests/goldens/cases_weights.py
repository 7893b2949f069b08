"""Golden cases: weights."""
