"""Paths become components with their configuration."""
