"""Static batches of real vLLM: scheduled in one piece, and a stall of the host is seen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.conftest import ROOT

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def stalled(need_vllm: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A cell in which the engine core was stopped for 40 ms in one repeat."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shape = ROOT / "workflow/models/tiny-llama.json"
    command = [sys.executable, "-m", "tpsweep", "model", str(shape), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("stalled.py")), str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_batch_is_scheduled_in_one_piece(stalled: dict[str, Any]) -> None:
    assert stalled["refusals"] == []
    assert stalled["figures"]["batch_held"]
    assert stalled["figures"]["scheduled_instants_samples"] == [1] * 8


def test_every_decode_step_has_its_time(stalled: dict[str, Any]) -> None:
    figures = stalled["figures"]
    steps = figures["step_ms_samples"]
    assert len(steps) == 8 * 127
    # The steps of a repeat are all of its decode: together they are the plain value.
    for repeat, plain in enumerate(figures["tpot_plain_ms_samples"]):
        mean = sum(steps[127 * repeat : 127 * (repeat + 1)]) / 127
        assert mean == pytest.approx(plain, abs=1e-4)


def test_a_stall_is_found_counted_and_does_not_move_the_value(stalled: dict[str, Any]) -> None:
    figures, without = stalled["figures"], stalled["without"]
    repeat, stopped_ms = stalled["stopped_repeat"] - 1, stalled["stopped_ms"]
    assert stopped_ms >= 40
    # A busy machine stalls by itself, in the same step too: this one is on top of that. What it
    # takes above the usual is at least the stop, less the rest of its own step.
    counts = [one["stalls_samples"][repeat] for one in (figures, without)]
    assert 1 <= counts[0] <= counts[1] + 1
    assert figures["stall_ms"] - without["stall_ms"] > stopped_ms - figures["tpot_ms"]
    assert figures["steps_note"].startswith(f"{figures['stalls']} stall")
    # The same samples without the stop: the plain time of the repeat moved by all of it.
    plain = [one["tpot_plain_ms_samples"][repeat] for one in (figures, without)]
    assert plain[0] - plain[1] == pytest.approx(stopped_ms / 127, rel=1e-3)
    print(f"stalled {figures['tpot_ms']:.4f} ms, without the stall {without['tpot_ms']:.4f} ms")
    assert figures["tpot_ms"] == pytest.approx(without["tpot_ms"], rel=0.005)
