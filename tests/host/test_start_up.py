"""What the pack costs ComfyUI at its start, and that the log is clean after all that the tests did."""
from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT, Host
from tools.host import clean_environment
from tools.install import FRONT_END, Place

# ComfyUI 0.3.75 forgets to close the connection that init_db opens; Python complains when the garbage collector happens
# to find it in another thread. Whether it does depends on nothing but the number of objects made before.
COMFYUI_DATABASE = re.compile(r"^Exception (?:during reset|terminating connection).*\n"
                              r"(?:Traceback.*\n(?:  .*\n)+sqlite3\..*\n|During handling.*\n|\n)+", re.MULTILINE)

IMPORT_SECONDS = 0.15  # beyond torch and ComfyUI's own modules

# As ComfyUI does it: import under a path-derived name, ask for the nodes, build every schema.
MEASURE = """
import sys, time, json, asyncio, importlib.util
source, pack = sys.argv[1:3]
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, source)
import comfy.options
comfy.options.enable_args_parsing()
import nodes, comfy.sd, comfy_api.latest
before = set(sys.modules)
start = time.process_time()
spec = importlib.util.spec_from_file_location("/pack_x_path", pack + "/__init__.py", submodule_search_locations=[pack])
module = importlib.util.module_from_spec(spec)
sys.modules["/pack_x_path"] = module
spec.loader.exec_module(module)
extension = asyncio.run(module.comfy_entrypoint())
classes = asyncio.run(extension.get_node_list())
for each in classes:
    each.GET_SCHEMA()
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "nodes": len(classes), "new": sorted(set(sys.modules) - before)}))
"""


@pytest.fixture(scope="module")
def measured() -> dict:
    comfy = Place(ROOT).comfy(FRONT_END)
    if not (comfy.source / "main.py").exists():
        pytest.skip(f"No ComfyUI in {comfy.source}: `python3 run.py test` installs it.")
    done = subprocess.run([str(comfy.python), "-c", MEASURE, str(comfy.source), str(ROOT)], check=False, text=True,
                          capture_output=True, env=clean_environment(), cwd=comfy.source, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_import_time(measured: dict, record_property: pytest.RecordProperty) -> None:
    record_property("import_seconds", measured["seconds"])
    print(f"the pack adds {1000 * measured['seconds']:.0f} ms of CPU time to ComfyUI's start")
    assert measured["nodes"] == 11 and measured["seconds"] < IMPORT_SECONDS


def test_import_brings_nothing_heavy(measured: dict) -> None:
    heavy = ("transformers.models", "torchvision", "torchaudio", "av.", "scipy.", "triton")
    assert [name for name in measured["new"] if name.startswith(heavy)] == []


def test_import_brings_nothing_that_downloads(measured: dict) -> None:
    assert [name for name in measured["new"] if ".hub." in name and not name.endswith(".hub.catalogue")] == []


def test_one_copy_of_the_core(measured: dict) -> None:
    """Relative imports only: the library is a part of the pack's package and nothing puts it on sys.path."""
    assert [name for name in measured["new"] if name.split(".")[0] in ("ltx23_core", "main")] == []
    assert "/pack_x_path.ltx23_core.errors" in measured["new"]


def test_import_without_comfyui() -> None:
    """The entry point and the library import in a Python without ComfyUI, and the library without torch."""
    code = "import runpy, sys, ltx23_core; runpy.run_path('__init__.py'); raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, env=clean_environment()).returncode == 0


def test_import_in_the_log(host: Host) -> None:
    found = re.search(rf"([\d.]+) seconds: .*{re.escape(host.pack)}$", host.log, re.MULTILINE)
    assert found is not None and float(found[1]) <= 1.0


def test_log_is_clean(start_host: object) -> None:
    """A server of its own, since other tests cause errors on purpose: a good run leaves no complaint."""
    from tests.host import graphs
    host = start_host("clean")
    assert host.client.run(graphs.workflow("text_to_video", "clean", frames=9)).ok
    host.client.free()
    assert host.client.run(graphs.workflow("quick_start", "clean", frames=9)).ok
    log = COMFYUI_DATABASE.sub("", host.log)
    for word in ("IMPORT FAILED", "Traceback", "memory leak", "Warning", "deprecated"):
        assert word not in log, log
