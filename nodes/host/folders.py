"""ComfyUI's folders: where models, manifests and unfinished videos lie."""
from __future__ import annotations

import os
from pathlib import Path

import folder_paths

MODEL_FOLDERS = ("checkpoints", "diffusion_models", "text_encoders", "vae", "loras", "latent_upscale_models",
                 "diffusers", "upscale_models", "vae_approx")

folder_paths.add_model_folder_path("ltx23_overlays", str(Path(folder_paths.models_dir) / "ltx23_overlays"))


def model_roots() -> list[tuple[str, Path]]:
    """The folders that may hold parts of LTX-2.3, as (ComfyUI's name, folder); each folder once."""
    seen: set[Path] = set()
    found: list[tuple[str, Path]] = []
    for name in MODEL_FOLDERS:
        if name not in folder_paths.folder_names_and_paths:
            continue
        for path in model_folders(name):
            if path not in seen:
                seen.add(path)
                found.append((name, path))
    return found


def model_folders(name: str) -> list[Path]:
    """ComfyUI's places for a kind of model, the preferred one first."""
    return list(map(Path, folder_paths.get_folder_paths(name)))


def manifest_path(name: str) -> Path:
    """Where the manifest of an overlay is written: the first folder registered for `ltx23_overlays`; where that
    cannot be written, the user's own folder."""
    for folder in model_folders("ltx23_overlays"):
        there = folder
        while not there.exists():
            there = there.parent
        if (folder / name).exists() or os.access(there, os.W_OK):
            return folder / name
    return Path(folder_paths.get_user_directory()) / "ltx23_overlays" / name


def resume_folder() -> Path:
    """Where the finished windows of a long video are kept until it is complete: survives a restart of ComfyUI."""
    return Path(folder_paths.get_user_directory()) / "ltx23_long_video"
