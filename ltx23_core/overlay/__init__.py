"""Source files to overlay: headers, recognition, checks, manifest. No tensor data is read here."""
from .manifest import ComponentEntry, Overlay
from .materialize import materialize

__all__ = ["ComponentEntry", "Overlay", "materialize"]
