"""Guidance Range, NAG, APG, Solver and Sigmas in the real server, through POST /prompt."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ltx23_core.plan.solver import SCHEDULES, SOLVERS
from tests.conftest import Host
from tests.host import graphs
from tests.host.client import Graph
from tests.host.test_refusals import refusal
from tests.host.test_workflows import load_latent

NAG = {"scale": 20.0, "tau": 5.0, "alpha": 1.0, "streams": "both"}
APG = {"eta": 0.0, "norm_threshold": 5.0, "momentum": -0.5, "streams": "both"}
LTX2 = {"schedule": "ltx2", "steps": 3, "tokens": 4096, "terminal": 0.1, "stretch": True, "max_shift": 2.05,
        "base_shift": 0.95}
SOLVER = {"name": "euler", "eta": -1.0, "s_noise": 1.0, "gamma": 2.0}
DISTILLED = {"recipe": "distilled_one_stage", "steps": 0, "distilled_lora": graphs.LORA}


class Bench:
    """One graph with a plain Sampler and others that differ from it by what is linked; latents by name."""

    def __init__(self, host: Host, **values: Any) -> None:
        self.host = host
        graph = graphs.workflow("quick_start", "guidance", **{"frames": 9, "width": 64, **values})
        decoder, self.sampler = (graphs.node_id(graph, name) for name in ("LTX23DecodeToFile", "LTX23Sampler"))
        self.graph: Graph = {key: node for key, node in graph.items() if key != decoder}
        self.sample("plain")

    def add(self, key: str, class_type: str, **inputs: Any) -> list:
        self.graph[key] = {"class_type": class_type, "inputs": inputs}
        return [key, 0]

    def sample(self, key: str, **links: Any) -> None:
        node = self.graph[self.sampler]
        sampler = self.add(f"{key} sampler", "LTX23Sampler", **{**node["inputs"], **links})
        self.add(key, "SaveLatent", samples=sampler, filename_prefix=f"latent/guidance {key}")

    def run(self) -> dict[str, np.ndarray]:
        del self.graph[self.sampler]
        run = self.host.client.run(self.graph)
        assert run.ok, run.error
        return {key: load_latent(self.host.client.file(ui["latents"][0])) for key, ui in run.outputs.items()
                if "latents" in ui}


def differ(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one - other).max() > 1e-3)


def test_ranges_and_options_on_the_recipes_own_values(host: Host) -> None:
    bench = Bench(host)
    bench.sample("whole", guidance=bench.add("r1", "LTX23GuidanceRange", from_sigma=0.0, to_sigma=1.0))
    bench.sample("late", guidance=bench.add("r2", "LTX23GuidanceRange", from_sigma=0.0, to_sigma=0.9))
    bench.sample("chained", guidance=bench.add("r3", "LTX23GuidanceRange", from_sigma=0.9, to_sigma=1.0,
                                               otherwise=["r2", 0]))
    apg = bench.add("apg", "LTX23APG", **APG)
    bench.sample("with apg", guidance=apg)
    bench.sample("both", guidance=bench.add("nag", "LTX23NAG", guidance=apg, **NAG))
    found = bench.run()
    assert np.array_equal(found["whole"], found["plain"]), "the recipe's values over the whole schedule"
    assert differ(found["late"], found["plain"])
    assert np.array_equal(found["chained"], found["plain"]), "two ranges that cover the schedule"
    assert differ(found["with apg"], found["plain"]) and differ(found["both"], found["with apg"])


def test_nag_in_a_distilled_recipe(host: Host) -> None:
    bench = Bench(host, **DISTILLED, negative_prompt="a boat")
    bench.sample("off", guidance=bench.add("nag off", "LTX23NAG", **{**NAG, "scale": 1.0}))
    pushed = bench.add("nag on", "LTX23NAG", **NAG)
    bench.sample("on", guidance=pushed)
    bench.sample("other", guidance=pushed, negative_prompt="a lighthouse")
    bench.sample("unseen", negative_prompt="a lighthouse")
    bench.sample("with apg", guidance=bench.add("apg", "LTX23APG", **APG))
    found = bench.run()
    assert np.abs(found["off"] - found["plain"]).max() < 1e-4
    assert differ(found["on"], found["plain"]) and differ(found["other"], found["on"]), "the negative prompt acts"
    assert np.array_equal(found["unseen"], found["plain"]) and np.array_equal(found["with apg"], found["plain"])


def test_skipped_steps_and_cfg_star(host: Host) -> None:
    bench = Bench(host)
    strengths = {f"{what}_{name}": value for what in ("video", "audio") for name, value in
                 {"cfg": 3.0, "stg": 0.0, "modality": 1.0, "rescale": 0.0, "stg_blocks": ""}.items()}
    bench.sample("old", guidance=bench.add("g1", "LTX23Guidance", **strengths))
    more = {"video_skip_step": 1, "audio_skip_step": 1}
    bench.sample("skip", guidance=bench.add("g2", "LTX23Guidance", **strengths, **more))
    bench.sample("star", guidance=bench.add("g3", "LTX23Guidance", **strengths, video_cfg_star=True))
    found = bench.run()
    assert differ(found["skip"], found["old"]) and differ(found["star"], found["old"])


def test_every_solver(host: Host) -> None:
    bench = Bench(host)
    for name in SOLVERS:
        bench.sample(name, solver=bench.add(f"solver {name}", "LTX23Solver", **{**SOLVER, "name": name}))
    same = {"name": "gradient_estimation", "gamma": 1.0}
    bench.sample("gamma 1", solver=bench.add("ge", "LTX23Solver", **{**SOLVER, **same}))
    still = {"name": "euler_ancestral", "eta": 0.0}
    bench.sample("eta 0", solver=bench.add("ea", "LTX23Solver", **{**SOLVER, **still}))
    found = bench.run()
    assert np.array_equal(found["euler"], found["plain"])
    assert all(differ(found[name], found["plain"]) for name in SOLVERS if name != "euler")
    assert np.allclose(found["gamma 1"], found["plain"], atol=1e-4)
    assert np.allclose(found["eta 0"], found["plain"], atol=1e-4)


def test_sigmas_are_those_of_comfyui(host: Host) -> None:
    """Ours in a core node, a core scheduler's in ours: LTXVScheduler without a latent counts 4096 tokens too."""
    bench = Bench(host)
    ours = bench.add("ours", "LTX23Sigmas", **LTX2)
    bench.sample("same", sigmas=ours)
    native = {"steps": 3, "max_shift": 2.05, "base_shift": 0.95, "stretch": True, "terminal": 0.1}
    bench.sample("native", sigmas=bench.add("theirs", "LTXVScheduler", **native))
    split = bench.add("split", "SplitSigmas", sigmas=ours, step=1)
    bench.sample("first step", sigmas=split)
    bench.sample("other", sigmas=bench.add("lq", "LTX23Sigmas", **{**LTX2, "schedule": "linear_quadratic"}))
    found = bench.run()
    assert np.array_equal(found["same"], found["plain"])
    assert np.allclose(found["native"], found["plain"], atol=1e-3)
    assert differ(found["first step"], found["plain"]) and differ(found["other"], found["plain"])


def test_lists_are_the_librarys(host: Host) -> None:
    def options(node: str, key: str) -> list[str]:
        return host.client.node_info(node)["input"]["required"][key][1]["options"]

    assert options("LTX23Solver", "name") == list(SOLVERS) and options("LTX23Sigmas", "schedule") == list(SCHEDULES)


@pytest.mark.parametrize(("node", "inputs", "words"), [
    ("LTX23GuidanceRange", {"from_sigma": 0.8, "to_sigma": 0.4}, "from 0.8 to 0.4")])
def test_refused_before_the_run(host: Host, node: str, inputs: dict, words: str) -> None:
    bench = Bench(host)
    bench.sample("bad", guidance=bench.add("bad node", node, **inputs))
    del bench.graph[bench.sampler]
    details = refusal(host, bench.graph)
    assert list(details) == [node] and words in details[node][0]
