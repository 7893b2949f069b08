"""LTX-2.3 for ComfyUI: the entry point that ComfyUI imports. Importable without ComfyUI (pytest does so)."""
import importlib.util

# Only as part of a package (ComfyUI gives it a name made of its path) and only where ComfyUI is: pytest
# imports this file as a plain module without one, where a relative import cannot work.
if __package__ and importlib.util.find_spec("comfy") is not None:
    if importlib.util.find_spec("comfy_api") is None or importlib.util.find_spec("comfy_api.latest") is None:
        raise ImportError("The LTX-2.3 nodes need ComfyUI 0.3.75 or newer, and this one is older: update ComfyUI "
                          "(Manager > Update ComfyUI, or git pull in its folder) and start it again.")
    from .nodes import comfy_entrypoint

    WEB_DIRECTORY = "./web"
    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
