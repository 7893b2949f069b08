"""LTX23Fetch in a real server, with a hub on this machine: nothing without the box, then the file in its folder."""
from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Host
from tests.host.client import ClientError, Graph, HostClient
from tests.support.hub_server import FakeHub, running

REPO, FILE = "Lightricks/LTX-2.3", "ltx-2.3-spatial-upscaler-x2-1.1.safetensors"
CONTENT = os.urandom(6 << 20)
SLOW = 0.5  # seconds a part of 256 KiB: a download that is stopped has long to go


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with running({REPO: {FILE: CONTENT, "ltx-2.3-22b-dev.safetensors": CONTENT}}) as server:
        yield server


@pytest.fixture(scope="module")
def online(start_host: Callable[..., Host], hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A server whose hub is ours."""
    return start_host("online", models=False, environment={
        "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path_factory.mktemp("hf")),
        "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_TOKEN": ""})


def graph(file: str, download: bool) -> Graph:
    return {"1": {"class_type": "LTX23Fetch", "inputs": {"file": file, "download": download}}}


def test_nothing_is_downloaded_without_the_box(online: Host, hub: FakeHub) -> None:
    hub.asked.clear()
    run = online.client.run(graph("upscaler-x2", False))
    [report] = run.outputs["1"]["text"]
    assert run.ok and FILE in report and "Turn on download" in report and not hub.asked


def test_interrupted_then_finished(online: Host, hub: FakeHub) -> None:
    folder = online.base.models / "latent_upscale_models"
    hub.slow = SLOW
    prompt = online.client.queue(graph("upscaler-x2", True))
    for event in online.client.events(prompt):
        nodes = event.data.get("nodes", {}) if event.type == "progress_state" else {}
        if nodes.get("1", {}).get("value", 0) > 1 << 19:
            online.client.interrupt()
    assert event.type == "execution_interrupted"
    [part] = [path for path in folder.rglob("*") if path.is_file() and "put_" not in path.name]
    assert part.name.endswith(".incomplete") and 0 < part.stat().st_size < len(CONTENT)
    hub.slow = 0
    run = online.client.run(graph("upscaler-x2", True))
    assert run.ok and (folder / FILE).read_bytes() == CONTENT and not part.exists()
    assert hub.gets()[-1].headers["range"].startswith("bytes=")
    assert f"downloaded, hash checked -> models/latent_upscale_models/{FILE}" in run.outputs["1"]["text"][0]
    assert run.progress("1")[-1] == (len(CONTENT), len(CONTENT))
    hub.asked.clear()
    run = online.client.run(graph("upscaler-x2", False))
    assert "is there" in run.outputs["1"]["text"][0] and not hub.asked
    (folder / FILE).unlink()
    assert "is not in" in online.client.run(graph("upscaler-x2", False)).outputs["1"]["text"][0]


def test_errors_reach_the_page(online: Host, hub: FakeHub) -> None:
    hub.refuse[REPO] = (403, "GatedRepo")
    try:
        run = online.client.run(graph("dev", True))
    finally:
        hub.refuse.clear()
    assert "is gated" in run.error["exception_message"] and "hf auth login" in run.error["exception_message"]


def test_unknown_names_are_refused(online: Host) -> None:
    with pytest.raises(ClientError, match="file is 'gema'"):
        online.client.queue(graph("gema", True))


def test_an_open_server_downloads_for_nobody(start_host: Callable[..., Host], hub: FakeHub) -> None:
    """Other computers reach it, and its owner has not set the switch; looking is allowed."""
    host = start_host("open", models=False, options=("--listen", "0.0.0.0"), environment={
        "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.address, "NO_PROXY": "127.0.0.1"})
    hub.asked.clear()
    with pytest.raises(ClientError) as refused:
        host.client.queue(graph("upscaler-x2", True))
    assert "LTX23_ALLOW_FETCH=1" in str(refused.value.body) and "--listen 0.0.0.0" in str(refused.value.body)
    linked = graph("upscaler-x2", False)
    linked["1"]["inputs"]["download"] = ["2", 0]
    linked["2"] = {"class_type": "PrimitiveBoolean", "inputs": {"value": True}}
    assert "LTX23_ALLOW_FETCH=1" in host.client.run(linked).error["exception_message"]
    run = host.client.run(graph("upscaler-x2", False))
    assert run.ok and "Turn on download" in run.outputs["1"]["text"][0]
    assert not hub.asked


def test_no_answer_carries_a_path_of_the_server(online: Host, hub: FakeHub) -> None:
    """Of the routes, of a refused prompt and of a run."""
    root, loras = str(online.base.root), online.base.models / "loras"
    loras.mkdir(exist_ok=True)
    (loras / "broken.safetensors").write_bytes(b"the password is hunter2")
    texts = [urllib.request.urlopen(f"{online.url}{path}").read().decode() for path in (
        "/ltx23/files", "/api/ltx23/files", "/ltx23/recipes")]
    with pytest.raises(ClientError) as refused:
        online.client.queue({"1": {"class_type": "LTX23Overlay", "inputs": {"checkpoint": "broken.safetensors"}}})
    texts.append(str(refused.value.body))
    blocker = online.base.models / "latent_upscale_models" / f".{FILE}.lock"
    blocker.mkdir()
    try:
        run = online.client.run(graph("upscaler-x2", True))
    finally:
        blocker.rmdir()
    texts.append(run.error["exception_message"])
    assert "models/latent_upscale_models/" in texts[-1]
    for text in texts:
        assert root not in text and "hunter2" not in text, text


def test_get_missing_files(online: Host, hub: FakeHub) -> None:
    """What the page's button does: sizes and room first, then one download in the background, stopped and continued."""
    client, folder = online.client, online.base.models / "latent_upscale_models"
    (folder / FILE).unlink(missing_ok=True)
    state = client.get("/ltx23/get")
    files = {each["name"]: each for each in state["files"]}
    assert files[FILE]["folder"] == "models/latent_upscale_models" and files[FILE]["size"] == 10**9
    assert files[FILE]["address"] == f"https://huggingface.co/{REPO}/blob/main/{FILE}"
    assert state["refused"] == "" and state["free"] > 0 and state["reserved"] > 0 and not state["running"]
    for asked in ({}, {"action": "start", "components": ["../x"]}, {"action": "start", "components": "upsampler_x2"}):
        with pytest.raises(ClientError, match="names no download"):
            client.post("/ltx23/get", asked)
    with pytest.raises(ClientError, match="no JSON object"):
        client.post("/ltx23/get", ["start"])
    for each in state["files"]:  # the hub gets them all
        repo, path = each["address"].removeprefix("https://huggingface.co/").split("/blob/main/")
        hub.files.setdefault(repo, {}).setdefault(path, CONTENT)
    hub.slow = SLOW
    start = {"action": "start", "components": ["upsampler_x2"]}
    assert client.post("/ltx23/get", start)["running"]
    with pytest.raises(ClientError, match="runs already"):
        client.post("/ltx23/get", start)
    wait_for(client, lambda now: now["done"] > 1 << 18)
    client.post("/ltx23/get", {"action": "stop"})
    stopped = wait_for(client, lambda now: not now["running"])
    assert stopped["said"].startswith("Stopped.") and 0 < stopped["done"] < stopped["total"]
    hub.slow = 0
    client.post("/ltx23/get", start)
    ended = wait_for(client, lambda now: not now["running"])
    assert ended["done"] == ended["total"] and f"-> models/latent_upscale_models/{FILE}" in ended["said"]
    assert str(online.base.root) not in str(ended)
    assert (folder / FILE).read_bytes() == CONTENT
    wanted = [each for each in state["files"] if "lora" not in each["folder"]]  # which was not asked for
    for each in wanted:
        assert (online.base.models / each["folder"].removeprefix("models/") / each["name"]).is_file()


def wait_for(client: HostClient, is_so: Callable[[dict], bool]) -> dict:
    """The state of the download, as soon as something is so of it."""
    deadline = time.monotonic() + 200
    while not is_so(state := client.get("/ltx23/get")):
        assert time.monotonic() < deadline, state
        time.sleep(0.2)
    return state
