"""Smoke runs of the benches that otherwise need a GPU: every line of their table, at tiny widths."""
from __future__ import annotations

import importlib.util
import json
import math
import sys

import pytest
import torch

from bench import (
    cards,
    decode,
    end_to_end,
    generate,
    host,
    kitchen,
    memory_results,
    parallel,
    quantise,
    targets,
    text,
    transformer,
)
from bench.measure import relative
from bench.streaming import gguf
from bench.streaming import main as streaming
from ltx23_core.overlay.bytes.gguf import read_gguf
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


def test_q4_k_files_of_the_bench_are_written_into_new_folders(tmp_path):
    path, layout = tmp_path / "new" / "w.gguf", {"x.a.weight": ("BF16", (3, 256)), "x.a.bias": ("BF16", (3,))}
    assert gguf.write_q4(path, layout, "x.", torch.device("cpu")) == path.stat().st_size
    assert read_gguf(path).tensors["a.weight"].dtype == "Q4_K"


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
    monkeypatch.setattr(sys, "argv", ["bench", "--checkpoint", str(CHECKPOINT), "--text-encoder", str(GEMMA), "--work",
                                      "one_stage:tiny,distilled_one_stage:tiny", "--matmul-dtypes", "default,fp8",
                                      "--steps", "2", "--first-steps", "1", "--runs", "2", "--device", "cpu"])
    end_to_end.main()
    text = capsys.readouterr().out
    for recipe in ("one_stage", "distilled_one_stage"):
        for products in ("default", "fp8"):
            assert f"| tiny | {recipe} | {products} | again, 1 |" in text


def test_measured_against_targets(tmp_path, monkeypatch, capsys):
    row = {"size": "a", "seconds": 0.32, "peak_gib": 36.5, "error": 0.0, "floor": 0.25, "top": None}
    rows = [row | {"what": "ours", "kernels": {"matmul": (217.0, 993)}}, row | {"what": "diffusers", "seconds": 0.36},
            row | {"what": "gates-apart", "seconds": 0.31}, row | {"what": "ours, first frame held", "seconds": 0.322},
            row | {"what": "guided step, ours", "seconds": 1.0}]
    lines = [f"# {each}" for each in rows]
    run = ["a", "one_stage", "fp8", "again, 1", 0.5, 21.0, 1.0, 0.9, "1.111x", 22.5]
    lines.append(f"# {run}")  # cut short: no table
    lines += ["| run | tokens/s | floor, tokens/s |", "| --- | --- | --- |", "| second | 57.0 | 120.0 |", "end"]
    lines += ["| size | what | of the device's |", "| --- | --- | --- |", "| c | mp4 | 1.050x |"]
    out = tmp_path / "one.txt"
    out.write_text("\n".join(lines))
    monkeypatch.setattr(sys, "argv", ["bench", str(out)])
    targets.main()
    text = capsys.readouterr().out
    for part in ("| a, ours | 0.3200 | 0.2500 | 78 % | 1.125x | 1.17, missed | 36.50 | 36, missed | – |",
                 "| a, guided step, ours | 1.0000 | – | – | 1.440x | 1.36, met |", "1.0063 of without | 1.01, met |",
                 "| gates-apart | a | -3.12 % | +0.00 |", "| a, ours | matmul 217.0 (993) |", "| 22.500 | 23, met |",
                 "| Enhance Prompt, tokens/s (floor 120) | 57.0 | 60, missed |",
                 "| decode c to mp4, of the device's time | 1.050 | 1.1, met |"):
        assert part in text


def test_beside_comfy_kitchen():
    """Our side, and the package's where it is installed, give what is compared."""
    data = kitchen.Data.make(16, torch.device("cpu"), torch.float32)
    want = kitchen.exact(data)
    sides = [kitchen.ours(data)]
    if importlib.util.find_spec(kitchen.PACKAGE):
        sides.insert(0, kitchen.theirs(data))
    for side in sides:
        for name, call in side.items():
            bound = {"fp8": 4e-2, "int": 2e-2}.get(name[:3], 1e-5)
            assert relative(kitchen.flat(call()), want[name]) < bound, name


def test_what_a_card_can_do(tmp_path):
    out = tmp_path / "streaming.txt"
    out.write_text(f"bf16 | 768x512 | 4 passes | budget {cards.budget(8)} | streamed 44 of 48 blocks | step 1.234 "
                   "| x1.1\n"
                   "bf16 | 768x512 | 4 passes | budget None | resident | step 1.100 | x1.0\n"
                   "bf16 | 768x512 | 1 passes | budget None | resident | step 0.400 | x1.0\n")
    text = cards.report(cards.measured_steps(out))
    assert "| 8 GB | bf16 | 4 of 48 blocks resident | 1.23 | 34.0 GB: 1.4 s at PCIe 4" in text
    assert "| 80 GB | bf16 | all resident, 39.0 GB | 1.10 | no limit |" in text
    assert "| 12 GB | Q4_K |" in text and "not measured" in text
    for row in ("| 8 GB | 4, 34.0 GB | 8, 15.5 GB | 8, 15.5 GB | 16, 7.0 GB | 8, 16.5 GB | 19, 6.3 GB |",
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


def test_ways_to_stream(tmp_path, monkeypatch, capsys):
    """The rows that the next GPU decides by: all are there, within their budgets, with the same bits."""
    monkeypatch.setattr(sys, "argv", ["bench", "--tiny", "--folder", str(tmp_path), "--only", "approaches"])
    streaming.main()
    lines = capsys.readouterr().out.splitlines()
    steps = [line for line in lines if line.startswith("tiny, ")]
    assert len(steps) == 7
    for line in steps:
        assert "bits equal" in line or "no copies" in line, line
    assert sum("no copies" in line for line in steps) == 2


STEPS = "{} | placed in 0.90 | first 2.0 | step {} | host 0.1 | x{} | bits equal | peak {} of planned {} | reserved 9.9"
MEMORY = {
    "rows": ["bf16 | 768x512 | 4 passes | budget None | " + STEPS.format("resident", 1.0, 1.0, 39.1, 39.2),
             "bf16 | 768x512 | 4 passes | budget 8 | " + STEPS.format("streamed 43 of 48 blocks", 1.2, 1.2, 7.5, 7.41),
             "bf16 | 768x512 | 4 passes | budget 8 | no copies 1.100, copies alone 0.650 = 53.0 GB/s",
             "bf16 | 768x512 | 4 passes | budget 6.71 | " + STEPS.format("streamed 44 of 48 blocks", 1.3, 1.3, 6, 7),
             "peer | 768x512 | 4 passes | 5.400 s | peak 3.30 GB | ours within 8 GB x4.50 | ours within 4.51 GB x3.25"],
    "server": ["# 8 GB: ours | 19.00 | 8.10 | 2.50 | streamed 44 of 48 blocks, planned 7.1; bits equal"],
    "fp8": ["ranges | fp8 | 19.4 GB | ring 23.0 GB/s | then [50.0, 52.0, 51.0] GB/s | refused 0",
            "component | fp8 | 19.4 GB on the device | loads [20.1, 47.0, 48.2] GB/s | RAM +0.30 GB"]}


def test_results_of_the_memory_run(tmp_path):
    """Each target with its verdict, a peak above its plan, and a card's row with a composed clip."""
    for name, printed in MEMORY.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(printed))
    lines = memory_results.report([tmp_path]).splitlines()

    def line(start: str) -> str:
        [found] = [each for each in lines if each.startswith(start)]
        return found

    assert line("| bf16, 768x512, within 8 GB: x of resident").endswith("1.200 | <= 1.15 | MISSED |")
    assert line("| peer / ours within 8 GB, 768x512, 4 passes").endswith("4.500 | >= 4 | met |")
    assert line("| warm load, fp8 / bare reader").endswith("0.927 | >= 0.9 | met |")
    assert "7.41 GB, EXCEEDED" in line("| bf16, 768x512, 4 | 8 GB")
    assert line("| 8 GB | 1.30, 44 of 48 |").endswith("| 55 |"), "19 s and 28 steps of 1.3"
    assert line("| 48 GB | 1.00, resident |")
