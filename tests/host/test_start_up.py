"""What the pack costs ComfyUI at its start, and that the log is clean after all that the tests did."""
from __future__ import annotations

import json
import re
import subprocess
import sys
from operator import itemgetter

import pytest

from tests.conftest import ROOT, Host
from tests.host.test_object_info import NODES
from tools.host import clean_environment
from tools.install import FRONT_END, Place

# ComfyUI 0.3.75 forgets to close the connection that init_db opens; Python complains when the garbage collector happens
# to find it in another thread. Whether it does depends on nothing but the number of objects made before.
COMFYUI_DATABASE = re.compile(r"^Exception (?:during reset|terminating connection).*\n"
                              r"(?:Traceback.*\n(?:  .*\n)+sqlite3\..*\n|During handling.*\n|\n)+", re.MULTILINE)

IMPORT_SECONDS = 0.15  # beyond torch and ComfyUI's own modules
STARTS = 3  # the first may compile; of the others the quickest counts: what else a machine does only adds to it

# As ComfyUI does it: import under a path-derived name, ask for the nodes, build every schema.
MEASURE = """
import sys, time, json, asyncio, gc, importlib.util
source, pack = sys.argv[1:3]
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, source)
import comfy.options
comfy.options.enable_args_parsing()
import nodes, comfy.sd, comfy_api.latest
before = set(sys.modules)
gc.disable()  # a round of it goes through all that ComfyUI has made: 0.25 s with 0.33.0, whoever happens to set it off
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
    found = []
    compiled = clean_environment({"PYTHONDONTWRITEBYTECODE": ""})  # as a user's Python does
    for _ in range(STARTS):
        done = subprocess.run([str(comfy.python), "-c", MEASURE, str(comfy.source), str(ROOT)], check=False, text=True,
                              capture_output=True, env=compiled, cwd=comfy.source, timeout=500)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return min(found, key=itemgetter("seconds"))


def test_import_time(measured: dict, record_property: pytest.RecordProperty) -> None:
    record_property("import_seconds", measured["seconds"])
    print(f"the pack adds {1000 * measured['seconds']:.0f} ms of CPU time to ComfyUI's start")
    assert measured["nodes"] == len(NODES) and measured["seconds"] < IMPORT_SECONDS


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


OLD = """
import importlib.util, sys, types
for name in ("comfy", "comfy_api"):
    sys.modules[name] = module = types.ModuleType(name)
    module.__path__ = []
    module.__spec__ = importlib.util.spec_from_loader(name, None, is_package=True)
spec = importlib.util.spec_from_file_location("old_pack", "__init__.py", submodule_search_locations=["."])
module = importlib.util.module_from_spec(spec)
sys.modules["old_pack"] = module
spec.loader.exec_module(module)
"""


def test_an_old_comfyui_is_told_to_update() -> None:
    """One from before `comfy_api.latest`: the log has a sentence where it would have a missing module."""
    done = subprocess.run([sys.executable, "-c", OLD], check=False, cwd=ROOT, env=clean_environment(), text=True,
                          capture_output=True)
    assert done.returncode == 1
    assert "need ComfyUI 0.3.75 or newer, and this one is older: update ComfyUI" in done.stderr.splitlines()[-1]


BREAKS = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name.endswith((".nodes.sampling.guidance", ".nodes.conditions.edit")):
            raise ImportError("this host has no such thing any more")
sys.meta_path.insert(0, Broken())
NODE_CLASS_MAPPINGS = {}
"""


def test_one_broken_node_takes_no_other_down(start_host: object) -> None:
    from tests.host import graphs

    host = start_host("broken", packs={"a_breaker": BREAKS})
    nodes = host.client.get("/object_info")
    assert "LTX23Guidance" not in nodes and "LTX23Retake" not in nodes
    assert "LTX23Sampler" in nodes and "LTX23ImageCondition" in nodes
    assert "GuidanceNode, GuidanceRangeNode cannot be loaded and left out" in host.log
    assert host.client.run(graphs.workflow("quick_start", "broken", frames=9)).ok


# What other packs are known to replace, each with something that fails when it is used.
PATCHES = """
import comfy.samplers, comfy.sample, comfy.sd, comfy.utils, comfy.ldm.modules.attention, latent_preview, nodes
def broken(*_, **__):
    raise RuntimeError("a patch of another pack")
for module, names in {
        comfy.samplers: ("calc_cond_batch", "sampling_function", "KSampler", "sample"),
        comfy.sample: ("sample", "sample_custom", "prepare_noise"),
        comfy.ldm.modules.attention: ("optimized_attention", "attention_pytorch", "attention_basic"),
        comfy.sd: ("load_checkpoint_guess_config", "load_lora_for_models", "load_diffusion_model_state_dict"),
        comfy.utils: ("load_torch_file", "common_upscale", "tiled_scale"),
        latent_preview: ("get_previewer", "prepare_callback")}.items():
    for name in names:
        if hasattr(module, name):
            setattr(module, name, broken)
NODE_CLASS_MAPPINGS = {}
"""


def test_patches_of_another_pack_do_not_reach_ours(host: Host, start_host: object) -> None:
    """The same bytes beside a pack that replaces ComfyUI's globals."""
    import av
    import numpy as np

    from tests.host import graphs

    def frames(server: Host) -> np.ndarray:
        run = server.client.run(graphs.workflow("quick_start", "patched", frames=9))
        assert run.ok, run.error
        with av.open(str(server.client.file(run.results()[0]))) as file:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])

    patched = start_host("patched", packs={"a_patcher": PATCHES})
    assert np.array_equal(frames(patched), frames(host))


def test_import_in_the_log(host: Host) -> None:
    found = re.search(rf"([\d.]+) seconds: .*{re.escape(host.pack)}$", host.log, re.MULTILINE)
    assert found is not None and float(found[1]) <= 20, "what it costs is measured above, as time of the processor"


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
