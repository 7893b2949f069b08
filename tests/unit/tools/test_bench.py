"""Smoke runs of the benches that otherwise need a GPU: every line of their table, at tiny widths."""
from __future__ import annotations

import importlib.util
import math
import sys

import pytest

from bench import decode, end_to_end, generate, transformer
from tests.goldens.harness import CHECKPOINT, GEMMA

PEERS = ["torch-forms"] + (["diffusers-eager"] if importlib.util.find_spec("diffusers") else [])


@pytest.mark.parametrize("guided", [False, True])
def test_transformer_beside_its_peers(guided, tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["bench", "--tiny", "--sizes", "tiny", "--device", "cpu",
                                      "--peers", ",".join(PEERS), "--repeats", "1", "--out", str(out)])
    args = transformer.parser(guided).parse_args()
    rows = transformer.run(args)
    assert [row["what"] for row in rows] == ["ours", *PEERS]
    for row in rows:
        assert row["seconds"] > 0 and math.isfinite(row["floor"])
        assert row["error"] < 1e-5, "the same weights give the same velocities in float32"
    assert "against the peer" in transformer.shown(rows)


def test_writing_a_text(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--tiny", "--tokens", "3", "--prompt", "5"])
    generate.main()
    assert "| second | 3 |" in capsys.readouterr().out


def test_decoding(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--tiny", "--sizes", "tiny", "--repeats", "1"])
    decode.main()
    table = capsys.readouterr().out
    assert all(f"| tiny | {name} |" in table for name in ("device alone", "byte frames on the host", "mp4"))


def test_from_a_prompt_to_a_file(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--checkpoint", str(CHECKPOINT), "--text-encoder", str(GEMMA), "--sizes",
                                      "tiny", "--steps", "1", "--runs", "2", "--device", "cpu"])
    end_to_end.main()
    assert "| tiny | one_stage | again, 1 |" in capsys.readouterr().out
