"""Our nodes in a real ComfyUI server on a GPU, beside its own models, within budgets of device memory."""
