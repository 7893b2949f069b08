"""Folders that others use too: two servers on one output folder, files that move during a run, places that refuse."""
from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import pytest

from tests.conftest import Host
from tests.host import graphs
from tests.host.client import Run
from tests.host.test_cache import Log
from tests.host.test_refusals import refusal

PAIRS = 4


@pytest.fixture(scope="module")
def pair(start_host: Callable[..., Host]) -> tuple[Host, Host]:
    first = start_host("first_of_two")
    return first, start_host("second_of_two", options=("--output-directory", str(first.base.output)))


def names(run: Run) -> list[str]:
    assert run.ok, run.error
    return [entry["filename"] for entry in run.results()]


def test_two_servers_publish_into_one_folder_and_nothing_is_lost(pair: tuple[Host, Host]) -> None:
    """Both choose their number before decoding; each run makes two files."""
    def runs(host: Host) -> list[str]:
        found = []
        for seed in range(PAIRS):
            found += names(host.client.run(graphs.workflow("quick_start", "both/clip", frames=9, seed=seed, batch=2)))
        return found

    with ThreadPoolExecutor(2) as pool:
        made = [name for names in pool.map(runs, pair) for name in names]
    assert len(made) == len(set(made)) == 4 * PAIRS
    files = sorted((pair[0].base.output / "both").iterdir())
    assert [file.name for file in files] == sorted(made), "and no temporary file is left"
    for file in files:
        with av.open(str(file)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 9


def test_a_text_encoder_that_moves_during_sampling_costs_nothing(pair: tuple[Host, Host]) -> None:
    host = pair[0]
    gemma = host.base.models / "text_encoders" / graphs.GEMMA
    away = gemma.with_name("away")
    prompt = host.client.queue(graphs.workflow("quick_start", "moved/clip", seed=77, steps=6))
    moved = False
    for event in host.client.events(prompt):
        if event.type == "preview" and not moved:
            gemma.rename(away)
            moved = True
    if moved:
        away.rename(gemma)
    assert moved and event.type == "execution_success", event
    assert host.client.run(graphs.workflow("quick_start", "moved/after", seed=78)).ok


@pytest.fixture
def no_overlays(pair: tuple[Host, Host]) -> Iterator[Host]:
    """A server whose place for manifests takes none: a file stands there. (Permissions do not bind root.)"""
    host = pair[1]
    place = host.base.models / "ltx23_overlays"
    shutil.rmtree(place, ignore_errors=True)
    place.write_text("no folder")
    yield host
    place.unlink()


def test_a_models_folder_that_takes_no_file_is_told_and_no_hindrance(no_overlays: Host) -> None:
    host = no_overlays
    graph = graphs.workflow("quick_start", "elsewhere/clip", frames=9, seed=5, variant="dev")
    graph["90"] = {"class_type": "PreviewAny", "inputs": {"source": [graphs.node_id(graph, "LTX23Overlay"), 1]}}
    run = host.client.run(graph)
    assert run.ok, run.error
    text = run.outputs["90"]["text"][0]
    assert "cannot be written" in text and "the description of the overlay lies in user/" in text
    assert list((host.base.user / "ltx23_overlays").glob("*.ltx23.json"))


def test_a_manifest_that_is_there_is_not_written_again(pair: tuple[Host, Host]) -> None:
    host = pair[0]
    assert host.client.run(graphs.workflow("quick_start", "again/clip", frames=9, seed=1)).ok
    folder = host.base.models / "ltx23_overlays"
    before = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.ltx23.json")}
    log = Log(host)
    host.client.free()
    assert "transformer" in log.wait_released({"transformer"})
    graph = graphs.workflow("quick_start", "again/clip", frames=9, seed=2, precision="fp32")
    assert host.client.run(graph).ok
    assert before == {file.name: file.stat().st_mtime_ns for file in folder.glob("*.ltx23.json")} and before


def test_an_output_folder_that_takes_no_file_is_told_before_the_run(pair: tuple[Host, Host]) -> None:
    host = pair[0]
    blocked: Path = host.base.output / "blocked"
    blocked.write_text("no folder")
    details = refusal(host, graphs.workflow("quick_start", "blocked/clip"))
    blocked.unlink()
    assert any("leads into output/blocked, which is a file" in each for each in details["LTX23DecodeToFile"]), details
