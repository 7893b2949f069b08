"""Training of the tiny model on the synthetic world: `python -m tools.tiny_world.train <component>`."""
