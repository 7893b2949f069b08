"""Video VAE: pixels to latents and back (spec/04)."""
