"""The model for ComfyUI's own loaders: state dicts under its names, made of the ranges of the user's files."""
