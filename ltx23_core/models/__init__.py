"""Tensors to modules: plain torch.nn with the official parameter names; no I/O, no device policy."""
