"""ComfyUI's own models and latents of LTX-2.3: all that knows how its loaders and samplers have them."""
