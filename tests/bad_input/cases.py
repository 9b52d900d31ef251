"""All bad inputs and faults, in the order of the table."""

from __future__ import annotations

from tests.bad_input import (
    config_cases,
    fault_cases,
    name_cases,
    request_cases,
    site_cases,
    vllm_cases,
)

CASES = (
    *config_cases.CASES,
    *request_cases.CASES,
    *site_cases.CASES,
    *name_cases.CASES,
    *fault_cases.CASES,
    *vllm_cases.CASES,
)
