"""Find a Chromium or Chrome that is installed on this machine."""
from __future__ import annotations

import os
import shutil
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = ("Google Chrome.app/Contents/MacOS/Google Chrome", "Chromium.app/Contents/MacOS/Chromium")
WINDOWS = ("Google/Chrome/Application/chrome.exe", "Chromium/Application/chrome.exe")
NO_BROWSER = ("No Chromium or Chrome was found: install one (Debian: apt install chromium), or name it in the "
              "environment variable CHROME.")
# Without the background switches Chromium asks outside addresses at every start.
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync")


def find_browser() -> Path | None:
    """The browser's program, or None; the environment variable CHROME overrides what is found."""
    wanted = os.environ.get("CHROME")
    if wanted:
        found = shutil.which(wanted)
        return Path(found) if found else None
    for name in NAMES:
        found = shutil.which(name)
        if found:
            return Path(found)
    places = [Path(folder) / tail for folder in ("/Applications", Path.home() / "Applications") for tail in MAC]
    roots = [os.environ.get(name) for name in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")]
    places += [Path(root) / tail for root in roots if root for tail in WINDOWS]
    return next((place for place in places if place.is_file()), None)
