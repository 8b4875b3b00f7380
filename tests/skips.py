"""No silent skips: every skipped test gives one of a few reasons, and the run says how many there were.

A reason reads ``REASON`` or ``REASON: details``. Any other makes the test fail. "extra missing" is for those who have
not installed every domain; with ``--no-missing-extras`` (scripts/test) or in CI, where everything is installed, it
makes the test fail too.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

REASONS = ("no GPU", "no GL library", "no compiler")
EXTRA_MISSING = "extra missing"
# pytest.importorskip("timm") at the head of a domain's tests
_IMPORTORSKIP = re.compile(r"could not import '[\w.]+'")

_counts = pytest.StashKey[Counter[str]]()


def reason_of(text: str) -> str | None:
    """The entry of the closed list that a skip's text stands for; None if there is none."""
    text = text.removeprefix("Skipped: ").strip()
    if _IMPORTORSKIP.match(text):
        return EXTRA_MISSING
    return next((r for r in (*REASONS, EXTRA_MISSING) if text == r or text.startswith(r + ":")), None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-missing-extras", action="store_true", help="a skip because an extra is missing is a failure")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_counts] = Counter()


def _judge(config: pytest.Config, report: Any) -> None:
    """Count a skip with a good reason; make a failure of any other."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason_of(text)
    all_here = config.getoption("--no-missing-extras") or os.environ.get("CI", "").lower() in ("1", "true", "yes")
    if reason is None:
        wrong = f"a test may be skipped for {', '.join(REASONS)} or {EXTRA_MISSING}, not for: {text}"
    elif reason == EXTRA_MISSING and all_here:
        wrong = f"every extra must be installed here, yet: {text}"
    else:
        config.stash[_counts][reason] += 1
        return
    report.outcome = "failed"
    report.longrepr = wrong


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    _judge(item.config, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    _judge(collector.config, report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash[_counts]
    detail = ", ".join(f"{reason} {n}" for reason, n in sorted(counts.items()))
    terminalreporter.write_line(f"skips: {counts.total()}" + (f" ({detail})" if detail else ""))
