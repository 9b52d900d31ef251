"""Which latency cell a capture is compared with: one rule for the tables and `tpsweep comm`."""

from __future__ import annotations

from typing import Any

import pytest

from tpsweep.core import capture_match, schema

CAPTURE: dict[str, Any] = {
    **dict.fromkeys(schema.IDENTITY_NAMES, "same"),
    "workload": "capture",
    "cell_id": "a",
    "run": 0,
    "output_len": 16,
    "tp": 2,
}


def test_run_output_length_and_workload_are_free() -> None:
    latency = {**CAPTURE, "workload": "latency", "cell_id": "b", "run": 3, "output_len": 128}
    assert capture_match.mismatch(CAPTURE, latency) is None
    assert capture_match.key(CAPTURE) == capture_match.key(latency)


@pytest.mark.parametrize("name", capture_match.COMPARED)
def test_nothing_else_is(name: str) -> None:
    latency = {**CAPTURE, name: "other"}
    assert capture_match.mismatch(CAPTURE, latency) == name
    assert capture_match.key(CAPTURE) != capture_match.key(latency)


@pytest.mark.parametrize("name", capture_match.COMPARED)
def test_what_a_foreign_capture_does_not_say_agrees_with_anything(name: str) -> None:
    known = {key: value for key, value in CAPTURE.items() if key != name}
    assert capture_match.mismatch(known, {**CAPTURE, name: "other"}) is None
