"""Downloading, against a hub on this machine: every kind of success, and every failure with its next step.

The same tests run with the huggingface_hub that is installed and (`test_oldest_supported_library`) with 0.30.2.
"""
from __future__ import annotations

import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import huggingface_hub
import pytest
from filelock import FileLock
from huggingface_hub import constants

from ltx23_core.cli import parser as cli
from ltx23_core.errors import LTX23Error, RequestError
from ltx23_core.hub import fetch as fetching
from ltx23_core.hub import partial
from ltx23_core.hub.catalogue import CATALOGUE, ENTRIES, Entry, table
from ltx23_core.hub.errors import HubError, OfflineError
from ltx23_core.hub.fetch import fetch, present
from ltx23_core.hub.remote import Hub
from ltx23_core.hub.request import Request, is_safe, parse

from ...support import hub_server
from ...support.hub_server import COMMIT, FakeHub, git_hash, running, sha256

ROOT = Path(__file__).parents[3]
OLDEST = ROOT / ".host" / "transformers-4.50.3"  # made by test_text_oldest
MODEL, GEMMA = "org/model", "google/gemma"
CONTENT = os.urandom(3 << 20)
NAME = "a.safetensors"
INDEX = b'{"weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}}'
SHARDS = {f"model-0000{i}-of-00002.safetensors": os.urandom(100_000) for i in (1, 2)}
FILES = {
    MODEL: {NAME: CONTENT, "split_files/loras/b.safetensors": CONTENT[:1000], "other/a.safetensors": CONTENT[::-1]},
    GEMMA: {**SHARDS, "model.safetensors.index.json": INDEX, "config.json": b"{}", "tokenizer.model": b"tokens",
            "README.md": b"# no", "code.py": b"raise SystemExit", "old.bin": b"\x80\x02", ".gitattributes": b"",
            "sub/config.json": b"[]"},
}


OFFLINE_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # the suite sets both; huggingface_hub obeys both


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake hub may be asked."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in OFFLINE_SWITCHES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The fake hub; nobody is logged in, retries do not wait."""
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(partial, "RETRY_PAUSE", 0)
    with running({repo: dict(files) for repo, files in FILES.items()}) as hub:
        yield hub


@pytest.fixture
def hub(server: FakeHub, tmp_path: Path) -> Hub:
    return Hub(server.address, tmp_path / "cache")


class Bar:
    """A progress callback that remembers, and can stop."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.seen: list[tuple[int, int, str]] = []
        self.stop_at = stop_at

    def __call__(self, done: int, total: int, name: str) -> None:
        self.seen.append((done, total, name))
        if self.stop_at is not None and done >= self.stop_at:
            raise KeyboardInterrupt


def left(folder: Path) -> list[str]:
    """All files below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def failure(request: Request, root: Path | None, hub: Hub, kind: type[LTX23Error] = HubError) -> str:
    with pytest.raises(kind) as caught:
        fetch([(request, root)], hub=hub)
    message = str(caught.value)
    assert "Expected: " in message and "Next: " in message and "\n" not in message, message
    return message


# What is asked for

@pytest.mark.parametrize(("text", "want"), [
    ("dev", Request("Lightricks/LTX-2.3", "ltx-2.3-22b-dev.safetensors", "main", "checkpoints")),
    ("dev@v1", Request("Lightricks/LTX-2.3", "ltx-2.3-22b-dev.safetensors", "v1", "checkpoints")),
    ("org/repo", Request("org/repo")), ("org/repo@v1", Request("org/repo", "", "v1")),
    ("org/repo@refs/pr/3:a/b.safetensors", Request("org/repo", "a/b.safetensors", "refs/pr/3")),
    ("org/repo:sub/", Request("org/repo", "sub/")),
    ("org/repo:a b@2.safetensors", Request("org/repo", "a b@2.safetensors")),
    ("https://huggingface.co/org/repo/blob/main/a/b%20c.json?download=true", Request("org/repo", "a/b c.json")),
    ("https://huggingface.co/org/repo", Request("org/repo")),
    ("https://hf.co/org/repo/tree/v1", Request("org/repo", "", "v1")),
])
def test_requests(text: str, want: Request) -> None:
    assert parse(text) == want


@pytest.mark.parametrize("text", ["", "gema", "org/", "/repo", "a/b/c", "org/repo:", "org/repo@", "../up",
                                  "org/repo:../x", "org/repo:/etc/passwd", "org/repo:a/../../x", "https://example.org/org/repo",
                                  "org/repo:C:\\x", "https://huggingface.co/org/repo/resolve/main/%2e%2e/x"])
def test_wrong_requests(text: str) -> None:
    with pytest.raises(RequestError, match="--list"):
        parse(text)


def test_names_of_files_on_disk(tmp_path: Path) -> None:
    assert Request("o/r", "x/y.safetensors").target(tmp_path, "x/y.safetensors") == tmp_path / "y.safetensors"
    assert Request("o/r").target(tmp_path, "x/y.json") == tmp_path / "r" / "x" / "y.json"
    assert Request("o/r", "x/").target(tmp_path, "x/y.json") == tmp_path / "x" / "y.json"


def test_catalogue() -> None:
    assert len(ENTRIES) == len(CATALOGUE)
    for entry in CATALOGUE:
        assert entry.name in table() and parse(entry.name).folder == entry.folder
        assert entry.path == "" or (is_safe(entry.path) and entry.path.endswith((".safetensors", ".gguf")))
        assert not entry.instead or not ENTRIES[entry.instead].gated
    assert ENTRIES["gemma"].gated and ENTRIES["dev"].size == 46.1


# Success

def test_file_through_the_redirect(server: FakeHub, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    bar = Bar()
    [result] = fetch([(Request(MODEL, NAME), tmp_path / "to")], bar, hub)
    assert result.path == tmp_path / "to" / NAME and result.path.read_bytes() == CONTENT
    assert left(tmp_path / "to") == [NAME]
    assert result.ways == ("downloaded, hash checked",) and "3.1 MB" in result.line
    assert bar.seen[-1] == (len(CONTENT), len(CONTENT), NAME) and len(bar.seen) > 5
    assert server.gets("hub")[0].headers["authorization"] == "Bearer hf_secret"
    assert "authorization" not in server.gets("store")[0].headers  # another host: the login stays away
    assert server.gets("store")[0].headers.get("range") is None


def test_second_time_nothing_is_downloaded(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    for ways in ("downloaded, hash checked", "already there"):
        [result] = fetch([(Request(MODEL, NAME), tmp_path)], hub=hub)
        assert result.ways == (ways,)
    assert len(server.gets()) == 1


def test_sub_folders_are_looked_at_first(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    """People sort their models; the hub's size tells an equal file from another of the same name."""
    folder = tmp_path / "checkpoints" / "LTX" / "2.3"
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(CONTENT)
    [result] = fetch([(Request(MODEL, NAME), tmp_path)], hub=hub)
    assert (result.path, result.ways) == (folder / NAME, ("already there",)) and not server.gets()
    assert present(Request(MODEL, NAME), tmp_path) == folder / NAME
    (folder / NAME).write_bytes(CONTENT[:-1])
    [result] = fetch([(Request(MODEL, NAME), tmp_path)], hub=hub)
    assert result.path == tmp_path / NAME and (folder / NAME).stat().st_size == len(CONTENT) - 1


def test_common_names_in_sub_folders_say_nothing(hub: Hub, tmp_path: Path) -> None:
    other = tmp_path / "another model" / "model.safetensors"
    other.parent.mkdir()
    other.write_bytes(b"x" * 2000)
    assert present(Request("o/r", "model.safetensors"), tmp_path) is None


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 3145728\n"


def test_a_pointer_of_git_lfs_is_no_file(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(POINTER)
    assert present(Request(MODEL, NAME), tmp_path) is None
    [result] = fetch([(Request(MODEL, NAME), tmp_path)], hub=hub)
    assert result.path.read_bytes() == CONTENT and len(server.gets()) == 1


def test_a_clone_without_lfs_is_completed_where_it_is(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    clone = tmp_path / "google" / "gemma"
    clone.mkdir(parents=True)
    for name, content in FILES[GEMMA].items():
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).write_bytes(POINTER if name in SHARDS else content)
    assert present(Request(GEMMA), tmp_path) is None
    [result] = fetch([(Request(GEMMA), tmp_path)], hub=hub)
    assert result.path == clone == present(Request(GEMMA), tmp_path)
    assert all((clone / name).read_bytes() == FILES[GEMMA][name] for name in SHARDS)
    assert {each.path.rsplit("/", 1)[-1] for each in server.gets()} == set(SHARDS)


def test_what_is_missing_is_one_call(server: FakeHub, hub: Hub, tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"a": Entry("a", MODEL, NAME, None, "checkpoints", ""), "b": Entry(
        "b", MODEL, "split_files/loras/b.safetensors", None, "loras", "")}
    monkeypatch.setattr("ltx23_core.hub.request.ENTRIES", entries)
    (tmp_path / "checkpoints" / "mine").mkdir(parents=True)
    (tmp_path / "checkpoints" / "mine" / NAME).write_bytes(CONTENT)
    first, second = fetch([(each, tmp_path / each.folder) for each in map(parse, ("a", "b"))], hub=hub)
    assert first.ways == ("already there",) and second.path == tmp_path / "loras" / "b.safetensors"
    assert len(server.gets()) == 1


def test_several_files_have_one_progress(hub: Hub, tmp_path: Path) -> None:
    bar = Bar()
    results = fetch([(Request(MODEL, NAME), tmp_path), (Request(MODEL, "split_files/loras/b.safetensors"), tmp_path),
                     (Request(MODEL, NAME), tmp_path)], bar, hub)
    assert [result.path.name for result in results] == [NAME, "b.safetensors"]
    assert {total for _, total, _ in bar.seen} == {len(CONTENT) + 1000}
    assert [done for done, *_ in bar.seen] == sorted(done for done, *_ in bar.seen)
    assert bar.seen[-1][0] == len(CONTENT) + 1000


def test_folder_takes_model_files_only(hub: Hub, tmp_path: Path) -> None:
    [result] = fetch([(Request(GEMMA), tmp_path)], hub=hub)
    assert result.path == tmp_path / "gemma" and present(Request(GEMMA), tmp_path) == result.path
    assert left(result.path) == sorted([*SHARDS, "config.json", "model.safetensors.index.json", "tokenizer.model",
                                        "sub/config.json"])
    for name in left(result.path):
        assert (result.path / name).read_bytes() == FILES[GEMMA][name]
    assert "6 downloaded, hash checked" in result.line


def test_folder_of_a_repository(hub: Hub, tmp_path: Path) -> None:
    [result] = fetch([(Request(MODEL, "split_files/"), tmp_path)], hub=hub)
    assert left(result.path) == ["loras/b.safetensors"] and result.path.name == "split_files"


def test_interrupted_folder_is_not_complete_and_continues(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch([(Request(GEMMA), tmp_path)], Bar(stop_at=150_000), hub)
    assert present(Request(GEMMA), tmp_path) is None
    [result] = fetch([(Request(GEMMA), tmp_path)], hub=hub)
    assert "already there" in result.line and present(Request(GEMMA), tmp_path) == result.path
    assert len({each.path for each in server.gets()}) == 2


@pytest.mark.parametrize("revision", ["v1", COMMIT])
def test_revision(server: FakeHub, hub: Hub, tmp_path: Path, revision: str) -> None:
    fetch([(Request(MODEL, NAME, revision), tmp_path)], hub=hub)
    assert [each.path for each in server.asked if each.method == "HEAD"] == [f"/{MODEL}/resolve/{revision}/{NAME}"]
    assert server.gets("hub")[0].path == f"/{MODEL}/resolve/{COMMIT}/{NAME}"  # one content, whatever comes


def test_empty_file(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    server.files[MODEL]["empty.json"] = b""
    [result] = fetch([(Request(MODEL, "empty.json"), tmp_path)], hub=hub)
    assert result.path.read_bytes() == b""


# Connections that break

def test_broken_connection_continues_with_a_range(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    server.break_after = [1_000_000, 600_000]
    bar = Bar()
    [result] = fetch([(Request(MODEL, NAME), tmp_path)], bar, hub)
    assert result.path.read_bytes() == CONTENT
    starts = [int(each.headers.get("range", "bytes=0-")[6:-1]) for each in server.gets()]
    assert len(starts) == 3 and starts == sorted(starts) and 0 < starts[1] <= 1_000_000
    assert bar.seen[-1][0] == len(CONTENT)


def test_server_without_ranges_starts_again(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    server.break_after, server.ranges = [1_000_000], False
    bar = Bar()
    [result] = fetch([(Request(MODEL, NAME), tmp_path)], bar, hub)
    assert result.path.read_bytes() == CONTENT
    assert bar.seen[-1][0] == len(CONTENT) and max(done for done, *_ in bar.seen) == len(CONTENT)


def test_passing_faults_of_the_store_are_retried(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    server.refuse_store = [503, 429, 500]
    fetch([(Request(MODEL, NAME), tmp_path)], hub=hub)
    assert len(server.gets()) == 4


def test_connection_that_never_holds(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    server.break_after = [1_000_000] + [0] * 10
    assert "cannot be reached" in failure(Request(MODEL, NAME), tmp_path, hub)
    assert len(server.gets()) == 1 + partial.RETRIES
    assert [name.endswith(".incomplete") for name in left(tmp_path)] == [True]
    assert not (tmp_path / NAME).exists()


def test_interrupt_leaves_a_part_that_is_continued(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch([(Request(MODEL, NAME), tmp_path)], Bar(stop_at=1 << 20), hub)
    [name] = left(tmp_path)
    assert name.startswith(f".{NAME}.") and name.endswith(".incomplete")
    have = (tmp_path / name).stat().st_size
    assert (tmp_path / name).read_bytes() == CONTENT[:have] and have >= 1 << 20
    bar = Bar()
    fetch([(Request(MODEL, NAME), tmp_path)], bar, hub)
    assert server.gets()[-1].headers["range"] == f"bytes={have}-"
    assert (tmp_path / NAME).read_bytes() == CONTENT and left(tmp_path) == [NAME]
    assert bar.seen[-1][:2] == (len(CONTENT), len(CONTENT))


def test_other_exceptions_of_the_callback_come_through(hub: Hub, tmp_path: Path) -> None:
    """ComfyUI's interruption is an Exception on some versions: it must not be retried nor translated."""
    class Interrupted(Exception):
        pass

    def stop(*_: object) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        fetch([(Request(MODEL, NAME), tmp_path)], stop, hub)


def test_part_of_another_version_is_not_used(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch([(Request(MODEL, NAME), tmp_path)], Bar(stop_at=1 << 20), hub)
    server.files[MODEL][NAME] = CONTENT[::-1]
    fetch([(Request(MODEL, NAME), tmp_path)], hub=hub)
    assert "range" not in server.gets()[-1].headers
    assert (tmp_path / NAME).read_bytes() == CONTENT[::-1] and left(tmp_path) == [NAME]


def test_part_that_is_too_long_is_given_up(hub: Hub, tmp_path: Path) -> None:
    [file] = hub.files(Request(MODEL, NAME), tmp_path)
    partial.partial_path(tmp_path / NAME, file).write_bytes(CONTENT + b"more")
    fetch([(Request(MODEL, NAME), tmp_path)], hub=hub)
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_part_that_is_whole_needs_no_connection_to_the_store(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    [file] = hub.files(Request(MODEL, NAME), tmp_path)
    partial.partial_path(tmp_path / NAME, file).write_bytes(CONTENT)
    fetch([(Request(MODEL, NAME), tmp_path)], hub=hub)
    assert (tmp_path / NAME).read_bytes() == CONTENT and not server.gets()


# Refusals

@pytest.mark.parametrize(("status", "token", "words"), [
    (401, "", ("is gated and you are not logged in", "hf auth login", "HF_TOKEN", f"/{GEMMA},", "fetch gemma-comfy")),
    (403, "hf_x", ("is gated and the account", "same account", "fine-grained", "fetch gemma-comfy"))])
def test_gated(server: FakeHub, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, token: str,
               words: tuple[str, ...]) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    for path in FILES[GEMMA]:  # as in reality: anybody may list the repository
        server.refuse[f"{GEMMA}:{path}"] = (status, "GatedRepo")
    message = failure(Request(GEMMA, instead="gemma-comfy"), tmp_path, hub)
    assert all(word in message for word in words) and left(tmp_path) == []
    assert not token or token not in message


@pytest.mark.parametrize(("request_", "words"), [
    (Request(MODEL, "gone.safetensors"), ("org/model (main) has no file 'gone.safetensors'", "/org/model/tree/main")),
    (Request(MODEL, NAME, "v9"), ("org/model has no revision 'v9'", "/commits")),
    (Request(GEMMA, "", "v9"), ("google/gemma has no revision 'v9'",)),
    (Request("org/none", NAME), ("knows no repository org/none", "spelling")),
    (Request("org/none"), ("knows no repository org/none", "spelling")),
    (Request(MODEL, "none/"), ("org/model none/ holds no model files", "*.safetensors")),
])
def test_not_found(hub: Hub, tmp_path: Path, request_: Request, words: tuple[str, ...]) -> None:
    message = failure(request_, tmp_path, hub)
    assert all(word in message for word in words), message
    assert left(tmp_path) == []


@pytest.mark.parametrize(("status", "words"), [
    (403, "in a browser"), (401, "token is not valid"), (429, "raises the limit"), (503, "Try again later")])
def test_other_answers(server: FakeHub, hub: Hub, tmp_path: Path, status: int, words: str) -> None:
    server.refuse[MODEL] = (status, "")
    message = failure(Request(MODEL, NAME), tmp_path, hub)
    assert words in message and f"answered {status}" in message


def test_login_page_of_a_network(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    server.plain = True
    assert "login page" in failure(Request(MODEL, NAME), tmp_path, hub)


def test_refused_in_the_middle(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    server.break_after, server.refuse_store = [1_000_000], []
    stop = Bar()

    def forbid(done: int, total: int, name: str) -> None:
        stop(done, total, name)
        server.refuse_store = [403]

    with pytest.raises(HubError, match="answered 403"):
        fetch([(Request(MODEL, NAME), tmp_path)], forbid, hub)
    assert [name.endswith(".incomplete") for name in left(tmp_path)] == [True]


def test_wrong_hash_is_deleted(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    server.spoil = True
    message = failure(Request(MODEL, NAME), tmp_path, hub)
    assert sha256(CONTENT)[:16] in message and sha256(CONTENT[::-1])[:16] in message
    assert left(tmp_path) == []


def test_small_files_are_checked_too(server: FakeHub, hub: Hub, tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_server, "git_hash", lambda content: git_hash(content + b"x"))
    assert "with the hash" in failure(Request(GEMMA, "config.json"), tmp_path, hub)
    assert left(tmp_path) == []


@pytest.mark.parametrize("path", ["../evil.safetensors", "a/../../evil.safetensors", "/evil.safetensors",
                                  "C:evil.safetensors", "a\\evil.safetensors"])
def test_names_that_leave_the_folder(server: FakeHub, hub: Hub, tmp_path: Path, path: str) -> None:
    server.files[MODEL][path] = b"x"
    assert "Do not use this repository" in failure(Request(MODEL), tmp_path / "to", hub)
    assert left(tmp_path) == []


# The disk

USAGE = namedtuple("USAGE", "total used free")


@pytest.mark.parametrize(("total", "stays"), [(10**12, 20 * 10**9), (10**11, 10**10), (2 * 10**11, 20 * 10**9)])
def test_no_room(server: FakeHub, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int,
                 stays: int) -> None:
    """A tenth of the disk stays free, or 20 GB, whichever is less."""
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: USAGE(total, 0, stays + len(CONTENT) - 1))
    message = failure(Request(MODEL, NAME), tmp_path / "a" / "b", hub)
    assert str(tmp_path) in message and f"{stays / 1e9:.1f} GB of this disk stay free" in message
    assert "another disk" in message
    assert not server.gets() and left(tmp_path) == []
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: USAGE(total, 0, stays + len(CONTENT)))
    assert fetch([(Request(MODEL, NAME), tmp_path / "a" / "b")], hub=hub)


def test_room_counts_what_is_there(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch([(Request(MODEL, NAME), tmp_path)], Bar(stop_at=1 << 20), hub)
    free = len(CONTENT) - (1 << 20)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: USAGE(0, 0, free))
    fetch([(Request(MODEL, NAME), tmp_path)], hub=hub)


# A server that sends more than the hub has stated

@pytest.mark.parametrize("longer", [1, 1 << 18, 1 << 20])
def test_longer_body_is_cut_off(server: FakeHub, hub: Hub, tmp_path: Path, longer: int) -> None:
    server.longer = longer
    [result] = fetch([(Request(MODEL, NAME), tmp_path)], hub=hub)
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert result.ways == ("downloaded, hash checked, the server sent more than that: cut off",)
    assert "cut off" in result.line and left(tmp_path) == [NAME]


def test_longer_body_of_other_content(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    server.longer, server.spoil = 1000, True
    assert f"{len(CONTENT)} bytes and more with the hash" in failure(Request(MODEL, NAME), tmp_path, hub)
    assert left(tmp_path) == []


def test_longer_body_without_a_hash(server: FakeHub, hub: Hub, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_server, "sha256", lambda content: "W/none")
    [result] = fetch([(Request(MODEL, NAME), tmp_path / "right")], hub=hub)
    assert result.ways == ("downloaded (the server states no hash)",)
    server.longer = 1
    message = failure(Request(MODEL, NAME), tmp_path / "longer", hub)
    assert "sent more than a.safetensors is" in message and "states no hash" in message
    assert left(tmp_path / "longer") == []


def test_disk_that_fills_up(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: partial.Partial, chunk: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(partial.Partial, "add", full)
    assert "cannot be written (No space left on device)" in failure(Request(MODEL, NAME), tmp_path, hub)


def test_place_below_a_file(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in failure(Request(MODEL, NAME), tmp_path / "file", hub)


def test_file_of_the_user_is_kept(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"mine")
    assert "has 4 bytes, the hub's file 3145728" in failure(Request(MODEL, NAME), tmp_path, hub, RequestError)
    assert (tmp_path / NAME).read_bytes() == b"mine" and not server.gets()


def test_two_files_of_one_name(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="both have a file a.safetensors"):
        fetch([(Request(MODEL, NAME), tmp_path), (Request(MODEL, "other/a.safetensors"), tmp_path)], hub=hub)


def test_second_process(hub: Hub, tmp_path: Path) -> None:
    with FileLock(tmp_path / f".{NAME}.lock"):
        assert "another process" in failure(Request(MODEL, NAME), tmp_path, hub)


# The cache of huggingface_hub

def cache_file(cache: Path, repo: str, path: str, content: bytes) -> Path:
    """Put a file into a cache as the library does."""
    base = cache / f"models--{repo.replace('/', '--')}"
    blob, name = base / "blobs" / sha256(content), base / "snapshots" / COMMIT / path
    for folder in (blob.parent, name.parent, base / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (base / "refs" / "main").write_text(COMMIT)
    blob.write_bytes(content)
    name.symlink_to(blob)
    return name


def test_cached_file_is_used_in_place(server: FakeHub, hub: Hub) -> None:
    name = cache_file(hub.cache, MODEL, NAME, CONTENT)
    [result] = fetch([(Request(MODEL, NAME), None)], hub=hub)
    assert result.path == name and result.ways == ("in the Hugging Face cache",) and not server.gets()


def test_cached_file_gets_a_second_name(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    name = cache_file(hub.cache, MODEL, NAME, CONTENT)
    [result] = fetch([(Request(MODEL, NAME), tmp_path / "to")], hub=hub)
    assert result.ways == ("in the Hugging Face cache, hard link",) and not server.gets()
    assert result.path.samefile(name) and not result.path.is_symlink() and left(tmp_path / "to") == [NAME]


@pytest.mark.parametrize(("missing", "way"), [(("link",), "symbolic link"), (("link", "symlink"), "copied")])
def test_cache_on_another_disk(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...],
                               way: str) -> None:
    def cannot(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    cache_file(hub.cache, MODEL, NAME, CONTENT)
    for name in missing:
        monkeypatch.setattr(fetching.os, name, cannot)
    [result] = fetch([(Request(MODEL, NAME), tmp_path / "to")], hub=hub)
    assert result.ways == (f"in the Hugging Face cache, {way}",) and result.path.read_bytes() == CONTENT
    assert left(tmp_path / "to") == [NAME]


def test_broken_cached_file_is_not_used(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    cache_file(hub.cache, MODEL, NAME, CONTENT[:-1])
    [result] = fetch([(Request(MODEL, NAME), tmp_path / "to")], hub=hub)
    assert result.ways == ("downloaded, hash checked",) and len(server.gets()) == 1


def test_cached_folder_in_part(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    for name in ("config.json", *SHARDS):
        cache_file(hub.cache, GEMMA, name, FILES[GEMMA][name])
    [result] = fetch([(Request(GEMMA), tmp_path / "to")], hub=hub)
    assert "3 in the Hugging Face cache, hard link, 3 downloaded" in result.line and not server.gets()


def test_not_in_the_cache_and_no_folder(hub: Hub) -> None:
    assert "--to or --comfyui" in failure(Request(MODEL, NAME), None, hub, RequestError)


def test_cache_serves_without_a_hub(tmp_path: Path) -> None:
    hub = Hub("http://127.0.0.1:1", tmp_path / "cache")
    name = cache_file(hub.cache, MODEL, NAME, CONTENT)
    assert fetch([(Request(MODEL, NAME), None)], hub=hub)[0].path == name
    for path in ("config.json", "model.safetensors.index.json", *SHARDS):
        name = cache_file(hub.cache, GEMMA, path, FILES[GEMMA][path])
    assert fetch([(Request(GEMMA), None)], hub=hub)[0].path == name.parent
    name.unlink()  # a shard that its index names
    assert "cannot be reached" in failure(Request(GEMMA), None, hub, OfflineError)


# Without a connection

def test_no_connection(server: FakeHub, tmp_path: Path) -> None:
    hub = Hub("http://127.0.0.1:1", tmp_path / "cache")
    message = failure(Request(MODEL, NAME), tmp_path / "to", hub, OfflineError)
    assert f"http://127.0.0.1:1/{MODEL}/resolve/main/{NAME}" in message and str(tmp_path / "to") in message
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / NAME).write_bytes(CONTENT)
    assert fetch([(Request(MODEL, NAME), tmp_path / "to")], hub=hub)[0].ways == ("already there",)


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    keep = {k: v for k, v in os.environ.items() if k.lower() not in ("http_proxy", "hf_token")}
    return subprocess.run([sys.executable, "-m", "ltx23_core", "fetch", *arguments], cwd=ROOT, capture_output=True,
                          text=True, timeout=300, env={**keep, "NO_PROXY": "127.0.0.1", **environment})


def test_offline_switch(server: FakeHub, tmp_path: Path) -> None:
    done = command(f"{MODEL}:{NAME}", "--to", str(tmp_path), HF_HUB_OFFLINE="1", HF_ENDPOINT=server.address,
                   HF_HOME=str(tmp_path / "home"))
    assert done.returncode == 2, done.stderr
    assert "Unset HF_HUB_OFFLINE" in done.stderr.replace("\n", " ") and not server.asked


# The command line

def test_command(server: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "ui" / "models").mkdir(parents=True)
    done = command(f"{MODEL}@v1:{NAME}", "--comfyui", str(tmp_path / "ui"), "--folder", "loras",
                   HF_ENDPOINT=server.address, HF_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    place = tmp_path / "ui" / "models" / "loras" / NAME
    assert done.stdout == f"{NAME}: 3.1 MB, downloaded, hash checked -> {place}\n" and place.read_bytes() == CONTENT
    assert "Traceback" not in done.stderr
    place.unlink()
    done = command(f"{MODEL}:{NAME}", "--to", str(place.parent), "--quiet", HF_ENDPOINT=server.address,
                   HF_HOME=str(tmp_path / "home"))
    assert (done.returncode, done.stderr) == (0, "") and place.read_bytes() == CONTENT


def test_list_needs_no_connection_and_no_torch() -> None:
    code = ("import sys; from ltx23_core.cli import parser as cli; cli.main(['fetch', '--list']); "
            "sys.exit(len({'torch', 'huggingface_hub', 'transformers'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and all(entry.name in done.stdout for entry in CATALOGUE)


@pytest.mark.parametrize(("arguments", "words"), [
    (["gema", "--to", "x"], "--list"), (["org/x:y.safetensors", "--comfyui", "."], "--folder"),
    (["dev", "--comfyui", "/none"], "no folder models")])
def test_wrong_commands(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fetch", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["dev", "--to", "a", "--comfyui", "b"], ["dev", "--token", "x"]])
def test_command_lines_that_make_no_sense(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.parse(["fetch", *arguments])


def test_stopped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ltx23_core.cli.fetch.fetch_files", stop)
    assert cli.main(["fetch", "dev", "--to", "x"]) == 130
    assert "same command continues" in capsys.readouterr().err


# What must not happen, and other versions

def test_the_library_never_downloads_by_itself() -> None:
    code = ("import sys, ltx23_core, ltx23_core.pipeline, ltx23_core.cli.parser, ltx23_core.cli.generate; "
            "data = {'ltx23_core.hub', 'ltx23_core.hub.catalogue'}; "  # a table of files, for what is missing
            "sys.exit(sum(name.startswith('ltx23_core.hub') and name not in data for name in sys.modules))")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=300).returncode == 0
    for path in [*(ROOT / "ltx23_core").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        inside = path.parent.name == "hub"
        assert inside or "huggingface_hub" not in text, path
        if not inside and path.name not in ("fetch.py", "get.py"):
            assert "from .hub" not in text and "ltx23_core.hub" not in text, path


@pytest.mark.skipif(huggingface_hub.__version__.startswith("0."), reason="this is the run with the old library")
def test_oldest_supported_library(tmp_path: Path) -> None:
    if not (OLDEST / "huggingface_hub").is_dir():
        pytest.skip(f"No {OLDEST}: test_text_oldest makes it.")
    pytest.importorskip("requests")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", __file__,
                           "-k", "not the_library_never", f"--basetemp={tmp_path / 'base'}"], cwd=ROOT, text=True,
                          capture_output=True, timeout=500, env={**os.environ, "PYTHONPATH": str(OLDEST)})
    assert done.returncode == 0, done.stdout + done.stderr
