"""When ``--retries 0`` was typed, and when it is only Snakemake's default."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from snakemake_executor_plugin_submitit.retries import drop_unwanted


@pytest.mark.parametrize(
    ("line", "retries", "left"),
    [
        ("--retries 0 --jobs 4", 0, 0),
        ("-n --retries=0 all", 0, 0),
        ("--restart-times 0", 0, 0),
        ("-T0", 0, 0),
        ("--jobs 4 all", 0, 2),
        ("--retries 1", 1, 2),
        ("--retries 0 --retries 1", 1, 2),
        ("--retries nonsense", 0, 2),
        ("--retries", 0, 2),
    ],
)
def test_rules_keep_their_own_unless_none_was_typed(line: str, retries: int, left: int) -> None:
    rule = SimpleNamespace(restart_times=2)
    settings = SimpleNamespace(retries=retries)
    workflow = SimpleNamespace(execution_settings=settings, rules=[rule])
    assert drop_unwanted(workflow, line.split()) == (left == 0)
    assert rule.restart_times == left
