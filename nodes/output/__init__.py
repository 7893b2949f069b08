"""Nodes that make frames, sound and files."""
