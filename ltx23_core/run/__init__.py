"""Carries a plan out: stages, long videos, batches, resuming, previews."""
