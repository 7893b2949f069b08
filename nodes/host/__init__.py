"""The only place that imports comfy: folders, memory, progress, outputs, server."""
