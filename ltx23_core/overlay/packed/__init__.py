"""Packed weights become one reference: formats, their layers, what they take on a device."""
