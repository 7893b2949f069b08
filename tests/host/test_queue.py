"""The queue as programs use it: the documented client, many prompts, two clients, a restart in between, no growth."""
from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import av
import psutil
import pytest

from tests.conftest import ROOT, Host
from tests.host import graphs
from tools import queue_client
from tools.client import ClientError
from tools.queue_client import Queue, with_values

API = graphs.WORKFLOWS / "api"
SMALL = {"Sampler.width": 64, "Sampler.height": 64, "Sampler.frames": 9, "Sampler.steps": 1}
SETTINGS = ({}, {"Sampler.width": 96}, {"Sampler.frames": 17}, {"Sampler.streams": "video"}, {"Sampler.batch": 2})


def small(seed: int, **more: object) -> dict:
    values = {**SMALL, "Sampler.seed": seed, "Decode To File.filename_prefix": f"queue/{seed}", **more}
    return Queue("http://x").graph(API / "quick_start.json", values)


def test_submit_follow_fetch(host: Host, tmp_path: Path) -> None:
    queue, lines = Queue(host.url), []
    [path] = queue.make(small(1), tmp_path / "results", lines.append)
    with av.open(str(path)) as file:
        assert [stream.type for stream in file.streams] == ["video", "audio"]
    assert any(re.match(r"64x64 · 0.38 s · step 1/1 · ", line) for line in lines), lines
    assert all(line != next_one for line, next_one in itertools.pairwise(lines)), lines
    queue.close()


def test_the_command_line(host: Host, tmp_path: Path) -> None:
    values = [f"{key}={value}" for key, value in {**SMALL, "Sampler.seed": 2}.items()]
    done = subprocess.run([sys.executable, "-m", "tools.queue_client", host.url, API / "quick_start.json", *values,
                           "-o", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).stat().st_size > 500
    done = subprocess.run([sys.executable, "-m", "tools.queue_client", host.url, API / "quick_start.json",
                           "Sampler.width=97"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Use 96 or 128." in done.stderr and "Traceback" not in done.stderr


def test_values_by_title() -> None:
    graph = json.loads((API / "two_stage_apart.json").read_text(encoding="utf-8"))
    with pytest.raises(ClientError, match=r"2 nodes have the name 'Sampler'.*7 Sampler.seed"):
        with_values(graph, {"Sampler.seed": 1})
    assert with_values(graph, {"7.seed": 1})["7"]["inputs"]["seed"] == 1
    with pytest.raises(ClientError, match="no input 'sed'"):
        with_values(graph, {"7.sed": 1})
    assert graph["7"]["inputs"]["seed"] == 10, "the graph that was given stays"


@pytest.mark.parametrize(("url", "path", "said"), [
    ("http://127.0.0.1:1", API / "quick_start.json", r"http://127\.0\.0\.1:1 does not answer: "),
    ("http://127.0.0.1:1", API / "none.json", r"none\.json cannot be read as a graph: .*No such file"),
    ("http://127.0.0.1:1", graphs.ui_file("quick_start"), r"no graph in API form: take one of workflows/api"),
    ("http://127.0.0.1:1", ROOT / "README.md", r"README\.md cannot be read as a graph")])
def test_what_cannot_be_sent_is_a_sentence(url: str, path: Path, said: str, capsys: pytest.CaptureFixture,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["queue_client", url, str(path)])
    assert queue_client.main() == 1
    assert re.search(said, capsys.readouterr().err)


def test_twenty_prompts_of_two_clients(host: Host, tmp_path: Path) -> None:
    """Mixed settings, in line together: each client gets its own files, nothing is read twice, memory does not grow."""
    process = psutil.Process(host.server.process.pid)
    Queue(host.url).make(small(99), tmp_path)
    loads, made, errors = host.log.count("loaded transformer"), {}, []

    def work(client: int) -> None:
        queue = Queue(host.url)
        try:
            ids = [(seed, queue.queue(small(seed, **SETTINGS[seed % len(SETTINGS)])))
                   for seed in range(100 + 10 * client, 110 + 10 * client)]
            for seed, prompt_id in ids:
                entry = queue.history(prompt_id)
                assert entry["status"]["status_str"] == "success", entry["status"]
                made[seed] = [file["filename"] for node in entry["outputs"].values() for file in node.get("images", ())]
        except Exception as error:
            errors.append(error)
        finally:
            queue.close()

    threads = [threading.Thread(target=work, args=(client,)) for client in range(2)]
    for thread in threads:
        thread.start()
    before = process.memory_info().rss
    for thread in threads:
        thread.join()
    assert not errors, errors
    assert sorted(made) == list(range(100, 120))
    for seed, names in made.items():
        assert len(names) == (2 if seed % len(SETTINGS) == 4 else 1)
        assert all(name.startswith(f"{seed}_") for name in names)
    assert host.log.count("loaded transformer") == loads, "the weights stay"
    assert process.memory_info().rss - before < 300e6


def test_a_restart_in_mid_queue(start_host: Callable[..., Host], tmp_path: Path) -> None:
    """What waited is gone and says so; the same client goes on with the server that comes back."""
    first = start_host("restarted")
    queue = Queue(first.url)
    ids = [queue.queue(small(seed, **{"Sampler.steps": 60})) for seed in range(3)]
    first.server.stop()
    with pytest.raises((ClientError, OSError)):
        queue.follow(ids[0])
    queue.close()
    first.server.start()
    again = Queue(first.url)
    assert again.get("/queue") == {"queue_running": [], "queue_pending": []}
    assert all(again.get(f"/history/{one}") == {} for one in ids)
    [path] = again.make(small(0), tmp_path)
    assert path.stat().st_size > 500
    again.close()
