"""Golden cases: sampling."""
