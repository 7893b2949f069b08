"""What `run.py` and the tests use to install, start and talk to a real ComfyUI. Standard library only."""
