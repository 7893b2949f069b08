"""Nodes that bring pictures, clips and sound."""
