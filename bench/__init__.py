"""Benchmarks: one command each, figures for docs/performance.md."""
