"""`run.py test`: all layers of the test suite that this machine can run."""
from __future__ import annotations

import contextlib
import os
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.browser import NO_BROWSER, find_browser
from tools.host import clean_environment
from tools.install import FRONT_END, FRONT_END_NEWEST, Place, install

SERVER_LAYERS = ("host", "browser")  # side by side, each with its own server: most of their time is waiting
MOST_WORKERS = 4
TEST_SECONDS = 600  # a single test that hangs must not take the whole run with it
NO_TESTS = 5  # pytest's exit code
COUNTS = ("passed", "failed", "skipped")


def main(place: Place, arguments: list[str]) -> int:
    """Install what is missing and run pytest with the given arguments, or without any the whole suite.

    Returns:
        0 only where tests ran and none failed.
    """
    install(place, ("host", "test", "oracle"), (FRONT_END, FRONT_END_NEWEST), say=lambda text: print(text, flush=True))
    browser = find_browser()
    print(f"Browser layer: {browser or 'skipped. ' + NO_BROWSER}", flush=True)
    if arguments:
        return pytest(place, *arguments)
    return whole_suite(place)


def pytest(place: Place, *arguments: str, threads: str | None = None, log: Path | None = None) -> int:
    """Run pytest in the project's environment, its output into a file where one is named; its exit code."""
    limits = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} if threads else {}
    command = [str(place.python), "-m", "pytest", "--timeout", str(TEST_SECONDS), *arguments]
    with log.open("w", encoding="utf-8") if log else contextlib.nullcontext() as output:
        return subprocess.run(command, check=False, cwd=place.root, env=clean_environment(limits), stdout=output,
                              stderr=subprocess.STDOUT if output else None).returncode


def whole_suite(place: Place) -> int:
    """First what needs no server, on several cores; then the layers with a server. Ends with one line of counts."""
    started = time.monotonic()
    reports = place.host / "reports"
    reports.mkdir(parents=True, exist_ok=True)
    tests = place.root / "tests"
    layers = [layer for layer in SERVER_LAYERS if any((tests / layer).glob("test_*.py"))]
    phases = [run_components(place)]
    with ThreadPoolExecutor(len(SERVER_LAYERS)) as pool:
        running = {layer: pool.submit(run_phase, place, layer, str(tests / layer), log=reports / f"{layer}.log")
                   for layer in layers}
        for layer, phase in running.items():
            phases.append(phase.result())
            print((reports / f"{layer}.log").read_text(encoding="utf-8", errors="replace"), flush=True)
    totals = {key: sum(counts[key] for _, counts in phases) for key in COUNTS}
    print(f"The suite took {time.monotonic() - started:.0f} s.")
    print(", ".join(f"{totals[key]} {key}" for key in COUNTS), flush=True)
    bad = any(code not in (0, NO_TESTS) for code, _ in phases)
    return 1 if bad or totals["failed"] or not totals["passed"] else 0


def run_components(place: Place) -> tuple[int, dict[str, int]]:
    """All tests outside the layers with a server: pytest's exit code and the counts."""
    tests = place.root / "tests"
    workers = min(os.cpu_count() or 1, MOST_WORKERS)
    without_server = [f"--ignore={tests / layer}" for layer in SERVER_LAYERS]
    return run_phase(place, "components", str(tests), *without_server, "-n", str(workers), "--dist", "worksteal")


def run_phase(place: Place, name: str, *arguments: str, log: Path | None = None) -> tuple[int, dict[str, int]]:
    """One run of pytest: its exit code and the counts of its report."""
    report = place.host / "reports" / f"{name}.xml"
    report.unlink(missing_ok=True)
    code = pytest(place, *arguments, f"--junitxml={report}", "-o", "junit_family=xunit1", threads="1", log=log)
    return code, count_tests(report)


def count_tests(report: Path) -> dict[str, int]:
    """Passed, failed (errors are failures) and skipped tests of a JUnit report; one failure where there is none."""
    try:
        suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        return {"passed": 0, "failed": 1, "skipped": 0}
    tests, errors, failures, skipped = (sum(int(suite.get(key, "0")) for suite in suites)
                                        for key in ("tests", "errors", "failures", "skipped"))
    return {"passed": tests - errors - failures - skipped, "failed": errors + failures, "skipped": skipped}
