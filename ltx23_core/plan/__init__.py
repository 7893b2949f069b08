"""A run decided: recipes, stages, guidance, sigmas, windows, refusals; no weights, no device."""
