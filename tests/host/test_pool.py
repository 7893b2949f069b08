"""Two ComfyUI servers behind one address: prompts spread, are followed, interrupted and fetched as from one server."""
from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import PACK_NAME, ROOT
from tests.host import graphs
from tests.host.client import Event, HostClient
from tests.host.test_interrupt import MANY
from tests.host.test_workflows import read_video
from tools.demo import add_tiny_model
from tools.host import Base, answers, clean_environment, free_port
from tools.install import FRONT_END, Place


@pytest.fixture(scope="module")
def pool(host_folder: Path) -> Iterator[tuple[HostClient, subprocess.Popen]]:
    comfy = Place(ROOT).comfy(FRONT_END)
    if not (comfy.source / "main.py").exists():
        pytest.skip(f"No ComfyUI in {comfy.source}: `python3 run.py test` installs it.")
    base = Base(host_folder / "pool").create()
    base.link_pack(PACK_NAME, ROOT)
    add_tiny_model(base, ROOT)
    port = free_port()
    command = [str(comfy.python), str(ROOT / "pool.py"), "--comfyui", str(comfy.source), "--gpus", "2", "--port",
               str(port), "--", "--cpu", "--base-directory", str(base.root), "--disable-api-nodes",
               "--front-end-root", str(comfy.front_end), "--preview-method", "auto"]
    with open(base.root / "pool.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=clean_environment({}))
    end = time.monotonic() + 400
    while not answers(f"http://127.0.0.1:{port}/system_stats"):
        assert process.poll() is None and time.monotonic() < end, (base.root / "pool.log").read_text()[-3000:]
        time.sleep(0.5)
    client = HostClient(f"http://127.0.0.1:{port}", base.root)
    yield client, process
    client.close()
    process.kill()
    process.wait()


def wait_for_two(client: HostClient) -> dict[str, list]:
    """The queue as soon as both servers are at work."""
    end = time.monotonic() + 100
    while len((queue := client.get("/queue"))["queue_running"]) < 2:
        assert time.monotonic() < end, queue
        time.sleep(0.2)
    return queue


def cut(client: HostClient, prompt: str) -> Event:
    """Interrupt a prompt as soon as it has a preview; the event that ended it."""
    pressed = False
    for event in client.events(prompt):
        if event.type == "preview" and not pressed:
            pressed = True
            client.interrupt(prompt)
    return event


def test_prompts_run_side_by_side_and_are_followed_as_on_one_server(pool) -> None:
    client, _ = pool
    tabs = [HostClient(client.url, client.base) for _ in range(6)]
    long = [tab.queue(graphs.workflow("quick_start", f"long{seed}", seed=seed, steps=MANY))
            for seed, tab in enumerate(tabs[4:])]
    prompts = []
    for seed, tab in enumerate(tabs[:4]):
        prompts.append(tab.queue(graphs.workflow("quick_start", f"pool{seed}", seed=seed, steps=6)))
    queue = wait_for_two(client)
    assert len(queue["queue_pending"]) == 4 and client.get("/prompt")["exec_info"]["queue_remaining"] == 6
    for tab, prompt in zip(tabs[4:], long, strict=True):
        assert cut(tab, prompt).type == "execution_interrupted"
        tab.close()
    for seed, (tab, prompt) in enumerate(zip(tabs[:4], prompts, strict=True)):
        run = tab.follow(prompt)
        tab.close()
        assert run.ok, run.error
        [entry] = run.results()
        assert entry["filename"].startswith(f"pool{seed}") and len(read_video(client.file(entry))[0]) == 17
    assert set(client.get("/history")) >= set(prompts)


def test_an_interrupt_reaches_the_server_that_has_the_prompt(pool) -> None:
    client, _ = pool
    other = HostClient(client.url, client.base)
    long = client.queue(graphs.workflow("quick_start", "cut300", seed=300, steps=MANY))
    short = other.queue(graphs.workflow("quick_start", "cut4", seed=4, steps=4))
    assert cut(client, long).type == "execution_interrupted" and other.follow(short).ok
    other.close()


def test_a_refusal_is_the_server_s_own(pool) -> None:
    client, _ = pool
    with pytest.raises(Exception, match="[Ff]rames|width|prompt"):
        client.queue(graphs.workflow("quick_start", "bad", frames=10))


def test_servers_end_with_the_pool(pool) -> None:
    client, process = pool
    servers = psutil.Process(process.pid).children(recursive=True)
    assert len([each for each in servers if "main.py" in each.cmdline()]) == 2
    process.kill()
    gone, left = psutil.wait_procs(servers, timeout=100)
    assert not left, "killed outright, and nothing is left behind"
