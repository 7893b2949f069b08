"""Nodes that turn words into contexts."""
