"""Messages of a server say where a file is without saying where on the computer."""
from __future__ import annotations

import pytest

from tests.support.node_modules import node_module, with_comfyui

KNOWN = (("/srv/comfy/models/loras", "models/loras"), ("/srv/comfy/models", "models"), ("/srv/comfy", "ComfyUI"),
         ("/mnt/My Disk/checkpoints", "models/checkpoints"), ("/home/me", "~"),
         ("C:\\Comfy\\models\\vae", "models/vae"),
         ("/srv/comfy/output", "output"))


@pytest.fixture(scope="module")
def named():
    with_comfyui()
    places = node_module("nodes.host.places")
    yield lambda text: places.named(text, KNOWN)
    node_module("ltx23_core.errors").name_paths(str)


@pytest.mark.parametrize(("text", "said"), [
    ("/srv/comfy/models/loras/x.safetensors is empty", "models/loras/x.safetensors is empty"),
    ("/srv/comfy/models/loras is full", "models/loras is full"),
    ("the disk of /srv/comfy/models/loras has 1 GB", "the disk of models/loras has 1 GB"),
    ("'/srv/comfy/output/a b.mp4' is there", "'output/a b.mp4' is there"),
    ("delete /srv/comfy/models/loras/sub/.x.lock.", "delete models/loras/sub/.x.lock."),
    ("/mnt/My Disk/checkpoints/my model.safetensors is cut", "models/checkpoints/my model.safetensors is cut"),
    ("/srv/comfy-old/models/loras/x", "x"),
    ("/srv/comfyui2/x.bin is gone", "x.bin is gone"),
    ("C:\\Comfy\\models\\vae\\x.safetensors is empty", "models/vae/x.safetensors is empty"),
    (r"'C:\\Comfy\\models\\vae\\x.safetensors' is empty", "'models/vae/x.safetensors' is empty"),
    ("D:\\secret\\place\\x.bin is gone, D:/a/b.bin too", "x.bin is gone, b.bin too"),
    ("D:\\x.bin", "x.bin"),
    (r"\\server\share\x.bin is gone", "x.bin is gone"),
    ("cannot open ('/etc/secret/shadow')", "cannot open ('shadow')"),
    ("two: /a/b/c and /home/me/d/e.bin; /srv/comfy/models/loras/f", "two: c and ~/d/e.bin; models/loras/f"),
    # not paths of this computer
    *((text, text) for text in (
        "https://huggingface.co/org/model/resolve/main/a.safetensors", "http://127.0.0.1:8188/a/b -> models/loras: x",
        "put it into models/checkpoints or models/diffusion_models", "fps is 24000/1001, and/or org/repo:path/in/repo",
        "hash 12ab…/3", "a link (/resolve/, not /blob/)")),
])
def test_paths_are_named(named, text: str, said: str) -> None:
    assert named(text) == said


def test_errors_pass_through_it() -> None:
    with_comfyui()
    places, errors = node_module("nodes.host.places"), node_module("ltx23_core.errors")
    errors.name_paths(places.for_clients)
    try:
        loras = next(iter(places.folder_paths.get_folder_paths("loras")))
        error = errors.OverlayError(f"{loras}/x.safetensors is empty", "a file", f"Delete {loras}/x.safetensors.")
    finally:
        errors.name_paths(str)
    assert str(error) == ("models/loras/x.safetensors is empty. Expected: a file. "
                          "Next: Delete models/loras/x.safetensors.")
    assert error.found.startswith(loras)  # for the library, which puts it into other sentences
