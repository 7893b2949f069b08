"""What stands in a file: byte ranges, headers of safetensors and GGUF, nothing of what the names mean."""
