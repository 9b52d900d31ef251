"""What all tests share: on CI, a real part that is missing is a failure, not a skip."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest

# Started in the background of a shell, tests would hand on that Ctrl-C is ignored; some type it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_PARTS = ("vllm", "registry", "slurm", "browser")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with real parts first: they take minutes, and workers must not wait for the last."""
    items.sort(key=lambda item: not any(map(item.get_closest_marker, REAL_PARTS)))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.CallInfo[None], None]:
    """Turn skips of tests with real parts into failures where ``CI=true``."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    real = [name for name in REAL_PARTS if item.get_closest_marker(name)]
    if report.skipped and real and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped on CI, where {real[0]} tests must run: {report.longrepr}"
