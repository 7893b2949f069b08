"""Any LoRA file becomes updates by component and parameter."""
