"""A small Hugging Face hub on this machine: the part of the protocol that downloading needs, and its faults.

Two servers as in reality: the hub answers questions and redirects large files to the second, a store with ranges.
"""
from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WRONG_TOKEN = "Invalid credentials in Authorization header"  # with it a 401 is not taken for a missing repository
LARGE = ".safetensors"


@dataclass
class Asked:
    """One request that arrived."""

    server: str
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class FakeHub:
    """State of both servers; tests change it.

    Args:
        files: repository -> path -> content.
        refuse: repository or "repository:path" -> (status, X-Error-Code).
        refuse_store: statuses of the next answers of the store.
        break_after: bytes after which the next answers of the store break off, one each.
        ranges: whether the store knows them.
        spoil: whether the store sends other bytes.
        plain: whether the hub forgets the headers of a hub, as a login page of a network does.
        longer: bytes that the store sends beyond the end.
        slow: seconds before each part of a content.
    """

    files: dict[str, dict[str, bytes]]
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    refuse_store: list[int] = field(default_factory=list)
    break_after: list[int] = field(default_factory=list)
    ranges: bool = True
    spoil: bool = False
    plain: bool = False
    longer: int = 0
    slow: float = 0
    revisions: tuple[str, ...] = ("main", COMMIT, "v1")
    asked: list[Asked] = field(default_factory=list)
    address: str = ""
    store: str = ""

    def gets(self, server: str = "store") -> list[Asked]:
        """Requests for content."""
        return [each for each in self.asked if each.server == server and each.method == "GET"]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub
    kind: str
    timeout = 20

    def log_message(self, *_: object) -> None:
        """Be quiet."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(self.path.split("?")[0])
        self.hub.asked.append(Asked(self.kind, self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        if self.kind == "store":
            self.store(path)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self.listing(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.file(*match.groups())
        else:
            self.send(404)

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def refused(self, *keys: str) -> bool:
        for key in keys:
            if key in self.hub.refuse:
                status, code = self.hub.refuse[key]
                words = {"X_Error_Code": code} if code else {"X_Error_Message": WRONG_TOKEN}
                self.send(status, b"", **words)
                return True
        return False

    def repository(self, repo: str, revision: str) -> bool:
        if repo not in self.hub.files:
            self.send(401, b"", X_Error_Code="RepoNotFound")
        elif revision not in self.hub.revisions:
            self.send(404, b"", X_Error_Code="RevisionNotFound")
        else:
            return True
        return False

    def listing(self, repo: str, revision: str) -> None:
        if not self.refused(repo) and self.repository(repo, revision):
            siblings = [{"rfilename": name} for name in self.hub.files[repo]]
            body = {"_id": "x", "id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "private": False,
                    "tags": [], "downloads": 0, "likes": 0}
            self.send(200, json.dumps(body).encode(), Content_Type="application/json")

    def file(self, repo: str, revision: str, path: str) -> None:
        if self.hub.plain:
            return self.send(200, b"<html>Please log in</html>", Content_Type="text/html")
        if self.refused(repo, f"{repo}:{path}") or not self.repository(repo, revision):
            return None
        if path not in self.hub.files[repo]:
            return self.send(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        content = self.hub.files[repo][path]
        if not path.endswith(LARGE):
            return self.send(200, content, ETag=f'"{git_hash(content)}"', X_Repo_Commit=COMMIT)
        return self.send(302, b"", Location=f"{self.hub.store}/{repo}/{path}", X_Repo_Commit=COMMIT,
                         X_Linked_Size=str(len(content)), X_Linked_ETag=f'"{sha256(content)}"')

    def store(self, path: str) -> None:
        if self.hub.refuse_store:
            return self.send(self.hub.refuse_store.pop(0))
        repo, _, name = path[1:].rpartition("/")
        org, repo, *folders = repo.split("/")
        content = self.hub.files[f"{org}/{repo}"]["/".join([*folders, name])]
        if self.hub.spoil:
            content = content[::-1]
        content += b"x" * self.hub.longer
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1]) if self.hub.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = start + self.hub.break_after.pop(0) if self.hub.break_after else len(content)
        while start < min(end, len(content)):
            threading.Event().wait(self.hub.slow)
            self.wfile.write(content[start:min(end, start + (1 << 18))])
            start += 1 << 18
        if end < len(content):
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what some tests are about."""


@contextmanager
def running(files: dict[str, dict[str, bytes]]) -> Iterator[FakeHub]:
    """Both servers, on loopback, for the length of the block."""
    hub = FakeHub(files)
    servers = []
    for kind in ("hub", "store"):
        handler = type("Handler", (_Handler,), {"hub": hub, "kind": kind})
        servers.append(_Server(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
    hub.address, hub.store = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
