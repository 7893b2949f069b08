"""LoRA settings of a user, and updates fused into weights or added beside them at use."""
