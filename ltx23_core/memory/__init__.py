"""Bytes only, no torch: what a stage needs, whether it fits, how it is placed."""
