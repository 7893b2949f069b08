"""The text path: prompt -> Gemma hidden states -> features -> contexts (spec/03)."""
