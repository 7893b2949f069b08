"""An overlay becomes files for other tools."""
