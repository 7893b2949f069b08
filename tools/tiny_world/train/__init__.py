"""Training of the tiny model on the synthetic world: `python -m tools.tiny_world.train <component>`."""
import os

os.environ.setdefault("LTX23_KERNELS", "torch")  # Triton's forms have no backward pass
