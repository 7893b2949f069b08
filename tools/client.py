"""A small client of ComfyUI's HTTP and websocket interface; what the demo and the tests talk to the server with."""
from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = Any  # decoded JSON
Graph = dict[str, dict[str, Any]]  # API format: node id -> {"class_type", "inputs"}
ENDS = ("execution_success", "execution_error", "execution_interrupted")
WEBSOCKET_KEY = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
PREVIEW_WITH_METADATA = 4


class ClientError(RuntimeError):
    """The server did not do what it was asked; `status` and `body` are its answer, where there was one."""

    def __init__(self, message: str, status: int = 0, body: Json = None) -> None:
        """Args: message for people, HTTP status or 0, decoded body or None."""
        super().__init__(message)
        self.status, self.body = status, body


@dataclass
class Event:
    """One message of the websocket: `type` and `data` as ComfyUI names them; a preview has type `preview` and image."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    image: bytes = b""
    time: float = field(default_factory=time.monotonic)


class WebSocket:
    """The few parts of RFC 6455 that a client of a local server needs."""

    def __init__(self, host: str, port: int, path: str, timeout: float) -> None:
        """Connect; every later read waits at most `timeout` seconds.

        Raises:
            ClientError: nobody answers there, or something else than a websocket.
        """
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout)
        except OSError as error:
            raise ClientError(f"http://{host}:{port} does not answer: {error}") from None
        self._stream = self._socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Upgrade: websocket", "Connection: Upgrade",
                 f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", "")
        self._socket.sendall("\r\n".join(lines).encode())
        head = iter(lambda: self._stream.readline().strip(), b"")
        lines = [line.decode("latin-1") for line in head]
        proof = base64.b64encode(hashlib.sha1((key + WEBSOCKET_KEY).encode()).digest()).decode()
        if not lines or " 101 " not in lines[0] or not any(line.partition(":")[2].strip() == proof for line in lines):
            raise ClientError(f"No websocket at {host}:{port}{path}: {lines[:1]}")

    def send(self, payload: bytes, opcode: int = 1) -> None:
        """Send one frame, masked as a client must."""
        mask = os.urandom(4)
        size = len(payload)
        head = bytes([0x80 | opcode])
        if size < 126:
            head += bytes([0x80 | size])
        else:
            head += bytes([0x80 | 126]) + struct.pack(">H", size)
        self._socket.sendall(head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)))

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise ClientError("The server closed the websocket.")
        return data

    def receive(self) -> tuple[bool, bytes]:
        """The next whole message as (is it binary, bytes); answers pings on the way.

        Raises:
            ClientError: the server closed the connection.
            TimeoutError: nothing came for the timeout.
        """
        message, binary = b"", False
        while True:
            first, second = self._read(2)
            opcode, size = first & 0x0F, second & 0x7F
            if size == 126:
                size = struct.unpack(">H", self._read(2))[0]
            elif size == 127:
                size = struct.unpack(">Q", self._read(8))[0]
            payload = self._read(size)
            if opcode == 8:
                raise ClientError("The server closed the websocket.")
            if opcode == 9:
                self.send(payload, opcode=10)
            elif opcode in (0, 1, 2):
                binary = opcode == 2 if opcode else binary
                message += payload
                if first & 0x80:
                    return binary, message

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()
        self._socket.close()


class Client:
    """Talks to one server, for example `Client("http://127.0.0.1:8188")`; the websocket opens at the first need.

    Not for several threads at once: give each its own.
    """

    def __init__(self, url: str, timeout: float = 120) -> None:
        """Args: base address; seconds that any single answer or event may take."""
        self.url, self.timeout = url.rstrip("/"), timeout
        self.client_id = uuid.uuid4().hex
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._websocket: WebSocket | None = None

    def request(self, path: str, data: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
        """GET, or POST where there is data; the body of the answer.

        Raises:
            ClientError: the answer is not 200; `status` and `body` say more.
        """
        try:
            with self._opener.open(urllib.request.Request(self.url + path, data, dict(headers or {})),
                                   timeout=self.timeout) as reply:
                return reply.read()
        except urllib.error.HTTPError as error:
            body = error.read()
            try:
                body = json.loads(body)
            except ValueError:
                body = body.decode(errors="replace")
            raise ClientError(f"{path} answered {error.code}: {refusal(body)}", error.code, body) from None
        except urllib.error.URLError as error:
            raise ClientError(f"{self.url} does not answer: {error.reason}") from None

    def get(self, path: str, **query: str) -> Json:
        """The decoded JSON of a GET."""
        tail = "?" + urllib.parse.urlencode(query) if query else ""
        return json.loads(self.request(path + tail))

    def post(self, path: str, body: Json = None) -> Json:
        """The decoded JSON of a POST with a JSON body; None where the answer is empty."""
        reply = self.request(path, json.dumps(body).encode() if body is not None else b"",
                             {"Content-Type": "application/json"})
        return json.loads(reply) if reply else None

    def upload(self, file: Path, *, folder: str = "", overwrite: bool = True) -> str:
        """Put a file (image, video, sound) into the server's input folder; the name to use in a graph."""
        boundary = uuid.uuid4().hex
        fields = {"type": "input", "subfolder": folder, "overwrite": str(overwrite).lower()}
        parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
                 for key, value in fields.items()]
        parts += [f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{file.name}"\r\n'
                  f"Content-Type: application/octet-stream\r\n\r\n".encode(), file.read_bytes(),
                  f"\r\n--{boundary}--\r\n".encode()]
        reply = json.loads(self.request("/upload/image", b"".join(parts),
                                        {"Content-Type": f"multipart/form-data; boundary={boundary}"}))
        return "/".join(part for part in (reply["subfolder"], reply["name"]) if part)

    def view(self, entry: Mapping[str, str]) -> bytes:
        """The bytes of a result, given an entry of a node's ui dictionary (filename, subfolder, type)."""
        wanted = {key: entry[key] for key in ("filename", "subfolder", "type")}
        return self.request("/view?" + urllib.parse.urlencode(wanted))

    def connect(self) -> WebSocket:
        """The open websocket; asks for previews that say which node they belong to."""
        if self._websocket is None:
            address = urllib.parse.urlsplit(self.url)
            self._websocket = WebSocket(address.hostname, address.port, f"/ws?clientId={self.client_id}", self.timeout)
            self._websocket.send(json.dumps({"type": "feature_flags",
                                             "data": {"supports_preview_metadata": True}}).encode())
        return self._websocket

    def close(self) -> None:
        """Close the websocket."""
        if self._websocket is not None:
            self._websocket.close()
            self._websocket = None

    def queue(self, graph: Graph, extra: Mapping[str, Any] | None = None) -> str:
        """POST /prompt; the prompt's id.

        Raises:
            ClientError: the graph, or **any** of its outputs, is refused (ComfyUI itself runs what is left then).
        """
        self.connect()  # before queueing, so that no event is missed
        body = {"prompt": graph, "client_id": self.client_id, "extra_data": dict(extra or {})}
        reply = self.post("/prompt", body)
        if reply["node_errors"]:
            raise ClientError(f"/prompt: {refusal(reply)}", 200, reply)
        return reply["prompt_id"]

    def events(self, prompt_id: str) -> Iterator[Event]:
        """The events of a prompt, up to and with the one that ends it.

        Raises:
            ClientError: the server went away.
            TimeoutError: nothing at all came for the timeout.
        """
        websocket = self.connect()
        while True:
            binary, message = websocket.receive()
            event = decode_preview(message) if binary else Event(**json.loads(message))
            if event.data.get("prompt_id", prompt_id) == prompt_id:
                yield event
                if event.type in ENDS:
                    return

    def history(self, prompt_id: str) -> dict[str, Any]:
        """The entry of a finished prompt: outputs, status, messages. It lags behind the websocket, so this waits."""
        end = time.monotonic() + self.timeout
        while time.monotonic() < end:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                return entry
            time.sleep(0.05)
        raise ClientError(f"No history of prompt {prompt_id} within {self.timeout:.0f} s.")


def decode_preview(message: bytes) -> Event:
    """A binary frame: a preview with or without metadata, else an event of type `binary`."""
    kind = struct.unpack(">I", message[:4])[0]
    if kind == PREVIEW_WITH_METADATA:
        size = struct.unpack(">I", message[4:8])[0]
        return Event("preview", json.loads(message[8:8 + size]), message[8 + size:])
    if kind == 1:
        return Event("preview", {"image_type": {1: "image/jpeg", 2: "image/png"}.get(message[7], "")}, message[8:])
    return Event("binary", {"kind": kind}, message[4:])


def refusal(body: Json) -> str:
    """ComfyUI's refusal of a prompt in one readable text: the error and each node's errors."""
    if not isinstance(body, dict):
        return str(body)[:500]
    error = body.get("error") or {}
    lines = [error.get("message", "") if isinstance(error, dict) else str(error)]
    for node, entry in (body.get("node_errors") or {}).items():
        lines += [f"node {node} ({entry['class_type']}): {item['message']}: {item['details']}"
                  for item in entry["errors"]]
    return "\n".join(line for line in lines if line)
