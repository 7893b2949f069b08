"""Processes that each hold a pipeline on a device of their own, and a pipeline whose work they do."""
