"""Command line: `python -m ltx23_core`."""
