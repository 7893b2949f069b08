"""Fetching all that is missing in one call, from a hub on this machine."""
from __future__ import annotations

import os
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from ltx23_core.hub import fetch as fetching
from ltx23_core.hub.catalogue import Entry
from ltx23_core.hub.remote import Hub
from ltx23_core.hub.shopping import basket_of, get
from tests.support.hub_server import FakeHub, running

CONTENT = os.urandom(100_000)
FIRST = Entry("a", "org/model", "split/a.safetensors", 0.2, "loras", "")
SECOND = Entry("b", "org/model", "b.safetensors", 0.3, "vae", "", gated=True)
USAGE = namedtuple("USAGE", "total used free")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeHub, Hub]]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running({"org/model": {"split/a.safetensors": CONTENT, "b.safetensors": CONTENT[::-1]}}) as server:
        yield server, Hub(server.address, tmp_path / "cache")


def roots(base: Path):
    return lambda kind: [base / kind, base / "second" / kind]


def test_one_call(hub: tuple[FakeHub, Hub], tmp_path: Path) -> None:
    server, ours = hub
    basket = basket_of([FIRST, SECOND, FIRST], roots(tmp_path / "models"))
    assert [each.request.name for each in basket.files] == ["a.safetensors", "b.safetensors"]
    assert basket.size == 500_000_000 and not server.asked
    assert basket.files[0].address == "https://huggingface.co/org/model/blob/main/split/a.safetensors"
    seen: list[tuple[int, int, str]] = []
    results = get(basket, lambda *each: seen.append(each), ours)
    assert [each.path.relative_to(tmp_path).as_posix() for each in results] == [
        "models/loras/a.safetensors", "models/vae/b.safetensors"]
    assert (tmp_path / "models/vae/b.safetensors").read_bytes() == CONTENT[::-1]
    assert seen[-1][:2] == (200_000, 200_000)
    again = basket_of([FIRST, SECOND], roots(tmp_path / "models"))
    assert again.size == 0 and all(each.there for each in again.files)
    server.asked.clear()
    assert get(again, hub=ours) == [] and not server.asked


def test_what_lies_in_a_second_folder_is_there(tmp_path: Path) -> None:
    place = tmp_path / "second" / "loras"
    place.mkdir(parents=True)
    (place / "a.safetensors").write_bytes(CONTENT)
    basket = basket_of([FIRST, SECOND], roots(tmp_path))
    assert [each.there for each in basket.files] == [place / "a.safetensors", None]
    assert basket.size == 300_000_000


@pytest.mark.parametrize(("free", "fits"), [(500_000_000 + 10**8, True), (500_000_000 + 10**8 - 1, False)])
def test_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, fits: bool) -> None:
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: USAGE(10**9, 0, free))
    basket = basket_of([FIRST, SECOND], roots(tmp_path))
    assert (basket.free, basket.reserved, basket.fits) == (free, 10**8, fits)
