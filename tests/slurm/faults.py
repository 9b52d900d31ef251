"""Faults on a real Slurm. Each is a function of a ``Case``; its docstring is its line in the table.

It starts a workflow, breaks something, and notes which cells were cut off unfinished
(``Case.cut_off``) or done of what is no longer wanted (``Case.outdated``), what Slurm said and what
the user saw. ``case.judge`` does the rest. In the order of the table:
"""

from __future__ import annotations

from tests.slurm import (  # noqa: F401 (each registers its own)
    faults_basic,
    faults_earlier,
    faults_environment,
    faults_files,
    faults_nodes,
    faults_queue,
)
from tests.slurm.fault import FAULTS

__all__ = ["FAULTS"]
