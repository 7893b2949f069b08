"""Tests. The cases of the shared folder import the helpers by their old names, ``tests.layouts`` and the like."""
from __future__ import annotations

from importlib import import_module
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    try:
        return import_module(f".support.{name}", __name__)
    except ModuleNotFoundError as error:
        raise AttributeError(name) from error
