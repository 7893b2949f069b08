"""A small synthetic world: videos with sound, captions, and an evaluator that reads them back."""
