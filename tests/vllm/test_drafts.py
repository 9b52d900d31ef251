"""Draft tokens on a real engine: vLLM's counts add up to the tokens that were served."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vllm.conftest import ROOT

pytestmark = pytest.mark.vllm


def test_acceptance_length_is_the_tokens_of_a_step(need_vllm: None, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shape = ROOT / "workflow/models/tiny-llama.json"
    make = [sys.executable, "-m", "tpsweep", "model", str(shape), str(folder)]
    subprocess.run(make, check=True, capture_output=True, timeout=120)
    program = Path(__file__).with_name("drafting.py")
    done = subprocess.run(
        [sys.executable, str(program), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["errors"] == [] and found["refusals"] == []
    assert found["tpot_ms"] > 0
    assert found["made"] > 0 and 1 < found["length"] <= 4
    assert 1 < found["column_served"] <= 4
    # Static batches are sampled: among random tokens there is seldom anything to draft from.
    assert found["column_static"] is None or 1 <= found["column_static"] <= 4
    # Each of the four answers begins with a token of its prefill; a step without a draft gives one.
    drafted = found["made"] * found["length"]
    assert 0.8 * found["served_tokens"] < drafted <= found["served_tokens"] - 4
