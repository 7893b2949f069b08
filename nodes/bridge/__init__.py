"""Between this pack and ComfyUI's own nodes for LTX-2.3."""
