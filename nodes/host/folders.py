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


def manifest_folders() -> list[Path]:
    """Where manifests of overlays may be written, the preferred place first; the last one is the user's own folder."""
    return [*model_folders("ltx23_overlays"), Path(folder_paths.get_user_directory()) / "ltx23_overlays"]


def kept_file(name: str) -> Path:
    """Where a file is kept that may be made anew: beside the manifests, in the first folder that can be written."""
    for folder in manifest_folders()[:-1]:
        there = folder
        while not there.exists():
            there = there.parent
        if there.is_dir() and os.access(there, os.W_OK):
            return folder / name
    return manifest_folders()[-1] / name


def resume_folder() -> Path:
    """Where the finished windows of a long video are kept until it is complete: survives a restart of ComfyUI."""
    return Path(folder_paths.get_user_directory()) / "ltx23_long_video"


def prompt_folder() -> Path:
    """Where encoded prompts are kept by choice: survives a restart of ComfyUI."""
    return Path(folder_paths.get_user_directory()) / "ltx23_prompts"
