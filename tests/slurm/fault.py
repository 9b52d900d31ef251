"""The registry of faults, filled by the modules ``faults_*``."""

from __future__ import annotations

from tests.slurm.case import Fault

FAULTS: dict[str, Fault] = {}
ENDED = r"ended before this job did: [^.\n]*"


def fault(function: Fault) -> Fault:
    """Register a fault under its function's name."""
    FAULTS[function.__name__] = function
    return function
