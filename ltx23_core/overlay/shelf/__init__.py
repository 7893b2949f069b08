"""What lies in the model folders, what *auto* takes of it and why, what is missing."""
