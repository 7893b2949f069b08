"""Latents become frames and sound in pieces; encoding in pieces too."""
