"""Nodes that find, fetch and load the model."""
