"""Devices, residency of weights, memory estimates, previews."""
