"""Words become contexts: tokenizer, encoding, enhancement."""
