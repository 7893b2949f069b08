"""Audio: waveform <-> mel <-> latent, and the vocoder."""
