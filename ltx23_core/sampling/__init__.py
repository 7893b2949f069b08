"""Schedules, noise, guidance, denoiser, solvers, and a run through them."""
