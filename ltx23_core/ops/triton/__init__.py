"""Triton forms of the operations in the folder above, under the same names; imported by `pick` alone."""
