"""Snakemake executor: jobs in sessions, through submitit. See the README.

What Snakemake asks of a plugin is imported when it asks: a session's runner imports this package
on its node, and does not wait for Snakemake there.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_PARTS = {"Executor": "executor", "ExecutorSettings": "settings", "common_settings": "settings"}
__all__ = ["Executor", "ExecutorSettings", "common_settings"]


def __getattr__(name: str) -> Any:
    if name not in _PARTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PARTS[name]}", __name__), name)
