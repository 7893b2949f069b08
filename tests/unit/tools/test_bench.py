"""Smoke runs of the benches that otherwise need a GPU: every line of their table, at tiny widths."""
from __future__ import annotations

import importlib.util
import json
import math
import sys

import pytest

from bench import cards, decode, end_to_end, generate, host, parallel, quantise, text, transformer
from bench.streaming import main as streaming
from tests.goldens.harness import CHECKPOINT, GEMMA

PEERS = ["torch-forms", "one-stream", "fp8", "int8"]
if importlib.util.find_spec("diffusers"):
    PEERS.append("diffusers-eager")


@pytest.mark.parametrize("guided", [False, True])
def test_transformer_beside_its_peers(guided, tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["bench", "--tiny", "--sizes", "tiny", "--device", "cpu",
                                      "--peers", ",".join(PEERS), "--repeats", "1", "--out", str(out),
                                      "--guided-sizes", "tiny"])
    args = transformer.parser(guided).parse_args()
    rows = transformer.run(args)
    names = [f"guided step, {name}" for name in ("ours", "fp8", "int8")]
    firsts = ["ours", *PEERS]
    if guided:
        firsts = [f"guided step, {name}" for name in firsts]
    assert [row["what"] for row in rows] == firsts + names
    for row in rows:
        assert row["seconds"] > 0 and math.isfinite(row["floor"])
        lossy = row["what"].removeprefix("guided step, ") in transformer.CODES
        assert (1e-3 < row["error"] < 0.1) if lossy else row["error"] < 1e-5, "the same weights in float32"
    assert "against the peer" in transformer.shown(rows)


def test_writing_a_text(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--tiny", "--tokens", "3", "--prompt", "5"])
    generate.main()
    assert "| second | 3 |" in capsys.readouterr().out


def test_several_devices(tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["bench", "--tiny", "--sizes", "tiny", "--gpus", "2", "--repeats", "1",
                                      "--out", str(out)])
    parallel.main()
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert {row["what"] for row in rows} == {"guided step", "single pass", "decode", "queue of guided steps"}
    assert all(row["error"] < 1e-5 for row in rows if row.get("error") is not None)
    assert [row["same_bytes"] for row in rows if "same_bytes" in row] == [True]
    assert "as planned" in capsys.readouterr().out


def test_decoding(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--tiny", "--sizes", "tiny", "--repeats", "1"])
    decode.main()
    table = capsys.readouterr().out
    for name in ("device alone", "byte frames on the host", "mp4"):
        assert f"| tiny | 17 | decode whole | {name} |" in table


def test_decoding_with_sound(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--tiny", "--sizes", "tiny", "--frames", "9", "--repeats", "1",
                                      "--sound"])
    decode.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| tiny | 9 |")]
    both = [row for row in rows if len(row) == len(decode.SOUND_HEAD)]
    assert [(row[3], row[9]) for row in both] == [("bytes on the host", "True"), ("mp4", "True")]


def test_peaks_of_decoding(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--tiny", "--sizes", "tiny", "--frames", "9,41", "--memory", "0.06",
                                      "--repeats", "0", "--agreement"])
    decode.main()
    table = capsys.readouterr().out
    assert "decode 8 frames at a time: inf dB" not in table and "dB" in table
    assert "| tiny | 9 | decode whole | byte frames on the host |" in table


def test_encoding_prompts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--tiny", "--folder", str(tmp_path / "text"), "--budgets",
                                      "stream,auto", "--words", "20"])
    text.main()
    table = capsys.readouterr().out
    assert "| stream | text_projection | streamed |" in table and "| auto | connectors | resident |" in table
    assert table.count("equal to the first budget's") == 2 and "DIFFER" not in table


def test_from_a_prompt_to_a_file(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--checkpoint", str(CHECKPOINT), "--text-encoder", str(GEMMA), "--sizes",
                                      "tiny", "--steps", "1", "--runs", "2", "--device", "cpu"])
    end_to_end.main()
    assert "| tiny | one_stage | again, 1 |" in capsys.readouterr().out


def test_what_a_card_can_do(tmp_path):
    out = tmp_path / "streaming.txt"
    out.write_text(f"bf16 | 768x512 | 4 passes | budget {cards.budget(8)} | streamed 44 of 48 blocks | step 1.234 "
                   "| x1.1\n"
                   "bf16 | 768x512 | 4 passes | budget None | resident | step 1.100 | x1.0\n"
                   "bf16 | 768x512 | 1 passes | budget None | resident | step 0.400 | x1.0\n")
    text = cards.report(cards.measured_steps(out))
    assert "| 8 GB | bf16 | 4 of 48 blocks resident | 1.23 | 34.0 GB: 1.4 s at PCIe 4" in text
    assert "| 80 GB | bf16 | all resident, 38.8 GB | 1.10 | no limit |" in text
    assert "| 12 GB | Q4_K |" in text and "not measured" in text
    for row in ("| 8 GB | 4, 34.0 GB | 8, 15.5 GB | 8, 15.5 GB | 17, 6.8 GB | 9, 16.1 GB | 20, 6.1 GB |",
                "| 12 GB | streamed 27 of 48 blocks | 32 frames at a time, 1.9 GB | "):
        assert row in text, "as in docs/performance.md and the README"


def test_what_the_host_does(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--tiny", "--sizes", "tiny", "--top", "5", "--layers", "2"])
    host.main()
    text = capsys.readouterr().out
    assert "# tiny: launched in" in text and "function calls" in text


def test_quantising(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [
        "bench", "--folder", str(tmp_path), "--checkpoint", str(CHECKPOINT), "--device", "cpu", "--forms", "int8",
        "--size", "tiny", "--run", "tiny", "--steps", "1", "--text", "8", "--repeats", "1", "--save", "int8"])
    quantise.main()
    shown = capsys.readouterr().out
    [row] = [line.split(" | ") for line in shown.splitlines() if line.startswith("| int8")]
    assert 0.001 < float(row[-2]) < 0.1 and 0.001 < float(row[-1].strip(" |")) < 0.2, "errors of a forward and a run"
    assert "saved int8" in shown and "bits equal" in shown


def test_ways_to_stream_and_to_load(tmp_path, monkeypatch, capsys):
    """The rows that the next GPU decides by: all are there, within their budgets, with the same bits."""
    monkeypatch.setattr(sys, "argv", ["bench", "--tiny", "--folder", str(tmp_path), "--only", "shares,approaches"])
    streaming.main()
    lines = capsys.readouterr().out.splitlines()
    loads = [line for line in lines if line.startswith("first load")]
    steps = [line for line in lines if line.startswith("tiny, ")]
    assert len(loads) == 7 and len(steps) == 7
    for line in (*loads, *steps):
        assert "bits equal" in line, line
    assert sum("no copies" in line for line in steps) == 5
