"""Downloading weight files, only when asked: ``python -m ltx23_core fetch`` and the node Fetch.

The overlay imports the catalogue, which is data; only `remote` imports huggingface_hub, when it is used.
"""
