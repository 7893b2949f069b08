"""Layers whose weights stay packed on the device."""
