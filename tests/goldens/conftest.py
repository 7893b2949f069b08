"""Shows the error beside the tolerance of every output also where pytest captures what tests print."""
from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = terminalreporter.stats.get("passed", [])
    reports = [report for report in passed if "goldens/test_cases.py" in report.nodeid and report.capstdout]
    if reports:
        terminalreporter.section("goldens: error and tolerance of each output, relative to its largest value")
        for report in reports:
            terminalreporter.write(report.capstdout)
