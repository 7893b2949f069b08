"""Nodes that sample, and their options."""
