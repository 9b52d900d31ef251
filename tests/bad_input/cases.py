"""All bad inputs and faults, in the order of the table."""

from __future__ import annotations

from tests.bad_input import config_cases

CASES = (*config_cases.CASES,)
