"""Source files to overlay: headers, identification, checks, manifest. No tensor data is read here."""
from .identify import Identity, identify
from .manifest import ComponentEntry, Overlay
from .materialize import materialize

__all__ = ["ComponentEntry", "Identity", "Overlay", "identify", "materialize"]
