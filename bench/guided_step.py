"""A guided step of four passes: `bench.transformer` with all passes of the official guidance."""
from __future__ import annotations

from . import transformer


def main() -> None:
    """Command line."""
    transformer.main(guided=True)
