"""The dual-stream transformer."""
