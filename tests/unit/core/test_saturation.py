"""Saturated or not, from rows: old ones are judged again from their samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tpsweep.core.saturation import NO, NOT_SHOWN, YES, Seed, judge, judge_row
from tpsweep.results.load import load, records

ROOT = Path(__file__).parents[3]


def row(grows: float = 0.0, **changes: Any) -> dict[str, Any]:
    """Three seeds of 200 requests at 4/s; their TTFT grows by so many seconds per second."""
    waits = 1e3 * np.tile(0.02 + grows * np.arange(200) / 4, 3)
    found = {
        "saturated": None,
        "request_rate": 4.0,
        "max_concurrency": None,
        "num_prompts": 200,
        "repeats": 3,
        "ttft_ms_samples": waits,
        "tpot_ms_samples": np.full(600, 5.0),
        "e2e_ms_samples": waits + 500,
    }
    return {**found, **changes}


def test_an_old_row_is_judged_by_its_samples() -> None:
    assert judge_row(row()) == NO
    assert judge_row(row(0.1)) == YES
    assert judge_row(row(tpot_ms_samples=None)) == NO
    assert judge_row(row(saturated=NOT_SHOWN)) == NOT_SHOWN


def test_lengths_that_differ_are_no_growth() -> None:
    """A long answer takes longer: what counts is an answer of the usual length."""
    tokens = np.tile(np.where(np.arange(200) < 100, 50, 150), 3)
    found = row()
    whole = found["ttft_ms_samples"] + 5.0 * tokens
    assert judge_row({**found, "e2e_ms_samples": whole}) == NO
    assert judge_row({**found, "e2e_ms_samples": whole, "tpot_ms_samples": None}) == NOT_SHOWN


def test_what_the_samples_do_not_tell_is_not_shown() -> None:
    assert judge_row(row(ttft_ms_samples=None)) == NOT_SHOWN
    assert judge_row(row(max_concurrency=8)) == NOT_SHOWN
    assert judge_row(row(request_rate=float("inf"))) == YES
    assert judge_row(row(request_rate=float("inf"), max_concurrency=8)) is None


@pytest.mark.parametrize("requests", [0, 1, 7, 15])
def test_few_requests_show_nothing(requests: int) -> None:
    times = np.arange(float(requests))
    assert judge([Seed(times, times, times)] * 3).verdict == NOT_SHOWN


def test_the_published_load_near_capacity_is_not_shown() -> None:
    """64/s of 65.8 that one H200 serves: TTFT doubles over the run."""
    rows = records(load(ROOT / "results/published/h200x2").rows)
    told = {r["request_rate"]: judge_row(r) for r in rows if r["workload"] == "serve"}
    assert told == {4.0: NO, 16.0: NO, 32.0: NOT_SHOWN, 64.0: NOT_SHOWN, 128.0: YES}


def test_booleans_of_the_older_rule_are_forgotten() -> None:
    place = ROOT / "results/published/h200x2"
    old = next((place / "cells/serve").rglob("*rate64*.parquet"))
    assert pq.ParquetFile(old).schema_arrow.field("saturated").type == pa.bool_()
    (row,) = [r for r in records(load(place).rows) if r["request_rate"] == 64]
    assert row["saturated"] is None


def test_a_server_that_is_not_full_yet_shows_nothing() -> None:
    """256 slots of 1 s at 270/s, 1.05 of capacity: in 1.8 s nobody has waited yet."""
    arrival = np.arange(480) / 270
    seed = Seed(arrival, np.full(480, 0.02), np.full(480, 1.0))
    assert judge([seed] * 3).verdict == NOT_SHOWN
