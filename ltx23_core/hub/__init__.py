"""Downloading weight files, only when asked: ``python -m ltx23_core fetch`` and the node Fetch.

No other part of the library imports this package, and only `remote` imports huggingface_hub, when it is used.
"""
