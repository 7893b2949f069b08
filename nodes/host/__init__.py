"""The only place that imports comfy: folders, memory, progress, outputs, server."""
from .outputs import output_file, output_problem

__all__ = ["output_file", "output_problem"]
