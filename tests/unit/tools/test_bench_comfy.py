"""What the server's bench calls growth: what is still in use when the server rests, not what its allocator keeps."""
from __future__ import annotations

from types import SimpleNamespace

import pytest

from bench.comfy import sections
from bench.comfy.session import Table


class FakeSession:
    """A server that keeps memory of each prompt until it rests, and leaks some of each."""

    def __init__(self, leak: float) -> None:
        self.leak, self.kept, self.used, self.prompts, self.table = leak, 0.0, 70.0, 0, Table()
        self.models = SimpleNamespace(sizes=((1, 1, 1),) * 4)

    @property
    def watch(self) -> SimpleNamespace:
        return SimpleNamespace(now=self.used + self.kept, ram=7.0)

    def run(self, what: str, graph: object) -> None:
        self.prompts += 1
        self.used += self.leak
        self.kept = 0.0 if self.prompts == 8 else 1.2

    def rest(self) -> None:
        self.kept = 0.0

    def free(self, what: str) -> None:
        pass


@pytest.mark.parametrize(("leak", "verdict"), [(0.0, "no growth"), (0.05, "GROWN")])
def test_twenty_prompts(leak: float, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "video", lambda *_, **__: {})
    session = FakeSession(leak)
    sections.twenty(session, None)
    [row] = session.table.rows
    assert session.prompts == 20 and row[-1].startswith(f"{verdict}: device {12 * leak:+.2f} GB")
