"""One run on several devices: tokens, passes and tiles shared out among ranks, from outside a finished model."""
