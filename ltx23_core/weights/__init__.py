"""Byte ranges become tensors on a device; nothing of what the names mean."""
